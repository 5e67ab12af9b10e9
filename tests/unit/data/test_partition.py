import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from scadles.config import DataConfig
from scadles.data import (
    ArrayDataset,
    DealtPartition,
    DriftingPartition,
    EndlessPartition,
    SharedPartition,
    SyntheticImages,
    make_partition,
)
from scadles.data.partition.deals import deal_evenly
from scadles.data.partition.dealt import CACHED_PASSES
from scadles.errors import ConfigError, DataError
from scadles.targets import TargetType

CLASSES = 10


def of(partition, device, offsets):
    return partition.indices(np.array([device]), np.asarray(offsets))


def data_set(labels, classes=CLASSES):
    labels = np.asarray(labels)
    x = np.zeros((len(labels), 1, 1, 1), dtype=np.uint8)
    return ArrayDataset("made up", (x, labels), (x[:1], labels[:1]), classes)


def dealt_evenly(train_size, devices, seed):
    return DealtPartition(deal_evenly(train_size, devices, seed), seed)


class TestDealt:
    @settings(deadline=None)
    @given(st.integers(1, 500), st.integers(1, 40), st.integers(0, 3))
    def test_parts_are_disjoint_complete_and_equal(self, train_size, devices, seed):
        if train_size < devices:
            with pytest.raises(DataError, match=rf"{train_size} training samples .* {devices} devices.*shared"):
                deal_evenly(train_size, devices, seed)
            return
        parts = deal_evenly(train_size, devices, seed)
        assert sorted(np.concatenate(parts).tolist()) == list(range(train_size))
        assert max(map(len, parts)) - min(map(len, parts)) <= 1

    @settings(deadline=None)
    @given(st.integers(1, 30), st.lists(st.tuples(st.integers(0, 200), st.integers(0, 80)), min_size=1, max_size=5))
    def test_offsets_mean_the_same_whatever_the_order_of_calls(self, size, calls):
        reference = of(dealt_evenly(2 * size, 2, 0), 1, np.arange(300))
        dealt = dealt_evenly(2 * size, 2, 0)
        for first, count in calls:
            offsets = np.arange(first, first + count)
            np.testing.assert_array_equal(of(dealt, 1, offsets), reference[first : first + count])
            assert all(len(kept) <= CACHED_PASSES for kept in dealt._passes.values())

    def test_each_pass_brings_every_sample_in_another_order(self):
        dealt = dealt_evenly(100, 2, 0)
        assert dealt.pass_size(0) == 50
        passes = of(dealt, 0, np.arange(200)).reshape(4, 50)
        assert all(sorted(one) == sorted(dealt.part(0).tolist()) for one in passes.tolist())
        assert len({tuple(one) for one in passes.tolist()}) == 4

    def test_seed_and_device_decide(self):
        orders = [tuple(of(dealt_evenly(50, 1, seed), 0, np.arange(50))) for seed in (0, 1)]
        assert len(set(orders)) == 2
        # the two devices' parts are shuffled by generators of their own
        dealt = dealt_evenly(100, 2, 0)
        ranks = [np.argsort(dealt.part(device)).argsort() for device in (0, 1)]
        shuffles = [tuple(np.searchsorted(np.sort(dealt.part(d)), of(dealt, d, np.arange(50)))) for d in (0, 1)]
        assert shuffles[0] != shuffles[1]
        assert not np.array_equal(*ranks)

    def test_what_is_dealt_at_random_stays_what_it_was(self):
        # written down once: runs that are resumed, and figures that were published, depend on it
        dealt = make_partition(DataConfig(), data_set(np.arange(12) % 3, 3), 3, seed=7)
        assert [of(dealt, device, np.arange(5)).tolist() for device in range(3)] == [
            [1, 6, 2, 10, 1],
            [3, 8, 4, 7, 4],
            [5, 0, 9, 11, 5],
        ]


def test_an_endless_data_set_is_dealt_in_turn():
    pictures = SyntheticImages(CLASSES, (1, 4, 4), 1, seed=0)
    for kind in ("iid", "shared"):
        endless = make_partition(DataConfig(partition=kind), pictures, 3, seed=0)
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
        shared = make_partition(DataConfig(partition="shared"), data_set([0, 1, 2], 3), 10_000, seed=0)
        drawn = shared.indices(np.arange(10_000), np.zeros(10_000, np.int64))
        assert set(drawn.tolist()) == {0, 1, 2}


DATA = data_set(np.random.default_rng(0).integers(0, CLASSES, 400))
PICTURES = SyntheticImages(CLASSES, (1, 4, 4), 1, seed=1)
EVERY_KIND = [
    *((DATA, DataConfig(partition=kind)) for kind in ("iid", "shared", "labels", "dirichlet")),
    *((DATA, DataConfig(partition=kind, size_spread=1.0)) for kind in ("iid", "labels", "dirichlet")),
    *((DATA, DataConfig(partition=kind, labels_per_device=3, drift_samples=9)) for kind in ("labels", "dirichlet")),
    *((PICTURES, DataConfig(partition=kind)) for kind in ("iid", "labels", "dirichlet")),
    *((PICTURES, DataConfig(partition=kind, labels_per_device=3, drift_samples=9)) for kind in ("labels", "dirichlet")),
]


@pytest.mark.parametrize(("data", "config"), EVERY_KIND)
def test_many_devices_at_once_are_each_alone(data, config):
    devices = np.repeat([3, 0, 4, 1], [5, 1, 40, 7])
    offsets = np.concatenate([np.arange(30, 35), [7], np.arange(40), np.arange(100, 107)])
    together = make_partition(config, data, 10, seed=1).indices(devices, offsets)
    for device in (1, 4, 0, 3):
        again = make_partition(config, data, 10, seed=1)
        np.testing.assert_array_equal(of(again, device, offsets[devices == device]), together[devices == device])
        # a part of a stream is what the whole of it says
        assert of(again, device, offsets[devices == device][-1:])[0] == together[devices == device][-1]
    assert len(again.indices(np.empty(0, np.int64), np.empty(0, np.int64))) == 0
    assert not np.array_equal(make_partition(config, data, 10, seed=2).indices(devices, offsets), together) or (
        type(again) is EndlessPartition
    )


class TestDrift:
    @pytest.mark.parametrize("data", [DATA, PICTURES])
    def test_a_device_goes_on_with_the_labels_of_the_next_one(self, data):
        config = DataConfig(partition="labels", drift_samples=20)
        drifting = make_partition(config, data, 10, seed=0)
        assert isinstance(drifting, DriftingPartition)
        assert drifting.pass_size(0) is None
        held = [np.unique(data.labels(of(drifting, d, np.arange(300)).reshape(15, 20)[:1].ravel())) for d in range(10)]
        assert sorted(np.concatenate(held).tolist()) == list(range(10))
        for device in range(10):
            for stage, part in enumerate(of(drifting, device, np.arange(300)).reshape(15, 20)):
                np.testing.assert_array_equal(np.unique(data.labels(part)), held[(device + stage) % 10])

    @settings(deadline=None)
    @given(st.integers(1, 6), st.integers(1, 7))
    def test_no_sample_of_an_endless_data_set_comes_twice(self, devices, every):
        config = DataConfig(partition="labels", labels_per_device=10, drift_samples=every)
        drifting = make_partition(config, PICTURES, devices, seed=0)
        brought = np.concatenate([of(drifting, device, np.arange(50)) for device in range(devices)])
        assert len(np.unique(brought)) == 50 * devices

    def test_finite_parts_are_gone_on_with(self):
        config = DataConfig(partition="labels", drift_samples=4)
        data = data_set(np.repeat(np.arange(3), 8), 3)
        drifting = make_partition(config, data, 3, seed=0)
        # while a label goes from device to device, all its samples come before the first comes again
        for label in range(3):
            first = next(d for d in range(3) if data.labels(of(drifting, d, [0]))[0] == label)
            halves = [of(drifting, first, np.arange(4)), of(drifting, (first - 1) % 3, np.arange(4, 8))]
            assert (
                sorted(np.concatenate(halves).tolist()) == np.flatnonzero(data.labels(np.arange(24)) == label).tolist()
            )

    @pytest.mark.parametrize("kind", ["iid", "shared"])
    def test_labels_that_everybody_has_cannot_drift(self, kind):
        with pytest.raises(ValueError, match=f"drift_samples = 5: with partition {kind} .*use labels or dirichlet"):
            DataConfig(partition=kind, drift_samples=5)


class TestRefused:
    def test_labels_that_nobody_would_hold(self):
        with pytest.raises(
            ConfigError, match=r"4 devices would hold 8 of 10 labels.* at least 3, or use at least 5 dev"
        ):
            make_partition(DataConfig(partition="labels", labels_per_device=2), DATA, 4, seed=0)

    def test_more_labels_than_there_are(self):
        with pytest.raises(ConfigError, match=r"labels_per_device = 11: the data set has 10 labels"):
            make_partition(DataConfig(partition="labels", labels_per_device=11), PICTURES, 4, seed=0)

    def test_fewer_samples_of_a_label_than_devices_to_hold_it(self):
        data = data_set([0] * 50 + [1] * 2, 2)
        with pytest.raises(DataError, match=r"label 1 has 2 training samples and 5 devices are to hold it.*shared"):
            make_partition(DataConfig(partition="labels"), data, 10, seed=0)

    @pytest.mark.parametrize("config", [{}, {"partition": "dirichlet"}, {"size_spread": 1.0}, {"partition": "labels"}])
    def test_fewer_samples_than_devices(self, config):
        with pytest.raises(DataError, match="3 training samples cannot be dealt to 4 devices"):
            make_partition(DataConfig(**config), data_set([0, 1, 1], 2), 4, seed=0)

    @pytest.mark.parametrize("kind", ["labels", "dirichlet"])
    def test_labels_where_there_are_none(self, kind):
        x, y = np.zeros((20, 3), np.float32), np.zeros((20, 2), np.float32)
        data = ArrayDataset("loads", (x, y), (x[:1], y[:1]), target=TargetType.numbers((2,)))
        with pytest.raises(ConfigError, match=rf"{kind}: loads has float32 targets of shape \[2\] and no class labels"):
            make_partition(DataConfig(partition=kind), data, 4, seed=0)
        assert make_partition(DataConfig(partition="iid"), data, 4, seed=0).pass_size(0) == 5

    def test_sizes_of_what_has_none(self):
        with pytest.raises(ConfigError, match=r"size_spread = 1: an endless data set has no parts.*stream.rates"):
            make_partition(DataConfig(size_spread=1.0), PICTURES, 4, seed=0)
        with pytest.raises(ValueError, match="size_spread = 1: with partition shared"):
            DataConfig(partition="shared", size_spread=1.0)
