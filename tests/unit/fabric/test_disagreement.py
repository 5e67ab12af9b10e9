"""Devices that bring other things to a collective than most do, and numbers that are not to be added up."""

import numpy as np
import pytest

from scadles.fabric.hub.collectives import Collective, FoldError, problem_of
from scadles.fabric.hub.frames import Frame, Kind
from scadles.fabric.hub.rooms import Rooms

MEMBERS = (0, 1, 2)


def bring(collective, seat, values, kind=Kind.REDUCE):
    content = np.full(values, seat + 1.0, dtype=np.float32).tobytes()
    room = Rooms().take()
    room[: len(content)][:] = content
    return collective.bring(seat, Frame(kind, seat=seat, total=len(content), length=len(content)), room)


def bring_in(collective, order, sizes, kind):
    for seat in order:
        assert bring(collective, seat, sizes[seat], kind) == ([], False)


def first_of(values, kind=Kind.REDUCE):
    return Frame(kind, total=4 * values, length=4 * values)


@pytest.mark.parametrize("order", [(0, 1, 2), (1, 0, 2), (1, 2, 0)])
@pytest.mark.parametrize("kind", [Kind.REDUCE, Kind.STEP, Kind.GATHER])
def test_one_that_differs_is_left_out_whoever_came_first(order, kind):
    """Device 0 brings two numbers, the others three."""
    sizes = {0: 2, 1: 3, 2: 3}
    collective = Collective(first_of(sizes[order[0]], kind), MEMBERS, 3)
    with pytest.raises(FoldError, match=r"device 0 brings 8 bytes to a .* where others bring 12 to a") as caught:
        bring_in(collective, order, sizes, kind)
    assert caught.value.seat == 0


@pytest.mark.parametrize("kind", [Kind.REDUCE, Kind.STEP, Kind.GATHER])
def test_the_one_that_differs_may_begin_a_collective_and_bring_to_it_last(kind):
    """Threads overtake each other between the one and the other."""
    collective = Collective(first_of(2, kind), MEMBERS, 3)
    bring_in(collective, (1, 2, 1), {1: 3, 2: 3}, kind)
    with pytest.raises(FoldError, match=r"device 0 brings 8 bytes to a .* where others bring 12 to a") as caught:
        bring(collective, 0, 2, kind)
    assert caught.value.seat == 0


def test_a_kind_counts_as_well_as_a_length():
    collective = Collective(first_of(2, Kind.STEP), MEMBERS, 3)
    bring(collective, 2, 2, Kind.STEP)
    bring(collective, 0, 2)
    with pytest.raises(FoldError, match="device 2 brings 8 bytes to a step where others bring 8 to a reduce"):
        bring(collective, 1, 2)


def test_of_two_the_later_one_is_left_out():
    collective = Collective(first_of(2), (0, 1), 2)
    bring(collective, 0, 2)
    with pytest.raises(FoldError) as caught:
        bring(collective, 1, 3)
    assert caught.value.seat == 1


def test_two_kinds_from_one_device():
    collective = Collective(first_of(2), MEMBERS, 3)
    bring(collective, 1, 2)
    with pytest.raises(FoldError, match="two kinds of messages") as caught:
        bring(collective, 1, 3)
    assert caught.value.seat == 1


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_numbers_that_are_none_are_found(dtype):
    values = np.full(1000, 3e37, dtype=dtype)  # their squares overflow a float32
    assert problem_of(values) == ""
    for bad in (np.nan, np.inf, -np.inf):
        values[500] = bad
        assert "NaN or infinity" in problem_of(values)


def test_other_numbers_are_always_finite():
    assert problem_of(np.arange(5)) == problem_of(np.zeros(3, dtype=np.uint8)) == ""
