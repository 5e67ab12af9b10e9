"""Robust means of coordinates, with weights: against numbers that count as often as they weigh."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from scadles.exchange.aggregation import robust
from scadles.exchange.aggregation.robust import robust_mean


def repeated(rows, weights):
    return np.sort(np.repeat(rows, weights, axis=0), axis=0)


ROWS = st.integers(1, 7).flatmap(
    lambda k: st.tuples(
        st.lists(st.lists(st.floats(-100, 100, width=32), min_size=4, max_size=4), min_size=k, max_size=k),
        st.lists(st.integers(1, 5), min_size=k, max_size=k),
    )
)


@given(ROWS)
def test_the_median_is_that_of_numbers_repeated_by_weight(given_rows):
    rows, weights = given_rows
    found = robust_mean([torch.tensor(row) for row in rows], weights, "median")
    expected = np.median(repeated(np.float32(rows), weights), axis=0)
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)


@given(ROWS)
def test_the_trimmed_mean_is_that_of_numbers_repeated_by_weight(given_rows):
    rows, weights = given_rows
    found = robust_mean([torch.tensor(row) for row in rows], weights, "trimmed")
    many = repeated(np.float64(rows), [5 * weight for weight in weights])  # a fifth of them is a whole number
    cut = len(many) // 5
    np.testing.assert_allclose(found, many[cut:-cut].mean(axis=0), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("kind", ["trimmed", "median"])
def test_parts_make_up_the_whole(monkeypatch, kind):
    rows = list(torch.randn(5, 1000, generator=torch.Generator().manual_seed(0), dtype=torch.float64))
    whole = robust_mean(rows, [1, 2, 3, 4, 5], kind)
    monkeypatch.setattr(robust, "_VALUES_AT_ONCE", 64)
    assert torch.equal(robust_mean(rows, [1, 2, 3, 4, 5], kind), whole), "on all devices alike"


@pytest.mark.parametrize("kind", ["trimmed", "median"])
def test_one_of_eight_moves_them_no_further_than_the_others_are_apart(kind):
    rows = list(torch.randn(8, 100, generator=torch.Generator().manual_seed(0)))
    honest = torch.stack(rows[1:])
    rows[0] = rows[0] * 1e6
    found = robust_mean(rows, [1.0] * 8, kind)
    assert bool(((found >= honest.min(dim=0).values) & (found <= honest.max(dim=0).values)).all())
