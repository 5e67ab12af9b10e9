"""Window and ratio chosen together find what is best of both; each for itself would stay where it began."""

import json
import math

import numpy as np
import pytest

from scadles.device.joint_choice import JointChoice
from scadles.device.pace import Fleet, WindowRule
from scadles.device.window import AutoWindow
from scadles.exchange.aggregation.noise_scale import Bounds
from scadles.exchange.compression import RATIOS, RatioGate, Times
from scadles.exchange.compression.energy import lag_steps

DEVICES, RATE_HZ, NOISE = 8, 40.0, 1000.0
LAG = 15.0
SIZES = [4e6, 200e3, 70e3, 25e3]
KEPT = {0.1: 0.6, 0.03: 0.3, 0.01: 0.12}
RULE = WindowRule(minimum=1, maximum=1000)


class Run:
    """Steps of devices alike, whose window and ratio follow what is measured."""

    def __init__(self, *, dense_s, latency_s=0.0, load=0.2, noise=NOISE, window_s=1.0, joint=True):
        self.byte_s, self.latency_s, self.load = dense_s / SIZES[0], latency_s, load
        self.noise, self.joint = noise, joint
        self.window, self.gate = AutoWindow(window_s, RULE), RatioGate(LAG)
        self.late, self.busy_s = 0.0, 0.0

    def fleet(self, exchange_s=0.0):
        ones = np.ones(DEVICES)
        return Fleet(RATE_HZ * ones, 0.0 * ones, self.load / RATE_HZ * ones, exchange_s)

    def exchange_s(self, level):
        return self.latency_s + self.byte_s * SIZES[level]

    def step(self, number):
        level, window_s = self.gate.level, self.window.seconds
        compute_s = self.load * min(window_s, max(self.busy_s, window_s))
        times = Times(self.late, 0.0, max(0.0, window_s - self.busy_s) + compute_s, compute_s)
        self.gate.observe(number, SIZES, times, 1.0, KEPT[self.gate.rated(number)])
        self.late = self.exchange_s(level)
        self.busy_s = compute_s + self.late
        if number % 4:
            return
        exchange_s = self.exchange_s(level)
        if self.joint:
            self.gate.windows = JointChoice(RULE, self.fleet(), self.noise)
            exchange_s = self.gate.exchange_s(SIZES) or exchange_s
        self.window.follow(number, self.fleet(exchange_s), Bounds(self.noise, 0.9 * self.noise, 1.1 * self.noise))

    def steps(self, count):
        for number in range(1, count + 1):
            self.step(number)
        return RATIOS[self.gate.level], self.window.seconds

    def best(self):
        """What all pairs buy: progress a second, by ratio and window."""
        windows = RULE.windows(self.fleet().rates_hz)
        bought = {}
        for level, ratio in enumerate(RATIOS):
            found = RULE.pace(windows, self.fleet(self.exchange_s(level)))
            lag = lag_steps(KEPT.get(ratio, 1.0), LAG)
            worth = RULE.worth(found, self.noise)
            worth = worth / (1 + lag * found.step_s / np.maximum(self.gate._elapsed_s, 50 / worth))
            pairs = [(ratio, window_s) for window_s in windows.tolist()]
            bought |= dict(zip(pairs, worth.tolist(), strict=True))
        return bought


def test_a_window_that_dense_steps_have_made_long_keeps_nobody_from_compressing():
    together, apart = (Run(dense_s=1.5, window_s=2.0, joint=joint) for joint in (True, False))
    assert apart.steps(120) == (None, pytest.approx(1.9, rel=0.1))
    ratio, window_s = together.steps(120)
    assert ratio in (0.1, 0.03)
    assert window_s < 0.3


@pytest.mark.parametrize("dense_s", [0.02, 1.5])
@pytest.mark.parametrize("latency_s", [0.0, 0.5])
@pytest.mark.parametrize(("load", "noise"), [(0.2, 1000.0), (1.5, 1000.0), (1.5, 50.0)])
def test_of_all_pairs_nearly_the_best_is_found(dense_s, latency_s, load, noise):
    run = Run(dense_s=dense_s, latency_s=latency_s, load=load, noise=noise)
    chosen = run.steps(120)
    bought = run.best()
    nearest = min(bought, key=lambda pair: (pair[0] != chosen[0], abs(math.log(pair[1] / chosen[1]))))
    assert bought[nearest] > 0.9 * max(bought.values()), f"{nearest} in place of {max(bought, key=bought.get)}"


def test_what_must_keep_everything_is_compared_by_whether_it_does():
    """Dense messages take longer than any window of 2 s, and leave samples behind."""
    ones = np.ones(DEVICES)
    rule = WindowRule(minimum=1, maximum=1000, keeps_all=True, longest_s=2.0)
    choice = JointChoice(rule, Fleet(RATE_HZ * ones, 0.0 * ones, 0.0 * ones, 0.0), NOISE)
    kept, left = choice.at_best(1.0, 100.0, 10.0), choice.at_best(3.0, 0.0, 10.0)
    assert kept.progress > left.progress > choice.at_best(4.0, 0.0, 10.0).progress > 0
    assert kept.step_s <= kept.window_s


def test_a_lag_without_an_end_buys_nothing():
    assert JointChoice(RULE, Run(dense_s=1.0).fleet(), NOISE).at_best(0.1, math.inf, 100.0).progress == 0


@pytest.mark.parametrize("noise", [math.inf, 300.0])
def test_it_goes_on_where_it_was(noise):
    choice = JointChoice(RULE, Run(dense_s=1.0).fleet(), noise)
    again = JointChoice.of(RULE, json.loads(json.dumps(choice.state())))
    assert again.at_best(0.5, 10.0, 100.0) == choice.at_best(0.5, 10.0, 100.0)


@pytest.mark.parametrize(
    "wrong", [{"noise": -1.0}, {"step_s": [0.0]}, {"rates_hz": [math.nan] * DEVICES}, {"rates_hz": [0.0] * DEVICES}]
)
def test_what_is_no_state_is_refused(wrong):
    with pytest.raises(ValueError, match="devices"):
        JointChoice.of(RULE, JointChoice(RULE, Run(dense_s=1.0).fleet(), NOISE).state() | wrong)
