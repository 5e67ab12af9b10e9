import math

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from scadles.config import AvailabilityConfig
from scadles.simulation.availability import Availability

ALWAYS = AvailabilityConfig()
DRAWN = AvailabilityConfig(on_s=30, off_s=10)


def windows(*given, period_s=None):
    return AvailabilityConfig(windows_s=given, period_s=period_s)


def changes(availability, device, until_s):
    """Follow one device from the start; return the times of its changes, checking that each is one."""
    time_s, times_s = 0.0, []
    while (next_s := availability.next_change(device, time_s)) < until_s:
        assert next_s > time_s
        assert availability.on(next_s)[device] != availability.on(time_s)[device]
        time_s = next_s
        times_s.append(time_s)
    return times_s


class TestAlways:
    @pytest.mark.parametrize("config", [ALWAYS, (ALWAYS,) * 3])
    def test_nobody_is_ever_off(self, config):
        availability = Availability(config, devices=3, seed=0)
        assert availability.always
        assert availability.on(1e9)[2]
        assert availability.next_change(2, 5.0) == math.inf
        assert availability.on(0.0).tolist() == [True] * 3

    def test_it_stores_nothing(self):
        assert vars(Availability(ALWAYS, devices=10_000, seed=0)).keys() == {"always", "_devices"}


class TestWindows:
    def test_on_inside_and_off_outside(self):
        availability = Availability(windows((0, 50), (70, 100)), devices=2, seed=0)
        expected = {0: True, 49.9: True, 50: False, 69.9: False, 70: True, 99.9: True, 100: False, 1e6: False}
        assert {time_s: availability.on(time_s)[1] for time_s in expected} == expected
        assert changes(availability, 1, 1e6) == [50, 70, 100]
        assert availability.next_change(1, 100.0) == math.inf

    def test_a_period_begins_them_again(self):
        availability = Availability(windows((10, 50), period_s=60), devices=1, seed=0)
        assert changes(availability, 0, 200) == [10, 50, 70, 110, 130, 170, 190]

    def test_windows_that_meet_at_the_period_are_one(self):
        availability = Availability(windows((0, 50), (70, 100), period_s=100), devices=1, seed=0)
        assert changes(availability, 0, 300) == [50, 70, 150, 170, 250, 270]

    def test_a_window_as_long_as_the_period_never_ends(self):
        availability = Availability(windows((0, 100), period_s=100), devices=1, seed=0)
        assert availability.on(100.0)[0]
        assert availability.next_change(0, 100.0) == math.inf

    @given(st.floats(0.1, 100), st.lists(st.floats(0, 1), min_size=2, max_size=8, unique=True), st.floats(0, 1e4))
    def test_what_is_asked_first_does_not_matter(self, period_s, edges, start_s):
        ascending = sorted({edge * period_s for edge in edges})
        pairs = list(zip(ascending[::2], ascending[1::2], strict=False))
        assume(pairs)  # edges may be too close to be two
        config = windows(*pairs, period_s=period_s)
        asked = Availability(config, devices=1, seed=0)
        time_s = start_s
        for _ in range(20):
            fresh = Availability(config, devices=1, seed=0)
            assert asked.on(time_s)[0] == fresh.on(time_s)[0]
            assert asked.next_change(0, time_s) == fresh.next_change(0, time_s)
            next_s = fresh.next_change(0, time_s)
            if next_s == math.inf:
                break
            assert next_s > time_s
            time_s = next_s


class TestDrawn:
    def test_it_depends_on_seed_and_device_alone(self):
        few, many = (Availability(DRAWN, devices=n, seed=1) for n in (2, 50))
        assert changes(few, 1, 1000) == changes(many, 1, 1000)
        assert changes(few, 0, 1000) != changes(few, 1, 1000)
        assert changes(few, 1, 1000) != changes(Availability(DRAWN, devices=2, seed=2), 1, 1000)

    @given(st.lists(st.tuples(st.integers(0, 4), st.floats(0, 500)), max_size=20))
    def test_the_order_of_questions_does_not_matter(self, questions):
        asked = Availability(DRAWN, devices=5, seed=3)
        for device, time_s in questions:
            fresh = Availability(DRAWN, devices=5, seed=3)
            assert asked.on(time_s)[device] == fresh.on(time_s)[device]
            assert asked.next_change(device, time_s) == fresh.next_change(device, time_s)
            assert asked.on(time_s).tolist() == fresh.on(time_s).tolist()

    @pytest.mark.parametrize("time_s", [0.0, 7.0, 200.0])
    def test_three_in_four_are_on_at_any_time(self, time_s):
        on = Availability(DRAWN, devices=4000, seed=0).on(time_s)
        assert on.dtype == bool
        assert np.mean(on) == pytest.approx(0.75, abs=3 * math.sqrt(0.75 * 0.25 / 4000))

    def test_mean_lengths(self):
        availability = Availability(DRAWN, devices=1, seed=0)
        times_s = changes(availability, 0, 100_000)
        lengths = np.diff(times_s)
        first_on = availability.on(times_s[0])[0]
        on, off = (lengths[::2], lengths[1::2]) if first_on else (lengths[1::2], lengths[::2])
        assert np.mean(on) == pytest.approx(30, rel=0.07)
        assert np.mean(off) == pytest.approx(10, rel=0.07)


def test_each_device_may_have_its_own():
    config = (ALWAYS, windows((0, 50)), DRAWN, windows((60, 70), period_s=80))
    availability = Availability(config, devices=4, seed=0)
    assert not availability.always
    assert availability.next_change(0, 3.0) == math.inf
    alone = Availability(DRAWN, devices=4, seed=0)
    for time_s in (0.0, 55.0, 65.0, 20.0, 145.0):
        expected = [True, time_s < 50, alone.on(time_s)[2], 60 <= time_s % 80 < 70]
        assert availability.on(time_s).tolist() == expected
