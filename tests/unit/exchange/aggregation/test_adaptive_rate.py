"""The learning rate by what a larger batch is worth."""

import json
import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from scadles import assembly
from scadles.config import load_config
from scadles.device.measuring import Measuring
from scadles.exchange.aggregation import AdaptiveRate, LearningRate
from scadles.exchange.aggregation.noise_scale import Bounds

totals, noises = st.integers(1, 10**6), st.floats(0, 1e9)


def rate(noise, base=256, **more):
    return AdaptiveRate(base, noise=lambda: noise if noise is None else Bounds(noise, noise, noise), **more)


@given(totals, totals, noises)
def test_the_gain_lies_between_one_and_the_ratio_of_the_batches(total, base, noise):
    low, high = sorted([1.0, total / base])
    assert low * (1 - 1e-9) <= rate(noise, base).gain(total) <= high * (1 + 1e-9)
    assert rate(0.0, base).gain(total) == 1.0
    assert rate(math.inf, base).gain(total) == total / base


@given(st.integers(1, 64), st.integers(1, 64), st.integers(0, 2**32 - 1))
def test_the_gain_is_what_a_larger_batch_is_worth(total, base, seed):
    """AdaScale's definition: (tr(S) / B_base + |G|^2) / (tr(S) / B + |G|^2), the ratio of expected squared norms."""
    random = np.random.default_rng(seed)
    mean, covariance = random.normal(size=5), np.diag(random.uniform(0.1, 3, 5))
    trace, square = np.trace(covariance), mean @ mean
    expected = (trace / base + square) / (trace / total + square)
    assert rate(trace / square, base).gain(total) == pytest.approx(expected)


def test_the_smaller_gain_is_taken_of_those_that_may_be():
    known = AdaptiveRate(100, noise=lambda: Bounds(100, 50, 400))
    assert known.gain(400) == pytest.approx((1 + 50 / 100) / (1 + 50 / 400))
    assert known.gain(25) == pytest.approx((1 + 400 / 100) / (1 + 400 / 25))
    assert AdaptiveRate(100, noise=lambda: Bounds(100, 50, math.inf)).gain(25) == 0.25


@pytest.mark.parametrize(("total", "gain"), [(64, 0.25), (256, 1.0), (4096, 1.0)])
def test_before_anything_is_known_a_larger_batch_does_not_raise_the_rate(total, gain):
    assert rate(None).gain(total) == gain


@given(st.lists(totals, min_size=1, max_size=20), st.lists(st.integers(1, 10**6), max_size=4, unique=True))
def test_where_gradients_are_all_noise_it_is_the_linear_rule_and_its_schedule(batches, milestones):
    schedule = {"warmup_samples": 1000, "milestones": sorted(milestones), "gamma": 0.5}
    mine, linear, before = rate(math.inf, **schedule), LearningRate("linear", 256, **schedule), 0
    for total in batches:
        assert mine.take(total, before) == pytest.approx(linear.take(total, before), rel=1e-6)
        before += total
        assert mine.position == pytest.approx(before)


def test_a_step_counts_in_the_schedule_as_what_it_is_worth():
    worth = rate(256.0, milestones=(1000,), gamma=0.1)  # 1.5 base batches each
    factors = [worth.take(768, 768 * step)[1] for step in range(4)]
    assert factors == pytest.approx([1.5, 1.5, 1.5, 0.15])


def test_the_rate_rises_to_that_of_a_larger_batch_as_momentum_does_and_falls_at_once():
    spread, at_once = rate(math.inf, momentum=0.9), rate(math.inf)
    assert spread.take(256, 0)[0] == at_once.take(256, 0)[0] == 1.0, "the first one is not spread"
    found = [spread.take(2560, 0)[0] for _ in range(10)]
    assert found == pytest.approx([10 - 9 * 0.9 ** (step + 1) for step in range(10)])
    assert at_once.take(2560, 0)[0] == 10.0
    assert spread.take(0, 0) == (0.0, 0.0)
    assert spread.take(2560, 0)[0] == pytest.approx(10 - 9 * 0.9**11), "a step without samples changes nothing"
    assert spread.take(128, 0)[0] == 0.5


def test_it_goes_on_from_a_checkpoint():
    one, other = (rate(300.0, momentum=0.9, milestones=(2000,)) for _ in range(2))
    for total in (100, 900, 50):
        one.take(total, 0)
    other.load(json.loads(json.dumps(one.state())))
    assert [one.take(total, 0) for total in (700, 80)] == [other.take(total, 0) for total in (700, 80)]


@pytest.mark.parametrize(
    ("optimizer", "compression", "power", "share"),
    [
        ({}, {}, 1.0, 0.1),
        ({"momentum": 0}, {}, 1.0, 1.0),
        ({"momentum": 0}, {"ratio": 0.1, "momentum": 0.8}, 1.0, 0.2),
        ({"name": "adam"}, {}, 0.5, 0.1),
    ],
)
def test_it_suits_the_optimizer(optimizer, compression, power, share):
    config = load_config(
        {"devices": 4, "steps": 1, "lr": {"scaling": "adascale"}, "optimizer": optimizer, "compression": compression}
    )
    chosen = assembly.choose_optimizer(config, torch.nn.Linear(2, 2), None)
    built = assembly.build_learning_rate(config, chosen, Measuring())
    assert isinstance(built, AdaptiveRate)
    assert (built._power, built._share, built.base_batch) == (power, pytest.approx(share), 256)


@pytest.mark.parametrize(("compression", "share"), [({}, 1.0), ({"ratio": 0.1, "momentum": 0.8}, 0.2)])
def test_momentum_that_is_part_of_a_rate_that_is_chosen_spreads_nothing(compression, share):
    lr, momentum = {"scaling": "adascale", "rate": "auto"}, 0.0 if compression else 0.9
    config = load_config(
        {"devices": 4, "steps": 1, "lr": lr, "optimizer": {"momentum": momentum}, "compression": compression}
    )
    chosen = assembly.choose_optimizer(config, torch.nn.Linear(2, 2), None)
    assert assembly.build_learning_rate(config, chosen, Measuring())._share == pytest.approx(share)
