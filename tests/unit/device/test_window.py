import math
import re

import numpy as np
import pytest
import torch

from scadles import assembly
from scadles.config import load_config
from scadles.device.pace import Fleet, WindowRule
from scadles.device.window import AutoWindow
from scadles.exchange.aggregation import GradientExchange
from scadles.exchange.aggregation.noise_scale import Bounds
from scadles.fabric import LocalFabric

RATE_HZ, DEVICES = 100.0, 10
TOTAL_HZ = RATE_HZ * DEVICES
NOISY = Bounds(1e6, 1e5, 1e7)


def fleet(*, step_s=0.0, load=0.0, exchange_s=0.0):
    """Devices alike, that need ``load`` seconds to compute what comes in one."""
    ones = np.ones(DEVICES)
    return Fleet(RATE_HZ * ones, step_s * ones, load / RATE_HZ * ones, exchange_s)


def rule(**given):
    return WindowRule(**({"minimum": 1, "maximum": 100_000} | given))


@pytest.mark.parametrize(("step_s", "exchange_s", "load"), [(0.2, 0.4, 0.0), (0.0, 0.6, 0.5), (0.1, 2.0, 0.2)])
def test_it_is_the_shortest_that_loses_nothing_where_every_sample_pays(step_s, exchange_s, load):
    here = fleet(step_s=step_s, exchange_s=exchange_s, load=load)
    expected_s = (step_s + exchange_s) / (1 - load)
    for noise in (1e6, math.inf):
        assert rule().best(here, noise) == pytest.approx(expected_s, rel=0.06)


@pytest.mark.parametrize("load", [1.0, 3.0])
@pytest.mark.parametrize("noise", [100.0, 500.0])
def test_where_not_all_samples_pay_it_is_the_root_of_cost_times_noise_over_rate_and_load(load, noise):
    """The worth of a step of w is S w / (S w + B_n) in c + u w seconds: best at sqrt(c B_n / (S u))."""
    cost_s = 2.0
    expected_s = math.sqrt(cost_s * noise / (TOTAL_HZ * load))
    found = rule().best(fleet(exchange_s=cost_s, load=load), noise)
    assert found == pytest.approx(expected_s, rel=0.15)


def test_a_price_of_a_step_makes_it_longer():
    """With a price k beside its time, and nothing else: sqrt(k B_n / S)."""
    assert rule(price_s=4.0).best(fleet(), 250.0) == pytest.approx(math.sqrt(4.0 * 250 / TOTAL_HZ), rel=0.1)


@pytest.mark.parametrize("noise", [1.0, 1e5])
def test_where_everything_is_kept_it_is_sustained(noise):
    here = fleet(exchange_s=0.5, load=0.5)
    found = rule(keeps_all=True).best(here, noise)
    [busy_s] = rule().pace(np.array([found]), here).busy_s
    assert busy_s < found == pytest.approx(1.0, rel=0.15)


def test_it_stays_within_its_bounds():
    assert rule(minimum=8).best(fleet(), 10.0) == pytest.approx(8 / RATE_HZ, rel=0.06)
    assert rule(longest_s=0.5).best(fleet(exchange_s=20.0), math.inf) == pytest.approx(0.5)
    assert rule(longest_s=0.001).best(fleet(), 10.0) == pytest.approx(0.001)


def chosen(*, seconds=1.0, bounds=NOISY, exchange_s=4.0, steps=range(5, 200, 5)):
    window = AutoWindow(seconds, rule())
    return window, [window.follow(step, fleet(exchange_s=exchange_s), bounds) for step in steps]


def test_it_changes_by_at_most_a_factor_of_two_in_twenty_steps_and_says_why():
    window, said = chosen(steps=range(5, 26, 5))
    assert [why is not None for why in said] == [True, False, False, False, True]
    assert window.seconds == pytest.approx(4.0, rel=0.06)
    assert said[0] == (
        "window 1 s -> 2 s: +0 % steps a second, as a step costs 4 s of computing and exchanging, +100 % progress a "
        "second, as the noise scale is 1,000,000 samples and the batch 1,000; 50 % of the samples are dropped, which "
        "are worth less than their time"
    )


def test_what_is_nearly_best_stays():
    _, said = chosen(seconds=4.5)
    assert not any(said)


def test_what_gains_next_to_nothing_is_not_done():
    """A tenth of the samples would do, but a step hardly takes longer with all of them."""
    bounds, here = Bounds(50.0, 45.0, 55.0), fleet(exchange_s=2.0, load=0.1)
    window = AutoWindow(2.0, rule())
    assert rule().best(here, 55.0) < 2.0 / 1.2
    assert window.follow(20, here, bounds) is None


def test_it_moves_no_further_than_noise_is_known():
    window, said = chosen(bounds=None, seconds=1.0)
    assert not any(said), "whatever the noise, it may be best"
    window, said = chosen(bounds=None, seconds=10.0, exchange_s=2.0)
    assert window.seconds == pytest.approx(2.0, rel=0.06), "nothing is longer than what loses no sample"
    assert "noise" not in next(filter(None, said))


def test_the_first_steps_vary_it_so_that_costs_can_be_told_apart():
    window = AutoWindow(1.0, rule())
    assert sorted(window.of_step(step) for step in range(1, 10)) == [0.8, *[1.0] * 7, 1.2]
    assert {window.of_step(step) for step in range(10, 50)} == {1.0}


@pytest.mark.parametrize(("longest_s", "expected_s"), [(0.5, 1.0), (1.1, 1.1), (2.0, 1.2)])
def test_it_is_not_varied_beyond_what_the_others_wait_for(longest_s, expected_s):
    assert AutoWindow(1.0, rule(longest_s=longest_s)).of_step(5) == expected_s


@pytest.mark.parametrize(("size", "least", "most"), [(64, 8, 64), (4, 8, 8), (1, 2, 2)])
def test_a_first_batch_is_no_smaller_than_the_least(size, least, most):
    """BatchNorm has no variance of one sample, and such steps would be on none."""
    config = load_config({"devices": 2, "steps": 1, "batch": {"window": "auto", "size": size, "min": least}})
    model, (fabric,) = torch.nn.Linear(2, 2), LocalFabric.create(1)
    exchange = GradientExchange(model.parameters(), fabric.reduce, fabric.rank, fabric.size)
    measuring = assembly.build_measuring(config, exchange, assembly.choose_optimizer(config, model, None))
    assert measuring.window.most_of_step(1) == most


def test_as_long_as_nothing_is_measured_a_device_takes_no_more_than_its_first_batch():
    window = AutoWindow(1.0, rule(), first_batch=64)
    assert [window.most_of_step(step) for step in (1, 2, 3, 100)] == [64, 64, None, None]
    assert AutoWindow(1.0, rule()).most_of_step(1) is None


def test_what_a_device_may_not_take_is_not_said_to_be_worth_little():
    window = AutoWindow(1.0, rule(maximum=20))
    one_is_fast = Fleet(np.array([1000.0, 10.0]), np.zeros(2), np.zeros(2), 0.0)
    said = window.follow(5, one_is_fast, Bounds(10.0, 9.0, 11.0))
    assert said.endswith(
        "95 % of the samples are dropped, as a device takes 20 a step at most (batch.max, buffer.capacity)"
    )


@pytest.mark.parametrize(
    ("limits", "sample_s", "why"),
    [
        ({"maximum": 20}, 0.0, "as a device takes 20 a step at most (batch.max, buffer.capacity)"),
        ({}, 0.005, "as no window keeps up"),
    ],
)
def test_where_everything_is_kept_nothing_is_said_to_be_dropped(limits, sample_s, why):
    window = AutoWindow(1.0, rule(keeps_all=True, longest_s=10.0, **limits))
    overrun = Fleet(np.array([1000.0, 1000.0]), np.full(2, 0.1), np.full(2, sample_s), 0.5)
    said = window.guess(5, overrun, 10.0)
    assert re.search(rf"; \d+ % of the samples wait longer and longer, {re.escape(why)}$", said)


def test_it_goes_on_where_it_was_unless_the_settings_begin_elsewhere():
    window, _ = chosen()
    same, other = AutoWindow(1.0, rule()), AutoWindow(0.5, rule())
    for one in (same, other):
        one.load(window.state())
    assert (same.seconds, other.seconds) == (window.seconds, 0.5)
    with pytest.raises(ValueError, match="window"):
        same.load(window.state() | {"seconds": float("inf")})
