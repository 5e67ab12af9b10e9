import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from scadles.config import ProfileConfig
from scadles.errors import ConfigError
from scadles.streams import RateProfile

rates = st.floats(0.01, 1000)
periods = st.floats(0.1, 1000)
shares = st.floats(0.05, 1)


@st.composite
def profiles(draw):
    kind = draw(st.sampled_from(["constant", "bursts", "day", "outage"]))
    rate, period, share = draw(rates), draw(periods), draw(shares)
    if kind == "bursts":
        return RateProfile.bursts(rate, period_s=period, duty=share)
    if kind == "day":
        return RateProfile.day(rate, period_s=period, depth=share)
    if kind == "outage":
        return RateProfile.outage(rate, period_s=period, at_s=period * share / 2, length_s=period * share / 3)
    return RateProfile.constant(rate)


@settings(deadline=None)
@given(profiles(), st.lists(st.floats(1e-3, 1e5), min_size=1, max_size=20))
def test_expected_undoes_when(profile, records):
    records = np.array(sorted(records))
    times = profile.when(records)
    assert np.all(np.diff(times) >= -1e-9 * times[1:])
    np.testing.assert_allclose(profile.expected(times), records, rtol=1e-9, atol=1e-6)


@settings(deadline=None)
@given(profiles(), st.floats(0, 1e4))
def test_when_is_the_earliest_time(profile, time_s):
    records = profile.expected(time_s)
    if records > 1e-6:
        assert profile.when(np.array([records]))[0] <= time_s * (1 + 1e-9) + 1e-9


@settings(deadline=None)
@given(rates, periods, shares)
def test_bursts_and_day_keep_the_mean(rate, period, share):
    for profile in (
        RateProfile.bursts(rate, period_s=period, duty=share),
        RateProfile.day(rate, period_s=period, depth=share),
    ):
        assert np.isclose(profile.expected(period) / period, rate)
        assert np.isclose(profile.expected(7 * period), 7 * period * rate)


@settings(deadline=None)
@given(st.integers(1, 2000), st.floats(0.1, 50), shares)
def test_a_record_due_at_the_end_of_a_burst_comes_before_the_silence(cycles, rate, duty):
    profile = RateProfile.bursts(rate, period_s=3.0, duty=duty)
    time_s = profile.when(np.array([cycles * profile.expected(3.0)]))[0]
    assert np.isclose(time_s, (cycles - 1 + duty) * 3.0, rtol=1e-9)


def test_an_outage_takes_its_records_away():
    profile = RateProfile.outage(10.0, period_s=20.0, at_s=10.0, length_s=5.0)
    assert profile.expected(np.array([10.0, 12.0, 15.0, 20.0])).tolist() == [100.0, 100.0, 100.0, 150.0]
    assert profile.expected(20.0) / 20.0 == 7.5
    assert profile.when(np.array([100.0, 101.0, 150.0, 151.0])).round(9).tolist() == [10.0, 15.1, 20.0, 20.1]


def test_an_outage_may_begin_the_cycle_or_fill_it():
    assert RateProfile.outage(10.0, period_s=2.0, at_s=0.0, length_s=1.0).when(np.array([1e-12]))[0] >= 1.0
    assert RateProfile.outage(10.0, period_s=2.0, at_s=0.0, length_s=2.0).when(np.array([1.0]))[0] == np.inf


def test_a_day_is_lowest_at_its_ends():
    profile = RateProfile.day(100.0, period_s=1440.0, depth=1.0)
    per_minute = np.diff(profile.expected(np.arange(1441.0)))
    assert per_minute[0] < 0.01
    assert per_minute[720] > 199.9
    assert len(np.unique(per_minute.round(6))) > 700


def test_rate_zero_is_silent():
    profile = RateProfile.constant(0.0)
    assert profile.expected(1e9) == 0
    assert profile.when(np.array([1.0]))[0] == np.inf


def test_configuration_names_the_same_profiles():
    config = ProfileConfig(name="bursts", period_s=4.0, duty=0.5)
    times = np.linspace(0, 9, 50)
    same = RateProfile.bursts(5.0, period_s=4.0, duty=0.5)
    np.testing.assert_array_equal(RateProfile.of(config, 5.0).expected(times), same.expected(times))
    for name in ("constant", "day", "outage"):
        assert RateProfile.of(ProfileConfig(name=name), 5.0).expected(20.0) > 0


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: RateProfile.constant(-1.0), "rate = -1"),
        (lambda: RateProfile.constant(float("nan")), "rate = nan"),
        (lambda: RateProfile.bursts(1.0, period_s=2.0, duty=0.0), "duty = 0"),
        (lambda: RateProfile.bursts(1.0, period_s=0.0, duty=0.5), "0 s long"),
        (lambda: RateProfile.bursts(1.0, period_s=-2.0, duty=0.5), "duration = -1"),
        (lambda: RateProfile.day(1.0, period_s=2.0, depth=1.5), "depth = 1.5"),
        (lambda: RateProfile.outage(1.0, period_s=10.0, at_s=8.0, length_s=5.0), "outage_at_s"),
        (lambda: RateProfile.outage(1.0, period_s=10.0, at_s=-1.0, length_s=5.0), "duration = -1"),
    ],
)
def test_what_cannot_be_is_refused(make, message):
    with pytest.raises(ConfigError, match=message):
        make()
