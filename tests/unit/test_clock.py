import re
import time

import pytest

from scadles import clock as clock_module
from scadles.clock import VirtualClock, WallClock, timestamp, wall_seconds


class FakeTime:
    """A wall clock that a test holds in its hand."""

    def __init__(self):
        self.now_s = 100.0
        self.slept = []

    def monotonic(self):
        return self.now_s

    def sleep(self, seconds):
        self.slept.append(seconds)
        self.now_s += seconds


@pytest.fixture
def wall(monkeypatch):
    fake = FakeTime()
    monkeypatch.setattr(clock_module, "time", fake)
    return fake


def test_virtual_time_stands_still_until_somebody_sleeps():
    clock = VirtualClock(start_s=3.0)
    clock.start()
    assert clock.now() == clock.now() == 3.0
    clock.sleep(0.5)
    assert clock.now() == 3.5


def test_virtual_time_begins_where_others_have_come():
    clock = VirtualClock(start_s=3.0)
    clock.start(2.0)
    assert clock.now() == 3.0
    clock.start(4.5)
    assert clock.now() == 4.5


@pytest.mark.parametrize("seconds", [0.0, -1.0])
def test_nothing_happens_for_zero_or_less(wall, seconds):
    virtual = VirtualClock()
    virtual.sleep(seconds)
    WallClock().sleep(seconds)
    assert virtual.now() == 0.0
    assert wall.slept == []


def test_wall_clock_counts_stream_seconds(wall):
    clock = WallClock(speed=20.0, start_s=7.0)
    wall.now_s += 2.0
    assert clock.now() == 7.0 + 40.0
    clock.sleep(10.0)
    assert wall.slept == [0.5]
    assert clock.now() == 7.0 + 50.0


def test_what_happens_before_start_takes_no_stream_time(wall):
    clock = WallClock(speed=2.0, start_s=7.0, running=False)
    wall.now_s += 30.0
    clock.start()
    assert clock.now() == 7.0
    wall.now_s += 1.0
    clock.start()
    assert clock.now() == 9.0


def test_a_paused_clock_stands_still(wall):
    clock = WallClock(speed=2.0)
    wall.now_s += 1.0
    clock.pause()
    wall.now_s += 30.0
    assert clock.now() == 2.0
    clock.start()
    wall.now_s += 1.0
    assert clock.now() == 4.0


def test_wall_seconds_know_no_speed(wall):
    WallClock(speed=50.0)
    before_s = wall_seconds()
    wall.now_s += 1.5
    assert wall_seconds() - before_s == 1.5


def test_a_real_wall_clock_moves():
    clock = WallClock(speed=100.0)
    started = time.monotonic()
    clock.sleep(1.0)
    assert clock.now() >= 1.0
    assert time.monotonic() - started >= 0.01


def test_timestamp_is_utc_in_iso_8601():
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ", timestamp())
