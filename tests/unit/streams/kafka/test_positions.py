import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from scadles.streams.kafka.positions import ManyPartitions

pieces = st.lists(
    st.tuples(st.integers(0, 2), st.integers(1, 9), st.integers(0, 3), st.sampled_from([0, 1, 2])),
    max_size=30,
)


@given(pieces, st.data())
def test_a_position_knows_how_many_records_of_each_partition_lie_before_it(plan, data):
    starts = {0: 0, 1: 100, 2: 7}
    places = ManyPartitions(0, starts)
    order = []  # of each record: partition, and the offset behind it
    at = dict(starts)
    for partition, records, gap, apart in plan:
        first = at[partition] + gap
        if apart:
            offsets = range(first, first + records * apart, apart)
            positions = places.of(partition, np.array(offsets))
            assert positions.tolist() == list(range(len(order), len(order) + records))
            order += [(partition, offset + 1) for offset in offsets]
            at[partition] = offsets[-1] + 1
        else:
            places.passed(partition, records, first + records)
            order += [(partition, None)] * records
            at[partition] = first + records
    assert places.position == len(order)
    assert places.at(len(order)) == at

    inside = [i for i in range(len(order) + 1) if i == len(order) or order[i][1] is not None]
    first, second = sorted(data.draw(st.tuples(st.sampled_from(inside), st.sampled_from(inside))))
    before = places.at(second)
    places.forget(first)
    assert places.at(second) == before
    for partition in starts:
        behind = [end for number, end in order[second:] if number == partition and end is not None]
        ahead = [end for number, end in order[:second] if number == partition and end is not None]
        assert not behind or before[partition] < behind[0]
        assert not ahead or before[partition] >= ahead[-1]


def test_records_without_holes_are_not_remembered_one_by_one():
    places = ManyPartitions(0, {0: 0, 1: 0})
    for first in range(0, 100_000, 1000):
        places.of(first // 1000 % 2, np.arange(first, first + 1000))
    assert all(isinstance(piece.offsets, range) for piece in places._pieces)
    assert places.at(1500) == {0: 1000, 1: 1500}
