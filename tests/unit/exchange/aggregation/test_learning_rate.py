import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from scadles.exchange.aggregation import LearningRate, scaling_for

totals = st.integers(1, 100_000)


@given(totals, st.integers(1, 10_000))
def test_linear_and_square_root(total, base):
    assert LearningRate("linear", base).batch_scale(total) == total / base
    assert LearningRate("sqrt", base).batch_scale(total) == pytest.approx(math.sqrt(total / base))
    assert LearningRate("none", base).batch_scale(total) == 1.0


def test_the_formula_of_the_paper():
    """lr = base_lr * sum(b) / B with B = 64 N (section IV)."""
    assert LearningRate("linear", base_batch=64 * 8).factor(total_batch=305, samples_before=0) == 305 / 512


@given(totals, st.integers(0, 10**7), st.lists(st.integers(1, 10**6), max_size=4, unique=True), st.floats(0.05, 1))
def test_each_milestone_passed_cuts_once(total, before, milestones, gamma):
    rate = LearningRate("linear", 512, milestones=sorted(milestones), gamma=gamma)
    passed = sum(milestone <= before for milestone in milestones)
    assert rate.factor(total, before) == pytest.approx(total / 512 * gamma**passed)


@given(st.integers(1, 512), st.integers(1, 50_000))
def test_warm_up_grows_with_samples_and_ends(total, warmup):
    rate = LearningRate("none", 512, warmup_samples=warmup)
    factors, before = [], 0
    while before < warmup + total and len(factors) < 300:
        factors.append(rate.factor(total, before))
        before += total
        assert factors[-1] == pytest.approx(min(1.0, before / warmup))
    assert factors == sorted(factors)
    assert 0 < factors[0] <= 1
    assert rate.factor(total, warmup) == 1.0


def test_all_at_once():
    rate = LearningRate("sqrt", 100, warmup_samples=1000, milestones=(300, 2000), gamma=0.1)
    assert rate.factor(total_batch=400, samples_before=100) == pytest.approx(2.0 * 0.5)
    assert rate.factor(total_batch=400, samples_before=300) == pytest.approx(2.0 * 0.7 * 0.1)
    assert rate.factor(total_batch=400, samples_before=2000) == pytest.approx(2.0 * 0.01)


def test_nothing_to_train_on_is_scale_zero():
    assert LearningRate("linear", 64).batch_scale(0) == 0.0


@pytest.mark.parametrize(
    ("kind", "scaling"),
    [(torch.optim.SGD, "linear"), (torch.optim.Adam, "sqrt"), (torch.optim.AdamW, "sqrt"), (torch.optim.NAdam, "sqrt")],
)
def test_adaptive_optimizers_scale_with_the_root(kind, scaling):
    assert scaling_for(kind([torch.nn.Parameter(torch.zeros(1))], lr=0.1)) == scaling
