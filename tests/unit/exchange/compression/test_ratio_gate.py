"""What share of a gradient is sent: what buys most by what was measured, and the reason in words."""

import json
import math
from collections import Counter

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from scadles.errors import ConfigError
from scadles.exchange.compression import RATIOS, AtBest, RatioGate, Times, energy
from scadles.exchange.compression.energy import KeptEnergy, lag_steps
from scadles.exchange.compression.transfer_line import Timed, TransferLine

LAG = 15.0
SIZES = [4e6, 160e3, 54e3, 20e3]
KEPT = {0.1: 0.6, 0.03: 0.3, 0.01: 0.12}


class Fleet:
    """What steps take: a window, computing, coding, and a link, which may change."""

    def __init__(self, bandwidth_bps, *, latency_s=0.0, coding_s=0.0, compute_s=0.1, window_s=0.0, kept=KEPT):
        self.bandwidth_bps, self.latency_s, self.coding_s = bandwidth_bps, latency_s, coding_s
        self.compute_s, self.window_s, self.kept = compute_s, window_s, kept
        self.late, self.busy_s = (0.0, 0.0), 0.0
        self.took = []

    def exchange(self, level):
        return self.latency_s + 8 * SIZES[level] / self.bandwidth_bps, self.coding_s if level else 0.0

    def seconds(self, level):
        return max(self.window_s, self.compute_s + sum(self.exchange(level)))

    def step(self, gate, number, slow_s=0.0):
        """Let a step pass, and the gate hear of it."""
        level = gate.level
        wait_s = max(0.0, self.window_s - self.busy_s)
        times = Times(*self.late, wait_s + self.compute_s, self.compute_s)
        rated = gate.rated(number)
        gate.observe(number, SIZES, times, 10.0, 10.0 * self.kept[rated])
        transfer_s, coding_s = self.exchange(level)
        self.late = transfer_s + slow_s, coding_s
        self.busy_s = self.compute_s + sum(self.late)
        self.took.append(wait_s + self.busy_s)
        return RATIOS[level]


def drive(gate, fleet, steps, first=1):
    return [fleet.step(gate, number) for number in range(first, first + steps)]


def best_of(fleet, horizon_s):
    """What buys most, by what steps really take."""
    return [
        1 / fleet.seconds(level) - lag_steps(fleet.kept.get(ratio, 1.0), LAG) / horizon_s
        for level, ratio in enumerate(RATIOS)
    ]


def test_it_begins_with_a_tenth_and_does_not_try_what_would_be_very_slow():
    gate = RatioGate(LAG)
    assert (gate.ratio, gate.reason, gate.why) == (0.1, "0.1, to see what it takes", "0.1, to see what it takes")
    taken = drive(gate, Fleet(20e6), 100)
    assert taken[:3] == [0.1] * 3
    assert None not in taken


def test_it_tries_soon_what_may_be_as_fast():
    taken = drive(RatioGate(LAG), Fleet(1e9, latency_s=0.05, coding_s=0.02), 40)
    assert set(taken[20:]) == {None}


def test_it_says_what_it_changes_and_why():
    gate = RatioGate(LAG)
    taken = drive(gate, Fleet(20e6), 60)
    assert taken[-1] == 0.01
    assert gate.reason == "0.01 buys most"
    ratio, said = gate.changes[0]
    assert ratio == 0.01
    assert said.startswith("compression 0.1 -> 0.01, 1.")
    assert said.split(": ", 1)[1].startswith("0.01 buys most, in dense steps a second: ")
    assert "(0.01: 0.108 s a step, 110 steps late) against " in gate.why
    assert "(none: 1.7 s a step, 0 steps late)" in gate.why


@pytest.mark.parametrize("bandwidth_bps", [1e5, 1e6, 1e7, 1e8, 1e9])
@pytest.mark.parametrize("latency_s", [0.0, 0.05])
@pytest.mark.parametrize("coding_s", [0.0, 0.3])
@pytest.mark.parametrize("window_s", [0.0, 1.0])
def test_it_finds_what_buys_nearly_most(bandwidth_bps, latency_s, coding_s, window_s):
    gate = RatioGate(LAG)
    fleet = Fleet(bandwidth_bps, latency_s=latency_s, coding_s=coding_s, window_s=window_s)
    taken = drive(gate, fleet, 400)
    gains = best_of(fleet, max(sum(fleet.took), 100 * fleet.seconds(0)))
    mine = gains[RATIOS.index(Counter(taken[-100:]).most_common(1)[0][0])]
    assert mine >= 0.95 * max(gains)


def test_where_samples_are_waited_for_longer_nothing_is_compressed():
    """No messages could be so fast that a step would take less."""
    gate = RatioGate(LAG)
    fleet = Fleet(100e6, window_s=1.0)
    assert drive(gate, fleet, 1000)[6:] == [None] * 994
    assert len(gate.changes) == 1


def test_what_the_window_hides_is_sent_again():
    """Once messages are fast enough for all of the gradient within the wait for samples."""
    gate, fleet = RatioGate(LAG), Fleet(10e6, window_s=1.0)
    assert drive(gate, fleet, 100)[-1] == 0.1
    fleet.bandwidth_bps = 100e6
    assert drive(gate, fleet, 30, 101)[-1] is None


@pytest.mark.parametrize(("before", "after"), [(2e6, 2e7), (2e7, 2e8), (2e8, 2e7), (2e7, 2e6), (2e6, 2e5)])
def test_a_link_that_changes_tenfold_is_followed_within_tens_of_steps(before, after):
    gate, fleet = RatioGate(LAG), Fleet(before, window_s=0.3)
    drive(gate, fleet, 200)
    fleet.bandwidth_bps = after
    drive(gate, fleet, 30, 201)
    gains = best_of(fleet, max(sum(fleet.took), 100 * fleet.seconds(0)))
    assert gains[gate._home] >= 0.95 * max(gains)


def test_latency_is_not_taken_for_bandwidth():
    """Nearly all of what a dense step takes stays with small messages: they are tried once, and rarely again."""
    fleet = Fleet(1e9, latency_s=0.5)
    taken = drive(RatioGate(LAG), fleet, 300)
    assert taken.count(None) >= 285
    assert set(taken[20:200]) == {None}


def test_a_slow_moment_changes_nothing():
    gate, fleet = RatioGate(LAG), Fleet(1e10)
    for number in range(1, 200):
        fleet.step(gate, number, slow_s=5.0 if number in (1, 50, 51, 120) else 0.0)
    assert gate.ratio is None
    assert len(gate.changes) == 1


class AsLongAsTheWork:
    """Windows that end with the work, of streams that bring as many samples as the noise scale has in ``noise_s``."""

    def __init__(self, noise_s):
        self.noise_s = noise_s

    def at_best(self, exchange_s, lag, elapsed_s):
        step_s = 0.1 + exchange_s
        return AtBest(max(1 - lag * step_s / max(elapsed_s, 200.0), 0.0) / (step_s + self.noise_s), step_s, step_s)


@pytest.mark.parametrize(("noise_s", "best"), [(1000.0, None), (0.0, 0.01)])
def test_where_windows_are_chosen_too_faster_steps_are_worth_less_the_noisier_gradients_are(noise_s, best):
    """They are on fewer samples; and the present window does not matter."""
    gate, fleet = RatioGate(LAG, window_s=5.0), Fleet(3e7)
    gate.windows = AsLongAsTheWork(noise_s)
    assert drive(gate, fleet, 60)[-1] == best
    assert "in noiseless steps a second" in gate.why


def test_energy_that_is_spread_makes_small_ratios_dear():
    few = drive(RatioGate(LAG), Fleet(1e8, kept={0.1: 0.9, 0.03: 0.85, 0.01: 0.8}), 100)
    many = drive(RatioGate(LAG), Fleet(1e8, kept={0.1: 0.12, 0.03: 0.04, 0.01: 0.015}), 100)
    assert few[-1] in (0.03, 0.01)
    assert many[-1] in (None, 0.1)


def test_a_ratio_that_disappoints_in_use_is_left():
    """What is kept back lowers what the largest entries hold, which shows only once it is in use."""
    gate, fleet, taken = RatioGate(LAG), Fleet(1e8), []
    for number in range(1, 130):
        fleet.kept = {0.1: 0.02, 0.03: 0.01, 0.01: 0.005} if gate.ratio else {0.1: 0.6, 0.03: 0.3, 0.01: 0.1}
        taken.append(fleet.step(gate, number))
    assert any(ratio is not None for ratio in taken)
    assert set(taken[60:]) == {None}
    assert len(gate.changes) <= 7


def test_messages_that_are_no_smaller_are_never_tried():
    gate, fleet = RatioGate(LAG), Fleet(1e6)
    for number in range(1, 100):
        gate.observe(number, [1e6, 2e6, 1e6, 3e6], Times(*fleet.late, 0.1, 0.1), 1.0, 0.9)
        fleet.late = 8.0, 0.0
        assert gate.ratio is None


def test_numbers_that_are_none_change_nothing():
    gate, fleet = RatioGate(LAG), Fleet(1e7)
    drive(gate, fleet, 50)
    before = gate.state()
    for wrong in (math.nan, math.inf, -1.0):
        gate.observe(51, SIZES, Times(wrong, 0.0, 1.0, 1.0), math.nan, 1.0)
    after = gate.state()
    assert {name for name in after if after[name] != before[name]} == {"step"}


@given(st.lists(st.tuples(st.floats(0, 9), st.floats(0, 9)), max_size=60), st.integers(0, 60))
def test_a_state_goes_on_where_it_was(measured, saved_after):
    first, second = RatioGate(LAG, retry_steps=1), RatioGate(LAG, retry_steps=1)
    for number, (transfer_s, ready_s) in enumerate(measured, 1):
        if number == saved_after:
            second.load(json.loads(json.dumps(first.state())))
        for gate in (first, second):
            gate.observe(number, SIZES, Times(transfer_s, 0.1, ready_s, ready_s / 2), 1.0, 0.5)
    assert saved_after > len(measured) or not saved_after or second.state() == first.state()


@pytest.mark.parametrize(
    ("settings", "message"), [({"margin": 1}, "margin = 1"), ({"retry_steps": 0}, "retry_steps = 0")]
)
def test_settings_that_cannot_be_are_refused(settings, message):
    with pytest.raises(ConfigError, match=message):
        RatioGate(LAG, **settings)


class TestTransferLine:
    @given(st.floats(0, 1), st.floats(1e-9, 1e-5))
    def test_it_finds_latency_and_bandwidth(self, latency_s, byte_s):
        line = TransferLine()
        line.fit(*(Timed(size, latency_s + byte_s * size) for size in (4e6, 20e3)))
        assert line.seconds(160e3) == pytest.approx(latency_s + byte_s * 160e3, rel=1e-3, abs=1e-6)

    def test_it_is_never_negative(self):
        line = TransferLine()
        line.fit(Timed(1e6, 1.0), Timed(2e6, 5.0))  # more than twice as long
        assert (line.latency_s, line.seconds(2e6)) == (0.0, 5.0)
        line.fit(Timed(1e6, 2.0), Timed(2e6, 1.0))  # less takes longer
        assert line.seconds(4e6) == line.seconds(1e3) == 2.0

    def test_one_size_stretches_it(self):
        line = TransferLine()
        line.fit(Timed(1e6, 2.0), Timed(2e6, 3.0))
        line.stretch(Timed(1e6, 20.0))
        assert (line.seconds(1e6), line.seconds(2e6)) == (20.0, 30.0)


class TestEnergy:
    @pytest.mark.parametrize("n", [10, 5000])
    @pytest.mark.parametrize("ratio", [0.1, 0.03, 0.01])
    def test_a_short_vector_is_looked_at_as_a_whole(self, n, ratio):
        values = torch.randn(n, generator=torch.Generator().manual_seed(0)) ** 3
        largest = values.abs().topk(max(1, round(ratio * n))).values
        expected = [float(part.double().square().sum()) for part in (values, largest)]
        assert energy(values, ratio, np.random.default_rng(0)) == pytest.approx(expected, rel=1e-6)

    @pytest.mark.parametrize(("ratio", "within"), [(0.1, 0.02), (0.03, 0.04), (0.01, 0.06)])
    def test_a_long_one_by_a_sample(self, ratio, within):
        values = torch.randn(2_000_000, generator=torch.Generator().manual_seed(0))
        values *= torch.linspace(0.1, 2.0, len(values))
        largest = values.abs().topk(round(ratio * len(values))).values
        expected = [float(part.double().square().sum()) for part in (values, largest)]
        found = np.array([energy(values, ratio, np.random.default_rng(seed)) for seed in range(10)])
        shares = found[:, 1] / found[:, 0]
        assert shares == pytest.approx([expected[1] / expected[0]] * 10, rel=3 * within)
        assert found.mean(axis=0) == pytest.approx(expected, rel=2 * within)

    def test_of_nothing_there_is_none(self):
        assert energy(torch.zeros(100), 0.1, np.random.default_rng(0)) == (0.0, 0.0)


class TestKeptEnergy:
    def test_what_is_in_use_keeps_less_which_is_remembered(self):
        kept = KeptEnergy(3)
        assert [kept.share(level) for level in range(3)] == [1.0, 0.0, 0.0]
        kept.observe(1, 10.0, 8.0)
        kept.observe(2, 10.0, 6.0)
        kept.use(1)
        assert kept.share(1) == 0.8
        kept.observe(1, 10.0, 4.0)
        assert kept.share(1) == 0.4
        kept.use(0)
        kept.observe(1, 10.0, 6.0)
        assert kept.share(1) == pytest.approx(0.3)

    def test_what_is_in_use_first_is_known_beside_another(self):
        kept = KeptEnergy(3, 1)
        kept.observe(1, 10.0, 8.0)
        kept.observe(2, 10.0, 6.0)
        kept.use(2)
        assert (kept.share(1), kept.share(2)) == (0.8, 0.6)

    def test_it_follows_slowly_once_it_has_looked(self):
        kept = KeptEnergy(2)
        for share in (0.5, 1.0, 1.0):
            kept.observe(1, 1.0, share)
        assert kept.share(1) == pytest.approx(0.755)

    @pytest.mark.parametrize("wrong", [(0.0, 0.0), (math.nan, 1.0), (math.inf, 1.0), (1.0, -1.0), (1.0, math.nan)])
    def test_what_is_no_number_is_passed_over(self, wrong):
        kept = KeptEnergy(2)
        before = kept.state()
        kept.observe(1, *wrong)
        assert kept.state() == before
