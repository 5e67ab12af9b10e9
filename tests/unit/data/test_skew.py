"""How labels and sizes are spread over devices: what holds always, and what holds on average."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import beta, chisquare, kstest

from scadles.config import DataConfig
from scadles.data import ArrayDataset, SyntheticImages, make_partition
from scadles.data.partition.deals import apportion, deal_by_label, deal_in_sizes
from scadles.data.partition.skew import dirichlet_shares, label_shares, mixtures, size_weights

CLASSES = 10


def data_set(labels, classes=CLASSES):
    x = np.zeros((len(labels), 1, 1, 1), dtype=np.uint8)
    return ArrayDataset("made up", (x, labels), (x[:1], labels[:1]), classes)


def counts_of(labels, parts, classes=CLASSES):
    return np.stack([np.bincount(labels[part], minlength=classes) for part in parts])


label_sets = st.lists(st.integers(0, CLASSES - 1), min_size=60, max_size=300).map(np.array)
kinds = st.fixed_dictionaries(
    {
        "partition": st.sampled_from(["iid", "labels", "dirichlet"]),
        "labels_per_device": st.just(3),
        "alpha": st.sampled_from([0.01, 0.3, 1.0, 100.0]),
        "size_spread": st.sampled_from([0.0, 0.5, 3.0]),
    }
)


@settings(deadline=None)
@given(label_sets, kinds, st.integers(4, 30), st.integers(0, 5))
def test_every_sample_is_dealt_to_exactly_one_device_and_every_device_has_one(labels, kind, devices, seed):
    labels = np.concatenate([labels, np.repeat(np.arange(CLASSES), 30)])
    dealt = make_partition(DataConfig(**kind), data_set(labels), devices, seed)
    parts = [dealt.part(device) for device in range(devices)]
    assert sorted(np.concatenate(parts).tolist()) == list(range(len(labels)))
    assert min(map(len, parts)) >= 1
    for device in range(devices):
        once = dealt.indices(np.array([device]), np.arange(dealt.pass_size(device)))
        assert sorted(once.tolist()) == sorted(parts[device].tolist())


class TestLabels:
    @settings(deadline=None)
    @given(st.integers(1, CLASSES), st.integers(1, 60), st.integers(0, 5))
    def test_every_device_holds_so_many_and_every_label_is_held_as_often(self, k, devices, seed):
        devices = max(devices, -(-CLASSES // k))
        shares = label_shares(k, devices, np.ones(CLASSES, dtype=bool), seed)
        assert (shares.sum(axis=1) == k).all()
        holders = shares.sum(axis=0)
        assert holders.min() >= 1
        assert holders.max() - holders.min() <= 1

    def test_one_label_each_with_as_many_devices_as_labels(self):
        labels = np.arange(300) % CLASSES
        dealt = make_partition(DataConfig(partition="labels"), data_set(labels), CLASSES, seed=3)
        counts = counts_of(labels, [dealt.part(device) for device in range(CLASSES)])
        assert sorted(map(tuple, counts.tolist())) == sorted(map(tuple, (30 * np.eye(CLASSES, dtype=int)).tolist()))

    def test_who_holds_what_is_drawn(self):
        held = [label_shares(2, 10, np.ones(CLASSES, dtype=bool), seed).argmax(axis=1).tolist() for seed in range(3)]
        assert held[0] != held[1] != held[2]

    def test_labels_without_samples_are_held_by_nobody(self):
        present = np.array([True, False, True])
        assert label_shares(1, 4, present, seed=0).sum(axis=0).tolist() == [2, 0, 2]


class TestDirichlet:
    @pytest.mark.parametrize("alpha", [0.1, 1.0, 10.0])
    def test_shares_follow_the_distribution(self, alpha):
        devices, classes = 20, 4000
        shares = dirichlet_shares(alpha, devices, classes, seed=0)
        np.testing.assert_allclose(shares.sum(axis=0), 1.0)
        for device in (0, 7, 19):  # one component of a Dirichlet distribution is a Beta distribution
            found = kstest(shares[device], beta(alpha, (devices - 1) * alpha).cdf)
            assert found.pvalue > 1e-3
        assert shares.var() == pytest.approx((1 / devices) * (1 - 1 / devices) / (devices * alpha + 1), rel=0.05)

    @pytest.mark.parametrize("alpha", [0.1, 1.0, 100.0])
    def test_a_training_set_is_dealt_by_them_to_within_a_sample(self, alpha):
        labels = np.repeat(np.arange(CLASSES), 2000)
        shares = dirichlet_shares(alpha, 8, CLASSES, seed=0)
        counts = counts_of(labels, deal_by_label(labels, shares, seed=0, least=0))
        assert np.abs(counts - 2000 * shares).max() < 1

    def test_a_large_alpha_is_alike_and_a_small_one_is_not(self):
        alike, apart = (dirichlet_shares(alpha, 10, CLASSES, seed=0) for alpha in (1e4, 1e-2))
        assert np.abs(alike - 0.1).max() < 0.01
        assert apart.max(axis=0).min() > 0.6

    def test_devices_for_whom_nothing_is_left_over_get_one(self):
        labels = np.repeat(np.arange(2), 30)
        shares = np.zeros((5, 2))
        shares[3] = 1.0
        parts = deal_by_label(labels, shares, seed=0, least=0)
        assert [len(part) for part in parts] == [1, 1, 1, 56, 1]
        assert sorted(np.concatenate(parts).tolist()) == list(range(60))


class TestEndless:
    def mixture(self, config, devices=10, seed=0, samples=3000):
        pictures = SyntheticImages(CLASSES, (1, 4, 4), 1, seed)
        partition = make_partition(config, pictures, devices, seed)
        everybody = np.repeat(np.arange(devices), samples)
        indices = partition.indices(everybody, np.tile(np.arange(samples), devices))
        assert len(np.unique(indices)) == len(indices)
        return counts_of(pictures.labels(indices), np.arange(len(indices)).reshape(devices, samples))

    @pytest.mark.parametrize("k", [1, 3, 10])
    def test_every_device_brings_its_labels_equally_often(self, k):
        counts = self.mixture(DataConfig(partition="labels", labels_per_device=k))
        held = label_shares(k, 10, np.ones(CLASSES, dtype=bool), seed=0) > 0
        np.testing.assert_array_equal(counts > 0, held)
        for row, mine in zip(counts, held, strict=True):
            assert k == 1 or chisquare(row[mine]).pvalue > 1e-4

    @pytest.mark.parametrize("alpha", [0.02, 0.5, 50.0])
    def test_mixtures_are_those_that_a_dealt_data_set_would_have(self, alpha):
        counts = self.mixture(DataConfig(partition="dirichlet", alpha=alpha))
        labels = np.repeat(np.arange(CLASSES), 200_000)
        parts = deal_by_label(labels, dirichlet_shares(alpha, 10, CLASSES, seed=0), seed=0, least=0)
        dealt = counts_of(labels, parts)
        many = dealt.sum(axis=1) > 1000  # the others were given a sample of somebody else's
        assert many.sum() >= 5
        found, expected = counts[many] / 3000, dealt[many] / dealt[many].sum(axis=1, keepdims=True)
        np.testing.assert_allclose(found, expected, atol=0.04)

    def test_samples_bear_the_labels_that_were_asked_for(self):
        pictures = SyntheticImages(7, (1, 4, 4), 1, seed=0)
        labels, numbers = np.arange(70) % 7, np.arange(70) // 3
        indices = pictures.numbered(labels, numbers)
        assert pictures.samples(indices)[1].tolist() == pictures.labels(indices).tolist() == labels.tolist()

    def test_a_far_offset_costs_no_more_than_a_near_one(self):
        pictures = SyntheticImages(100, (1, 4, 4), 1, seed=0)
        partition = make_partition(DataConfig(partition="dirichlet"), pictures, 1000, seed=0)
        far = partition.indices(np.array([999]), np.array([10**12, 10**12 + 1]))
        assert len(set(far.tolist())) == 2
        assert (pictures.samples(far)[1].numpy() == pictures.labels(far)).all()

    @given(st.integers(1, 30), st.integers(2, 12), st.sampled_from([1e-5, 1e-3, 0.1, 10.0]), st.integers(0, 9))
    def test_a_mixture_is_one_whatever_the_shares(self, devices, classes, alpha, seed):
        rows = mixtures(dirichlet_shares(alpha, devices, classes, seed))
        assert np.isfinite(rows).all()
        assert (rows >= 0).all()
        np.testing.assert_allclose(rows.sum(axis=1), 1.0)


class TestSizes:
    def test_sizes_are_log_normal(self):
        logs = np.log(size_weights(0.7, 20_000, seed=0))
        assert kstest(logs / 0.7, "norm").pvalue > 1e-3

    @given(st.integers(1, 40), st.floats(0.1, 3.0), st.integers(0, 9))
    def test_parts_stand_to_each_other_as_the_weights(self, devices, spread, seed):
        weights = size_weights(spread, devices, seed)
        sizes = np.array([len(part) for part in deal_in_sizes(5000, weights, seed)])
        exact = 5000 * weights / weights.sum()
        smallest = (exact < 1).sum()
        assert np.abs(sizes - exact).max() < 1 + smallest

    def test_unbalanced_parts_keep_all_labels(self):
        labels = np.arange(5000) % CLASSES
        dealt = make_partition(DataConfig(size_spread=1.0), data_set(labels), 10, seed=0)
        counts = counts_of(labels, [dealt.part(device) for device in range(10)])
        assert counts.sum(axis=1).max() > 4 * counts.sum(axis=1).min()
        large = counts[counts.sum(axis=1) > 400]
        assert (np.abs(large / large.sum(axis=1, keepdims=True) - 0.1) < 0.06).all()


@given(
    st.integers(0, 300),
    st.lists(st.floats(0.0, 10.0), min_size=1, max_size=20).filter(lambda weights: sum(weights) > 0.1),
    st.integers(0, 1),
)
def test_what_is_apportioned_adds_up(total, weights, least):
    weights = np.array(weights)
    counts = apportion(total, weights, least=least)
    assert counts.sum() == total
    assert (counts >= 0).all()
    assert (counts[weights == 0] == 0).all()
    if total >= (weights > 0).sum():
        assert (counts[weights > 0] >= least).all()
    if not least:
        assert np.abs(counts - total * weights / weights.sum()).max() < 1
