import numpy as np
import pytest
import torch

from scadles.clock import VirtualClock, WallClock
from scadles.errors import ConfigError
from scadles.streams import Arrivals, RateProfile, ReplaySource, open_source_url


def samples(offsets):
    return torch.from_numpy(offsets), torch.from_numpy(offsets)


def replay(query="", clock=None):
    return open_source_url(f"replay://{query}", samples=samples, clock=clock or VirtualClock(), unknown="ignored")


def test_url_gives_rate_and_profile():
    source = replay("?rate=10&profile=bursts&period_s=4&duty=0.25")
    source.open(0)
    assert source.poll(50, 4.0).times.max() == 1.0
    assert source.position == 40


def test_url_gives_poisson_arrivals_by_seed_and_device():
    def first(query):
        source = replay(query)
        source.open(0)
        return source.arrival_time(1)

    assert first("?arrivals=poisson&seed=1&device=2") == first("?arrivals=poisson&device=2&seed=1")
    assert first("?arrivals=poisson&seed=1&device=2") != first("?arrivals=poisson&seed=1&device=3")


@pytest.mark.parametrize(
    ("query", "message"),
    [
        ("?rat=5", "did you mean rate"),
        ("?rate=fast", "rate='fast' must be a number"),
        ("?rate=inf", "must be a number"),
        ("?rate=-1", "rate = -1"),
        ("?device=1.5", "device='1.5' must be an integer"),
        ("?profile=weekly", "profile='weekly'"),
        ("?profile=bursts&duty=2", "duty='2'"),
        ("?rate=5&rate=6", "twice"),
        ("?rate", "cannot be read"),
        ("somewhere?rate=5", "neither host nor path"),
    ],
)
def test_url_that_cannot_be_is_refused(query, message):
    with pytest.raises(ConfigError, match=message):
        replay(query)


def test_url_needs_samples_and_clock():
    with pytest.raises(ConfigError, match="samples"):
        open_source_url("replay://")


def test_position_below_zero_is_refused():
    with pytest.raises(ConfigError, match="position = -1"):
        replay().open(-1)


def test_a_position_ahead_of_the_stream_waits_for_it():
    clock = VirtualClock()
    source = replay("?rate=10", clock)
    source.open(30)
    assert source.lag() == 0
    assert source.skip(0) == 0
    assert source.poll(1, 10.0).offsets.tolist() == [30]
    assert clock.now() == pytest.approx(3.1)


def test_at_another_rate_records_follow_from_the_moment_on_at_which_the_stream_is_opened_again():
    clock = VirtualClock()
    slow = ReplaySource(samples, Arrivals(RateProfile.constant(10.0)), clock, rate_hz=10.0)
    slow.open(0)
    slow.poll(30, 100.0)
    clock.sleep(7.0)
    fast = ReplaySource(samples, Arrivals(RateProfile.constant(100.0)), clock, rate_hz=100.0)
    fast.open(30, slow.mark(30))
    assert fast.lag() == 0
    assert fast.poll(1, 10.0).times.tolist() == pytest.approx([10.01])
    again = ReplaySource(samples, Arrivals(RateProfile.constant(100.0)), clock, rate_hz=100.0)
    again.open(31, fast.mark(31))
    assert again.poll(1, 10.0).times.tolist() == pytest.approx([10.02])


def test_a_silent_stream_waits_for_the_timeout_only():
    clock = VirtualClock()
    source = replay("?rate=0", clock)
    source.open(0)
    assert len(source.poll(8, 2.5)) == 0
    assert clock.now() == 2.5


def test_polls_at_the_pace_of_the_stream_miss_no_record():
    clock = VirtualClock()
    source = ReplaySource(samples, Arrivals(RateProfile.constant(49.7)), clock)
    source.open(0)
    offsets = np.concatenate([source.poll(7, 100.0).offsets for _ in range(500)])
    np.testing.assert_array_equal(offsets, np.arange(3500))
    assert clock.now() == pytest.approx(3500 / 49.7)


def test_wall_clock_with_speed():
    clock = WallClock(speed=100.0)
    source = replay("?rate=10", clock)
    source.open(0)
    assert len(source.poll(50, 100.0)) == 50
    assert clock.now() >= 5.0


def test_a_shifted_stream_brings_a_record_at_the_moment_for_which_it_was_waited():
    """Whatever rounding makes of the shift, or whoever waits on a virtual clock would wait for ever."""
    rng = np.random.default_rng(0)
    for shift_s in rng.uniform(0, 100, 300):
        clock = VirtualClock(shift_s)
        source = open_source_url("replay://?rate=37", samples=None, clock=clock)
        source.open(0, {"shift_s": shift_s})
        for number in range(1, 20):
            assert len(source.poll(1, timeout_s=1.0)) == 1, (shift_s, number)


class TestTheEnd:
    def ending(self, clock, records, rate=10.0):
        source = ReplaySource(samples, Arrivals(RateProfile.constant(rate)), clock, records=records)
        source.open(0)
        return source

    def test_nothing_comes_after_the_last_record_and_nobody_waits_for_it(self):
        clock = VirtualClock()
        source = self.ending(clock, 25)
        assert len(source.poll(20, 60.0)) == 20
        assert not source.ended
        assert (len(source.poll(20, 60.0)), clock.now()) == (5, pytest.approx(2.5))
        assert source.ended
        assert (len(source.poll(20, 60.0)), source.lag(), clock.now()) == (0, 0, pytest.approx(2.5))

    def test_a_skip_passes_over_no_more_than_there_is(self):
        clock = VirtualClock()
        source = self.ending(clock, 25)
        clock.sleep(100.0)
        assert (source.lag(), source.skip(5), source.ended) == (25, 20, False)
        assert source.poll(20, 60.0).offsets.tolist() == list(range(20, 25))
        assert source.ended

    def test_a_stream_whose_next_record_never_arrives_has_ended(self):
        assert self.ending(VirtualClock(), 25, rate=0.0).ended

    def test_a_stream_without_a_number_of_records_never_ends(self):
        assert not self.ending(VirtualClock(), None, rate=0.0).ended
