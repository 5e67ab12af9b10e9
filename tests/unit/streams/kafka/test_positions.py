import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from scadles.streams.kafka.positions import ManyPartitions

pieces = st.lists(
    st.tuples(st.integers(0, 2), st.integers(1, 9), st.integers(0, 3), st.booleans()),
    max_size=30,
)


@given(pieces, st.data())
def test_a_position_knows_how_many_records_of_each_partition_lie_before_it(plan, data):
    starts = {0: 0, 1: 100, 2: 7}
    places = ManyPartitions(0, starts)
    order = []  # of each record: partition, and the offset behind it
    at = dict(starts)
    for partition, records, gap, seen in plan:
        first = at[partition] + gap
        if seen:
            positions = places.of(partition, np.arange(first, first + records))
            assert positions.tolist() == list(range(len(order), len(order) + records))
            order += [(partition, offset + 1) for offset in range(first, first + records)]
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
