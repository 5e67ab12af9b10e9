import numpy as np
import pytest
import torch

from scadles.clock import VirtualClock, WallClock
from scadles.streams import Arrivals, RateProfile, Records, ReplaySource, Source
from scadles.testing import SOURCE_CHECKS

BUSY = RateProfile.outage(20.0, period_s=1000.0, at_s=10.0, length_s=990.0)


def samples(offsets):
    return torch.from_numpy(offsets).to(torch.float32)[:, None], torch.from_numpy(offsets % 3)


def regular(clock):
    return ReplaySource(samples, Arrivals(BUSY), clock)


def poisson(clock):
    return ReplaySource(samples, Arrivals(BUSY, (7, 0)), clock)


def in_the_wall_clock(clock):
    del clock
    return ReplaySource(samples, Arrivals(BUSY), WallClock(speed=200.0, start_s=10.0))


@pytest.mark.parametrize("check", SOURCE_CHECKS, ids=lambda check: check.__name__)
@pytest.mark.parametrize("factory", [regular, poisson], ids=lambda factory: factory.__name__)
def test_replay_keeps_the_contract(factory, check):
    check(factory)


# A clock of its own that runs fast ends a timeout early for whoever looks at the wall.
FAST_CHECKS = [check for check in SOURCE_CHECKS if check.__name__ != "silence_returns_nothing"]


@pytest.mark.parametrize("check", FAST_CHECKS, ids=lambda check: check.__name__)
def test_a_source_may_have_a_clock_of_its_own(check):
    check(in_the_wall_clock)


class Broken(ReplaySource):
    """A correct source, to be broken in one way."""

    def __init__(self, clock):
        super().__init__(samples, Arrivals(BUSY), clock)


class Greedy(Broken):
    def poll(self, max_records, timeout_s):
        return super().poll(max_records + 1, timeout_s)


class Impatient(Broken):
    def poll(self, max_records, timeout_s):
        return super().poll(max_records, 0.0)


class Dawdling(Broken):
    def poll(self, max_records, timeout_s):
        self._clock.sleep(0.25)
        return super().poll(max_records, timeout_s)


class Backwards(Broken):
    def poll(self, max_records, timeout_s):
        records = super().poll(max_records, timeout_s)
        return Records(records.offsets[::-1], records.times, records.x, records.y)


class Forgetful(Broken):
    def open(self, position, mark=None):
        super().open(0)


class OnlySaysThatItRewinds(Broken):
    def rewind(self, position, mark=None):
        return True


class RewindsTooFar(Broken):
    def rewind(self, position, mark=None):
        self._position = max(0, position - 1)
        return True


class MovesAndDeniesIt(Broken):
    def rewind(self, position, mark=None):
        self._position = position
        return False


class Unsteady(Broken):
    def poll(self, max_records, timeout_s):
        records = super().poll(max_records, timeout_s)
        return Records(records.offsets, records.times, records.x + max_records, records.y)


class SkipsAll(Broken):
    def skip(self, keep):
        return super().skip(0)


class CountsSkipsWrongly(Broken):
    def skip(self, keep):
        return super().skip(keep) + 1


class WrongLag(Broken):
    def lag(self):
        return super().lag() and 1_000


class StuckPosition(Broken):
    @property
    def position(self):
        return max(0, self._position - 1)


class Ragged(Broken):
    def poll(self, max_records, timeout_s):
        records = super().poll(max_records, timeout_s)
        return Records(records.offsets, records.times[:-1], records.x, records.y)


class ClosesOnce(Broken):
    closed = False

    def close(self):
        if self.closed:
            raise RuntimeError("closed already")
        self.closed = True


@pytest.mark.parametrize(
    ("broken", "caught_by"),
    [
        (Greedy, "poll_returns_no_more_than_asked"),
        (Impatient, "poll_waits_for_its_records"),
        (Impatient, "silence_returns_nothing"),
        (Dawdling, "timeout_zero_does_not_wait"),
        (Dawdling, "poll_waits_no_longer_than_needed"),
        (Backwards, "records_come_in_order"),
        (Ragged, "records_come_in_order"),
        (Forgetful, "resuming_brings_the_same_records"),
        (OnlySaysThatItRewinds, "rewinding_brings_the_same_records"),
        (RewindsTooFar, "rewinding_brings_the_same_records"),
        (MovesAndDeniesIt, "rewinding_brings_the_same_records"),
        (Unsteady, "poll_in_pieces_changes_nothing"),
        (SkipsAll, "skip_keeps_the_newest"),
        (SkipsAll, "skip_of_little_does_nothing"),
        (CountsSkipsWrongly, "skip_keeps_the_newest"),
        (WrongLag, "lag_counts_what_waits"),
        (StuckPosition, "position_follows_the_records"),
        (ClosesOnce, "closing_twice_is_no_error"),
    ],
)
def test_a_broken_source_is_caught(broken, caught_by):
    check = next(check for check in SOURCE_CHECKS if check.__name__ == caught_by)
    with pytest.raises((AssertionError, RuntimeError)) as caught:
        check(broken)
    assert str(caught.value)


def test_a_source_without_a_lag_passes():
    class Unknown(Broken):
        def lag(self):
            return None

    check = next(check for check in SOURCE_CHECKS if check.__name__ == "lag_counts_what_waits")
    check(Unknown)


def test_a_source_that_cannot_go_back_passes():
    class GoesOn(Broken):
        def rewind(self, position, mark=None):
            return Source.rewind(self, position, mark)

    check = next(check for check in SOURCE_CHECKS if check.__name__ == "rewinding_brings_the_same_records")
    check(GoesOn)


def test_the_contract_has_no_default():
    with pytest.raises(TypeError, match="abstract"):
        Source()


def test_replay_on_a_virtual_clock_moves_it_to_the_record():
    clock = VirtualClock()
    source = regular(clock)
    source.open(0)
    assert source.poll(1, 1.0).times.tolist() == [0.05]
    assert clock.now() == 0.05
    assert np.isclose(source.arrival_time(3), 0.2)
