from itertools import pairwise

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from scadles.exchange.reduction.slices import balanced_slices, equal_slices


@given(st.integers(0, 10_000), st.integers(1, 300))
def test_equal_slices_differ_by_one_at_most(n, size):
    lengths = np.diff(equal_slices(n, size))
    assert len(lengths) == size
    assert lengths.sum() == n
    assert lengths.max() - lengths.min() <= 1


@given(st.data())
def test_bounds_stay_ascending_and_cover_everything(data):
    n, size = data.draw(st.integers(1, 500)), data.draw(st.integers(1, 8))
    bounds = np.array([0, *sorted(data.draw(st.lists(st.integers(0, n), min_size=size - 1, max_size=size - 1))), n])
    wanted, kept = [], []
    for start, stop in zip(bounds[:-1].tolist(), bounds[1:].tolist(), strict=True):
        here = data.draw(st.sets(st.integers(start, stop - 1), max_size=5)) if stop > start else set()
        kept.append(np.array(sorted(here), np.int64))
        wanted.append(data.draw(st.integers(len(here), 1000)))
    balanced = balanced_slices(bounds, wanted, kept)
    assert len(balanced) == size + 1
    assert balanced[0] == 0
    assert balanced[-1] == n
    assert (np.diff(balanced) >= 0).all()


def test_nothing_wanted_changes_nothing():
    bounds = np.array([0, 3, 10])
    assert balanced_slices(bounds, [0, 0], [np.zeros(0, np.int64)] * 2) is bounds


def test_slices_that_are_balanced_stay():
    bounds = equal_slices(1000, 8)
    kept = [np.arange(start, start + 125, 5) for start in bounds[:-1]]
    assert balanced_slices(bounds, [40] * 8, kept).tolist() == bounds.tolist()


def test_repeated_balancing_evens_out_any_density():
    rng = np.random.default_rng(3)
    n, size, most = 100_000, 16, 60
    density = np.repeat(np.exp(rng.normal(0, 1.5, 20)), n // 20)
    cumulated = np.concatenate([[0], np.cumsum(density)]) / density.sum()
    bounds = equal_slices(n, size)
    shares = []
    for _ in range(4):
        share = np.diff(cumulated[bounds])
        shares.append(share.max() * size)
        drawn = np.searchsorted(cumulated, rng.random(2000), side="right") - 1
        # the total holds no more of a slice than its owner may send, as on the wire
        kept = [np.unique(rng.permutation(drawn[(drawn >= a) & (drawn < b)])[:most]) for a, b in pairwise(bounds)]
        bounds = balanced_slices(bounds, np.rint(share * 2000 * size).astype(int).tolist(), kept)
    assert shares[0] > 2.0
    assert shares[-1] < 1.35
