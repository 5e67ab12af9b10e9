import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from scadles.data import EndlessShard, FiniteShard, iid_shards
from scadles.data.shards import CACHED_PASSES
from scadles.errors import DataError


@settings(deadline=None)
@given(st.integers(1, 500), st.integers(1, 40), st.integers(0, 3))
def test_shards_are_disjoint_complete_and_equal(train_size, devices, seed):
    if train_size < devices:
        with pytest.raises(DataError, match=f"{train_size} training samples .* {devices} devices"):
            iid_shards(train_size, devices, seed)
        return
    parts = [shard.part for shard in iid_shards(train_size, devices, seed)]
    assert sorted(np.concatenate(parts).tolist()) == list(range(train_size))
    assert max(map(len, parts)) - min(map(len, parts)) <= 1


@settings(deadline=None)
@given(st.integers(1, 30), st.lists(st.tuples(st.integers(0, 200), st.integers(0, 80)), min_size=1, max_size=5))
def test_offsets_mean_the_same_whatever_the_order_of_calls(size, calls):
    part = np.arange(size) * 7
    reference = FiniteShard(part, 0, 1).indices(np.arange(300))
    shard = FiniteShard(part, 0, 1)
    for first, count in calls:
        np.testing.assert_array_equal(shard.indices(np.arange(first, first + count)), reference[first : first + count])
        assert len(shard._passes) <= CACHED_PASSES


def test_each_pass_brings_every_sample_in_another_order():
    part = np.arange(50) + 1000
    passes = FiniteShard(part, 0, 0).indices(np.arange(200)).reshape(4, 50)
    assert all(sorted(one) == part.tolist() for one in passes.tolist())
    assert len({tuple(one) for one in passes.tolist()}) == 4


def test_seed_and_device_decide():
    part = np.arange(50)
    orders = [tuple(FiniteShard(part, seed, device).indices(part)) for seed, device in ((0, 0), (0, 1), (1, 0))]
    assert len(set(orders)) == 3
    assert iid_shards(50, 2, 0)[0].part.tolist() != iid_shards(50, 2, 1)[0].part.tolist()


def test_an_endless_data_set_is_dealt_in_turn():
    shards = iid_shards(None, 3, seed=0)
    dealt = np.stack([shard.indices(np.arange(4)) for shard in shards], axis=1)
    assert dealt.ravel().tolist() == list(range(12))
    assert EndlessShard(2, 1000).indices(np.array([10**12])).tolist() == [10**15 + 2]


def test_an_empty_part_is_refused():
    with pytest.raises(DataError, match="device 4 has no samples"):
        FiniteShard(np.empty(0, dtype=np.int64), 0, 4)
