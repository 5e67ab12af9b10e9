import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from scadles.device.buffer import Buffer, Ledger, Persistence, Truncation
from scadles.errors import RunError
from scadles.records import Records


def records(start, count):
    offsets = np.arange(start, start + count)
    return Records(offsets, offsets / 10.0, torch.from_numpy(offsets).float()[:, None], torch.from_numpy(offsets % 3))


operations = st.lists(
    st.one_of(
        st.tuples(st.sampled_from(["add", "take", "drop"]), st.integers(0, 30)),
        st.tuples(st.just("take and put back"), st.integers(0, 30)),
    ),
    max_size=40,
)


@given(st.integers(1, 40), operations)
def test_a_buffer_is_a_list_that_forgets_its_oldest(capacity, todo):
    buffer, held, arrived = Buffer(capacity), [], 0
    for kind, count in todo:
        if kind == "add":
            dropped = buffer.add(records(arrived, count))
            held += range(arrived, arrived + count)
            arrived += count
            assert dropped == max(0, len(held) - capacity)
            held = held[dropped:]
        elif kind == "take":
            taken = buffer.take(count)
            expected, held = held[:count], held[count:]
            assert taken.offsets.tolist() == taken.x.flatten().tolist() == expected
        elif kind == "drop":
            assert buffer.drop_oldest(count) == min(count, len(held))
            held = held[count:]
        else:
            buffer.put_back(buffer.take(count))
        assert len(buffer) == len(held) == capacity - buffer.room <= capacity
        assert buffer.first_offset == (held[0] if held else None)
    assert buffer.take(capacity).offsets.tolist() == held


def test_adding_copies_nothing():
    buffer, chunk = Buffer(10), records(0, 4)
    buffer.add(chunk)
    assert buffer.take(3).x.data_ptr() == chunk.x.data_ptr()


def test_persistence_keeps_everything_at_its_source():
    assert Persistence().keep(38.0) is None
    assert Persistence.drops is False


@pytest.mark.parametrize(
    ("window_s", "rate_hz", "kept"), [(1.0, 38.2, 38), (2.0, 38.2, 76), (1.0, 0.0, 1), (0.5, 1.0, 1), (1.0, 0.6, 1)]
)
def test_truncation_keeps_a_window_but_never_nothing(window_s, rate_hz, kept):
    assert Truncation(window_s).keep(rate_hz) == kept
    assert Truncation.drops is True


def test_the_ledger_tells_what_is_missing():
    Ledger(received=10, trained=4, dropped=3, held=2, rejected=1, injected=50).check()
    with pytest.raises(RunError, match=r"does not balance.*received=11.*trained=4"):
        Ledger(received=11, trained=4, dropped=3, held=2, rejected=1).check()


def test_the_ledger_survives_as_a_dict():
    ledger = Ledger(received=10, trained=4, dropped=3, held=2, rejected=1, injected=5)
    assert Ledger(**ledger.as_dict()) == ledger
