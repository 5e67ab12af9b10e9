import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from scadles.streams import Arrivals, RateProfile
from scadles.streams.arrivals import BLOCK, CACHED_BLOCKS

PROFILES = [
    RateProfile.constant(37.3),
    RateProfile.bursts(50.0, period_s=20.0, duty=0.25),
    RateProfile.day(20.0, period_s=60.0, depth=1.0),
    RateProfile.outage(10.0, period_s=20.0, at_s=10.0, length_s=5.0),
]
seeds = st.none() | st.tuples(st.integers(0, 5), st.integers(0, 3))


@settings(deadline=None)
@given(st.sampled_from(PROFILES), seeds, st.integers(0, 5000))
def test_a_record_has_arrived_at_its_own_time_and_not_before(profile, seed, record):
    arrivals = Arrivals(profile, seed)
    time_s = arrivals.time(record)
    assert arrivals.count_by(time_s) >= record + 1
    assert arrivals.count_by(np.nextafter(time_s, 0.0)) <= record


@settings(deadline=None)
@given(st.sampled_from(PROFILES), seeds, st.lists(st.floats(0, 300), max_size=8))
def test_count_agrees_with_times(profile, seed, moments):
    arrivals = Arrivals(profile, seed)
    times = Arrivals(profile, seed).times(0, 20_000)
    for moment in moments:
        assert arrivals.count_by(moment) == np.searchsorted(times, moment, side="right")


@settings(deadline=None)
@given(st.lists(st.tuples(st.integers(0, 10_000), st.integers(0, 3000)), min_size=1, max_size=6))
def test_poisson_times_do_not_depend_on_the_order_of_calls(calls):
    reference = Arrivals(PROFILES[0], (1, 2)).times(0, 13_000)
    arrivals = Arrivals(PROFILES[0], (1, 2))
    for first, count in calls:
        np.testing.assert_array_equal(arrivals.times(first, count), reference[first : first + count])


def test_times_do_not_fall_and_are_regular_when_asked():
    for profile in PROFILES:
        for seed in (None, (3, 0)):
            assert np.all(np.diff(Arrivals(profile, seed).times(0, 5000)) >= 0)
    np.testing.assert_allclose(np.diff(Arrivals(RateProfile.constant(4.0)).times(0, 100)), 0.25)


def test_poisson_gaps_are_exponential():
    gaps = np.diff(Arrivals(RateProfile.constant(10.0), (0, 0)).times(0, 50_000))
    assert abs(gaps.mean() - 0.1) < 0.002
    assert abs(gaps.std() - 0.1) < 0.003
    counts = np.histogram(np.cumsum(gaps), bins=np.arange(0, 4000))[0]
    assert abs(counts.var() / counts.mean() - 1) < 0.1


def test_devices_and_seeds_differ():
    times = [Arrivals(PROFILES[0], parts).time(0) for parts in ((0, 0), (0, 1), (1, 0))]
    assert len(set(times)) == 3


def test_memory_is_bounded(monkeypatch):
    monkeypatch.setattr("scadles.streams.arrivals.MOST_STARTS", 16)
    arrivals = Arrivals(PROFILES[0], (0, 0))
    for time_s in range(2000):
        arrivals.count_by(time_s)
        assert len(arrivals._blocks) <= CACHED_BLOCKS
        assert len(arrivals._starts) <= 16
    assert arrivals.count_by(2000) > 1000 * BLOCK


@settings(deadline=None)
@given(st.lists(st.tuples(st.integers(0, 10_000), st.integers(0, 3000), st.floats(0, 300)), min_size=1, max_size=6))
def test_what_is_forgotten_is_found_again_to_the_bit(calls):
    reference = Arrivals(PROFILES[0], (1, 2)).times(0, 13_000)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("scadles.streams.arrivals.MOST_STARTS", 4)
        arrivals = Arrivals(PROFILES[0], (1, 2))
        for first, count, time_s in calls:
            np.testing.assert_array_equal(arrivals.times(first, count), reference[first : first + count])
            assert arrivals.count_by(time_s) == np.searchsorted(reference, time_s, side="right")
        assert len(arrivals._starts) <= 4


def test_a_silent_stream_brings_nothing():
    for seed in (None, (0, 0)):
        arrivals = Arrivals(RateProfile.constant(0.0), seed)
        assert arrivals.count_by(1e12) == 0
        assert arrivals.times(0, 3).tolist() == [np.inf] * 3
        assert len(arrivals.times(5, 0)) == 0


def test_nothing_has_arrived_before_the_start():
    assert Arrivals(PROFILES[0]).count_by(-1.0) == 0
