import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from scadles.errors import ConfigError
from scadles.streams import RateMeter


@settings(deadline=None)
@given(st.floats(0.1, 1000), st.lists(st.floats(0.01, 30), min_size=1, max_size=30))
def test_a_constant_rate_is_measured_exactly_however_observations_are_spaced(rate, gaps):
    meter, now = RateMeter(), 3.0
    meter.observe(now, 0)
    for gap in gaps:
        now += gap
        meter.observe(now, rate * gap)
        assert meter.rate_hz == pytest.approx(rate, rel=1e-6)


@settings(deadline=None)
@given(st.floats(1, 500), st.floats(1, 500), st.floats(0.05, 2))
def test_a_change_is_followed(before, after, gap):
    meter, now = RateMeter(time_constant_s=5.0), 0.0
    meter.observe(now, 0)
    for rate, until in ((before, 100.0), (after, 150.0)):
        while now < until:
            now += gap
            meter.observe(now, rate * gap)
    assert meter.rate_hz == pytest.approx(after, abs=1e-3 * abs(before - after) + 1e-6 * after)


def test_the_first_observation_starts_the_measurement():
    meter = RateMeter()
    meter.observe(10.0, 1_000_000)
    assert meter.rate_hz == 0.0
    meter.observe(11.0, 20)
    assert meter.rate_hz == pytest.approx(20.0)


def test_records_at_the_same_moment_are_not_lost():
    meter = RateMeter()
    meter.observe(0.0, 0)
    meter.observe(1.0, 10)
    meter.observe(1.0, 10)
    assert meter.rate_hz > 20.0


def test_silence_is_forgotten_slowly():
    meter = RateMeter(time_constant_s=5.0)
    meter.observe(0.0, 0)
    meter.observe(1000.0, 100_000)
    meter.observe(1005.0, 0)
    assert meter.rate_hz == pytest.approx(100 / 2.718281828)


def test_state_goes_on_where_it_stood():
    meter, resumed = RateMeter(), RateMeter()
    assert meter.state() == {}
    resumed.load(meter.state())
    for now, count in ((0.0, 0), (1.0, 30), (2.5, 10)):
        meter.observe(now, count)
    resumed.load(json.loads(json.dumps(meter.state())))
    meter.observe(4.0, 7)
    resumed.observe(4.0, 7)
    assert resumed.rate_hz == meter.rate_hz


@pytest.mark.parametrize("value", [0.0, -1.0, float("nan")])
def test_time_constant_out_of_range(value):
    with pytest.raises(ConfigError, match="time_constant_s"):
        RateMeter(value)
