"""Steps of several messages at a hub: those that a new view cuts in two are taken again, and nobody is turned out."""

from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack

import pytest
import torch

from scadles.errors import MembershipChangedError
from scadles.fabric.hub import Hub, HubFabric, Journal
from scadles.testing.elastic import come_in

pytestmark = pytest.mark.timeout(120)

LIMIT_S = 60.0


@pytest.fixture
def meet():
    """Return a hub, what it has said, its journal, and a way to connect devices, which come in one after the other."""
    said = []
    with ExitStack() as closing:
        journal = Journal()
        hub = Hub("127.0.0.1", 0, 4, least=3, journal=journal, say=said.append)
        closing.callback(hub.close)
        hub.start()

        def connect(name):
            fabric = HubFabric(*hub.address, name=name, deadline_s=LIMIT_S)
            closing.callback(fabric.close)
            return fabric

        yield hub, said, journal, connect


def together(fabrics, work):
    with ThreadPoolExecutor(len(fabrics)) as pool:
        return list(pool.map(work, fabrics, timeout=LIMIT_S))


def total(fabric):
    bucket = torch.ones(3)
    fabric.reduce(bucket, "a sum").wait()
    return bucket[0].item()


def first_message(fabric, step):
    """Note a step, and take part in the first of its messages, with which the hub takes it for whole."""
    fabric.note(step, {"position": step})
    return total(fabric)


def three_at_step_4(connect):
    fabrics = [connect(f"cam-{number}") for number in range(3)]
    together(fabrics, lambda fabric: come_in(fabric, 0))
    for step in (1, 2, 3):
        together(fabrics, lambda fabric, step=step: (first_message(fabric, step), total(fabric)))
    return fabrics


def both_messages_again(fabric):
    """Find step 4 cut in two by a new view, and take it again."""
    with pytest.raises(MembershipChangedError):
        total(fabric)
    fabric.enter(3)
    return first_message(fabric, 4), total(fabric)


def test_one_is_let_in_between_two_messages_of_a_step(meet):
    hub, said, journal, connect = meet
    fabrics = three_at_step_4(connect)
    late = connect("late")
    with ThreadPoolExecutor(1) as pool:
        coming = pool.submit(late.enter, 0)
        while not hub._views.admits:  # the hub has heard that it wishes to come
            coming.exception(0) if coming.done() else None
        assert together(fabrics, lambda fabric: first_message(fabric, 4)) == [3.0] * 3
        coming.result(LIMIT_S)

    assert together(fabrics, both_messages_again) == [(3.0, 3.0)] * 3
    assert hub.refused == 0
    assert not any("has left" in line for line in said)
    assert (hub._views.step, journal.newest) == (5, 4)


def test_one_is_lost_between_two_messages_of_a_step(meet):
    hub, _, journal, connect = meet
    fabrics = three_at_step_4(connect)
    hub.need(2)
    together(fabrics, lambda fabric: first_message(fabric, 4))
    fabrics.pop().close()

    assert together(fabrics, both_messages_again) == [(2.0, 2.0)] * 2
    assert hub.refused == 0
    assert (hub._views.step, journal.newest) == (5, 4)
    assert journal.of("cam-2")[0] == 3  # its step 4 was not whole


@pytest.mark.parametrize("liar", [0, 1, 2])
@pytest.mark.parametrize("whole", [True, False], ids=["a whole step", "half a step"])
def test_in_a_new_view_the_step_is_the_one_that_most_devices_begin(meet, liar, whole):
    hub, said, journal, connect = meet
    fabrics = three_at_step_4(connect)
    hub.need(2)
    steps = {True: (5, 4), False: (4, 5)}[whole]  # what is next, and what a liar says of it
    together(fabrics, lambda fabric: (first_message(fabric, 4), total(fabric) if whole else None))
    with hub._views.lock:
        hub._views.change(admit=False)  # as where somebody is lost

    def begin(fabric):
        while True:  # it may enter a view that is over already
            try:
                fabric.enter(steps[0] - 1)
                fabric.note(steps[fabric is fabrics[liar]], {})
                return total(fabric)
            except MembershipChangedError as error:
                if error.detached:
                    return None

    outcomes = together(fabrics, begin)
    assert outcomes.pop(liar) is None
    assert outcomes == [2.0, 2.0]
    [line] = [line for line in said if "has left: what it sent was refused" in line]
    assert fabrics[liar]._name in line
    assert journal.newest == steps[0]
