import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from scadles.data import DealtPartition, EndlessPartition, SharedPartition, make_partition
from scadles.data.partition import CACHED_PASSES
from scadles.errors import DataError


def of(partition, device, offsets):
    return partition.indices(np.array([device]), np.asarray(offsets))


class TestDealt:
    @settings(deadline=None)
    @given(st.integers(1, 500), st.integers(1, 40), st.integers(0, 3))
    def test_parts_are_disjoint_complete_and_equal(self, train_size, devices, seed):
        if train_size < devices:
            with pytest.raises(DataError, match=rf"{train_size} training samples .* {devices} devices.*shared"):
                DealtPartition(train_size, devices, seed)
            return
        dealt = DealtPartition(train_size, devices, seed)
        parts = [dealt.part(device) for device in range(devices)]
        assert sorted(np.concatenate(parts).tolist()) == list(range(train_size))
        assert max(map(len, parts)) - min(map(len, parts)) <= 1

    @settings(deadline=None)
    @given(st.integers(1, 30), st.lists(st.tuples(st.integers(0, 200), st.integers(0, 80)), min_size=1, max_size=5))
    def test_offsets_mean_the_same_whatever_the_order_of_calls(self, size, calls):
        reference = of(DealtPartition(2 * size, 2, 0), 1, np.arange(300))
        dealt = DealtPartition(2 * size, 2, 0)
        for first, count in calls:
            offsets = np.arange(first, first + count)
            np.testing.assert_array_equal(of(dealt, 1, offsets), reference[first : first + count])
            assert all(len(kept) <= CACHED_PASSES for kept in dealt._passes.values())

    def test_each_pass_brings_every_sample_in_another_order(self):
        dealt = DealtPartition(100, 2, 0)
        passes = of(dealt, 0, np.arange(200)).reshape(4, 50)
        assert all(sorted(one) == sorted(dealt.part(0).tolist()) for one in passes.tolist())
        assert len({tuple(one) for one in passes.tolist()}) == 4

    def test_seed_and_device_decide(self):
        orders = [tuple(of(DealtPartition(50, 1, seed), 0, np.arange(50))) for seed in (0, 1)]
        assert len(set(orders)) == 2
        # the two devices' parts are shuffled by generators of their own
        dealt = DealtPartition(100, 2, 0)
        ranks = [np.argsort(dealt.part(device)).argsort() for device in (0, 1)]
        shuffles = [tuple(np.searchsorted(np.sort(dealt.part(d)), of(dealt, d, np.arange(50)))) for d in (0, 1)]
        assert shuffles[0] != shuffles[1]
        assert not np.array_equal(*ranks)


def test_an_endless_data_set_is_dealt_in_turn():
    endless = make_partition("iid", None, 3, seed=0)
    dealt = np.stack([of(endless, device, np.arange(4)) for device in range(3)], axis=1)
    assert dealt.ravel().tolist() == list(range(12))
    assert of(EndlessPartition(1000), 2, [10**12]).tolist() == [10**15 + 2]


class TestShared:
    def test_draws_are_uniform_and_independent(self):
        shared = SharedPartition(100, seed=0)
        devices = np.repeat(np.arange(200), 500)
        drawn = shared.indices(devices, np.tile(np.arange(500), 200))
        counts = np.bincount(drawn, minlength=100)
        chi_square = float(((counts - 1000) ** 2 / 1000).sum())
        assert 60 < chi_square < 150  # 99 degrees of freedom
        rows = drawn.reshape(200, 500).astype(float)
        assert abs(np.corrcoef(rows[:-1].ravel(), rows[1:].ravel())[0, 1]) < 0.02
        assert abs(np.corrcoef(rows[:, :-1].ravel(), rows[:, 1:].ravel())[0, 1]) < 0.02

    def test_seeds_differ(self):
        assert not np.array_equal(*(of(SharedPartition(100, seed), 0, np.arange(50)) for seed in (0, 1)))

    def test_more_devices_than_samples(self):
        drawn = make_partition("shared", 3, 10_000, seed=0).indices(np.arange(10_000), np.zeros(10_000, np.int64))
        assert set(drawn.tolist()) == {0, 1, 2}


@pytest.mark.parametrize("partition", [DealtPartition(97, 5, 1), EndlessPartition(5), SharedPartition(97, 1)])
def test_many_devices_at_once_are_each_alone(partition):
    devices = np.repeat([3, 0, 4, 1], [5, 1, 40, 7])
    offsets = np.concatenate([np.arange(30, 35), [7], np.arange(40), np.arange(100, 107)])
    together = partition.indices(devices, offsets)
    alone = np.concatenate([of(partition, device, offsets[devices == device]) for device in (3, 0, 4, 1)])
    np.testing.assert_array_equal(together, alone)
    assert len(partition.indices(np.empty(0, np.int64), np.empty(0, np.int64))) == 0
