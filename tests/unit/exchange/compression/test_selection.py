"""What is selected: the largest, about the largest, or anything."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from scadles.errors import ConfigError
from scadles.exchange.compression import ExactTopK, PerSlice, RandomK, SampledTopK, squared_norm

LONG = 300_000
# enough for a sample that tells how many of a large share a threshold lets through
MILLIONS = 1_200_000


def vector(n=LONG, seed=0, kind="normal"):
    generator = torch.Generator().manual_seed(seed)
    values = torch.randn(n, generator=generator)
    if kind == "heavy tails":
        values = values.sign() * values.abs() ** 4
    elif kind == "layers":
        values *= torch.logspace(-3, 1, 12).repeat_interleave(-(-n // 12))[:n]
    elif kind == "periodic":
        values *= torch.where(torch.arange(n) % 64 == 5, 10.0, 0.1)
    elif kind == "mostly zero":
        values *= torch.rand(n, generator=generator) < 0.02
    return values


def assert_ascending(indices, n):
    assert indices.dtype == torch.int64
    assert bool((indices[1:] > indices[:-1]).all())
    assert len(indices) == 0 or (int(indices[0]) >= 0 and int(indices[-1]) < n)


def assert_about_the_largest(values, indices, k):
    """0.95 k to k entries, and none left out that is larger than one kept."""
    assert_ascending(indices, len(values))
    assert 0.95 * k <= len(indices) <= k
    left_out = values.abs().index_fill(0, indices, 0.0)
    assert float(left_out.max()) <= float(values[indices].abs().min())


@given(st.lists(st.floats(-1e3, 1e3, width=32), min_size=1, max_size=40), st.integers(1, 50))
def test_exact_top_k_keeps_the_energy_that_sorting_keeps(numbers, k):
    values = torch.tensor(numbers)
    indices = ExactTopK(k).select(values)
    assert_ascending(indices, len(values))
    best = values.abs().sort(descending=True).values[:k]
    assert torch.equal(values[indices].abs().sort(descending=True).values, best)


@pytest.mark.parametrize("kind", ["normal", "heavy tails", "layers", "periodic"])
@pytest.mark.parametrize("ratio", [0.3, 0.1, 0.01, 0.001])
def test_a_sampled_threshold_lands_within_five_percent_below_k(kind, ratio):
    k = int(LONG * ratio)
    selector = SampledTopK(k, seed=1)
    for step in range(3):
        values = vector(seed=step, kind=kind)
        sparse = selector.pick(values, step)
        assert_about_the_largest(values, sparse.indices, k)
        assert torch.equal(sparse.values, values[sparse.indices])


@pytest.mark.parametrize("factor", [0.01, 0.8, 1.0, 1.08, 1.25, 100.0])
def test_a_threshold_that_no_longer_holds_is_replaced(factor):
    selector = SampledTopK(LONG // 100, seed=1)
    selector.select(vector(seed=0))
    values = vector(seed=1) * factor
    assert_about_the_largest(values, selector.select(values), LONG // 100)


def test_a_threshold_that_holds_is_used_again():
    class Counting(SampledTopK):
        tried = 0

        def _thresholds(self, array, generator):
            for threshold in super()._thresholds(array, generator):
                self.tried += 1
                self.last = threshold
                yield threshold

    selector = Counting(LONG // 10, seed=1)
    selector.select(vector(seed=0))
    learned = selector._threshold
    selector.select(vector(seed=1))
    assert (selector.tried, selector.last) == (2, learned)


def test_a_state_goes_on_with_the_threshold_that_holds():
    """It tells among so many that the cut is by a sample of them, of which another first pass finds others."""
    n = 3_000_000

    def make():
        return PerSlice([n, 10], [SampledTopK(n // 10, seed=0), ExactTopK(2)])

    first, second, fresh = make(), make(), make()
    first.select(vector(n + 10), step=1)
    second.load(first.state())
    values = vector(n + 10, seed=1)
    expected = first.select(values, step=2)
    assert torch.equal(second.select(values, step=2), expected)
    assert not torch.equal(fresh.select(values, step=2), expected)


@pytest.mark.parametrize("level", [0.0, 1.0])
def test_equal_magnitudes_are_cut_to_k(level):
    values = torch.full((LONG,), level)
    values[:100] = 5.0
    indices = SampledTopK(3000, seed=0).select(values)
    assert_ascending(indices, LONG)
    assert indices[:100].tolist() == list(range(100))
    assert len(indices) == (3000 if level else 100)


def test_few_distinct_magnitudes_are_selected_exactly():
    values = vector().mul(3).round()
    selector = SampledTopK(LONG // 10, seed=0)
    for _ in range(2):
        indices = selector.select(values)
        assert_about_the_largest(values, indices, LONG // 10)


def test_where_few_entries_differ_from_zero_all_of_them_are_selected():
    values = vector(kind="mostly zero")
    indices = SampledTopK(LONG // 10, seed=0).select(values)
    assert torch.equal(indices, values.nonzero().view(-1))


@pytest.mark.parametrize("kind", ["normal", "heavy tails", "layers", "periodic"])
def test_of_a_large_share_a_sample_tells_so_well_that_nothing_is_cut(kind, monkeypatch):
    monkeypatch.delattr(SampledTopK, "_cut")
    selector = SampledTopK(int(0.3 * MILLIONS), seed=1)
    for step in range(3):
        values = vector(MILLIONS, seed=step, kind=kind)
        sparse = selector.pick(values, step)
        assert_about_the_largest(values, sparse.indices, selector.k)
        assert torch.equal(sparse.values, values[sparse.indices])


def test_more_than_there_is_memory_for_is_found_all_the_same():
    """Half of all magnitudes are equal, and more than k."""
    values = vector(MILLIONS).sign()
    values[::2] *= 0.5
    values[:100] = 5.0
    selector = SampledTopK(int(0.3 * MILLIONS), seed=1)
    indices, found = selector._above(values.numpy(), 0.6)
    assert np.array_equal(indices, (values.abs() > 0.6).nonzero().view(-1).numpy())
    assert np.array_equal(found, values.numpy()[indices])
    assert len(selector.select(values)) == selector.k


@pytest.mark.parametrize("ratio", [0.3, 0.01])
def test_what_was_picked_stays_while_others_are_picked(ratio):
    selector = SampledTopK(int(ratio * MILLIONS), seed=1)
    picked, expected = [], []
    for step in range(4):
        sparse = selector.pick(vector(MILLIONS, seed=step), step)
        expected.append([part.clone() for part in sparse])
        picked.append([part[10:] for part in sparse])
    for mine, theirs in zip(picked, expected, strict=True):
        assert all(torch.equal(one, other[10:]) for one, other in zip(mine, theirs, strict=True))


@pytest.mark.parametrize("ratio", [0.3, 0.1])
def test_threads_change_nothing(ratio):
    values = vector(2_500_000, kind="layers")
    k = int(ratio * len(values))
    expected = SampledTopK(k, seed=3).pick(values, step=1)
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    try:
        sparse = SampledTopK(k, seed=3).pick(values, step=1)
        norm_sq = squared_norm(values)
    finally:
        torch.set_num_threads(before)
    assert torch.equal(sparse.indices, expected.indices)
    assert torch.equal(sparse.values, expected.values)
    assert norm_sq == pytest.approx(float((values.double() ** 2).sum()), rel=1e-6)


def test_a_step_is_drawn_the_same_again():
    values = vector()
    first, second = SampledTopK(3000, seed=3), SampledTopK(3000, seed=3)
    assert torch.equal(first.select(values, step=9), second.select(values, step=9))


@given(st.integers(1, 2000), st.integers(1, 2500))
def test_random_k_picks_k_different_ones(n, k):
    indices = RandomK(k, seed=0).select(torch.zeros(n))
    assert_ascending(indices, n)
    assert len(indices) == min(k, n)


def test_random_k_picks_every_entry_as_often_as_any_other():
    selector = RandomK(7, seed=0)
    counts = np.zeros(20)
    for _ in range(4000):
        counts[selector.select(torch.zeros(20)).numpy()] += 1
    assert counts / 4000 == pytest.approx(np.full(20, 7 / 20), abs=0.04)


def test_random_k_differs_between_steps_and_devices():
    values = torch.zeros(100_000)

    def drawn(rank, step):
        return RandomK(100, seed=4, rank=rank).select(values, step)

    assert torch.equal(drawn(0, 1), drawn(0, 1))
    assert not torch.equal(drawn(0, 1), drawn(0, 2))
    assert not torch.equal(drawn(0, 1), drawn(1, 1))


def test_slices_select_for_themselves():
    values = vector(1000)
    selector = PerSlice([100, 900], [ExactTopK(10), ExactTopK(30)])
    indices = selector.select(values)
    assert selector.k == 40
    assert_ascending(indices, 1000)
    assert torch.equal(indices[:10], ExactTopK(10).select(values[:100]))
    assert torch.equal(indices[10:], ExactTopK(30).select(values[100:]) + 100)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: ExactTopK(0), "k = 0: at least 1"),
        (lambda: SampledTopK(-1, seed=0), "k = -1: at least 1"),
        (lambda: RandomK(0, seed=0), "k = 0: at least 1"),
        (lambda: PerSlice([1, 2], [ExactTopK(1)]), "2 entries for 1 selectors"),
        (lambda: PerSlice([3], [ExactTopK(1)]).select(torch.zeros(4)), "add up to 3, the update has 4"),
    ],
)
def test_what_cannot_be_selected_is_said(make, message):
    with pytest.raises(ConfigError, match=message):
        make()


def test_the_squared_norm_of_values_too_large_is_infinite(recwarn):
    assert squared_norm(torch.full((10,), 1e30)) == float("inf")
    assert not recwarn.list
