"""Clocks. Nothing else in ScaDLES reads the time; ``ruff`` enforces it.

A clock counts *stream seconds*: the time in which samples arrive. On a real device they are wall seconds; a
:class:`WallClock` with ``speed=20`` lets 20 stream seconds pass in each wall second, so that a demonstration need
not wait for slow streams; a :class:`VirtualClock` moves only when somebody sleeps.
"""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from datetime import datetime, timezone


class Clock(ABC):
    """Stream time, and a way to let it pass."""

    __slots__ = ()

    @abstractmethod
    def now(self) -> float:
        """Return the stream time in seconds."""

    @abstractmethod
    def start(self, at_s: float = 0.0) -> None:
        """Let time pass, again or for the first time, from ``at_s`` on if that is later than now."""

    @abstractmethod
    def pause(self) -> None:
        """Stand still until :meth:`start`."""

    @abstractmethod
    def sleep(self, seconds: float) -> None:
        """Let ``seconds`` of stream time pass; nothing happens for zero or less."""

    @abstractmethod
    def advance_to(self, at_s: float) -> None:
        """Take note that all devices have waited for each other until ``at_s``: a wall clock has come there itself."""


class WallClock(Clock):
    """Stream time that follows the wall clock, ``speed`` times as fast.

    Args:
        speed: stream seconds per wall second, above 0.
        start_s: the stream time to start at (a resumed run goes on where it stood).
        running: whether it counts at once; otherwise it stands still until :meth:`start`.
    """

    def __init__(self, speed: float = 1.0, start_s: float = 0.0, *, running: bool = True) -> None:
        self.speed = speed
        self._stopped_at_s = start_s
        self._origin = time.monotonic() if running else None

    def start(self, at_s: float = 0.0) -> None:
        self._stopped_at_s = max(self.now(), at_s)
        self._origin = time.monotonic()

    def pause(self) -> None:
        self._stopped_at_s = self.now()
        self._origin = None

    def now(self) -> float:
        ran = 0.0 if self._origin is None else time.monotonic() - self._origin
        return self._stopped_at_s + ran * self.speed

    def sleep(self, seconds: float) -> None:
        if seconds > 0:
            time.sleep(seconds / self.speed)

    def advance_to(self, at_s: float) -> None:
        """Do nothing: waiting for others took its time."""


class VirtualClock(Clock):
    """Stream time that stands still until somebody sleeps.

    >>> clock = VirtualClock()
    >>> clock.sleep(2.5)
    >>> clock.now()
    2.5
    """

    __slots__ = ("_now_s",)

    def __init__(self, start_s: float = 0.0) -> None:
        self._now_s = start_s

    def start(self, at_s: float = 0.0) -> None:
        """Go to ``at_s`` if that is later than now; no time passes by itself."""
        self._now_s = max(self._now_s, at_s)

    def pause(self) -> None:
        """Do nothing: it always stands still."""

    def now(self) -> float:
        return self._now_s

    def sleep(self, seconds: float) -> None:
        if seconds > 0:
            self._now_s += seconds

    def advance_to(self, at_s: float) -> None:
        self._now_s = at_s


def wall_seconds() -> float:
    """Return monotonic wall seconds, for deadlines that must not depend on ``clock.speed``."""
    return time.monotonic()


def unix_seconds() -> float:
    """Return the seconds since 1970, which the timestamps of live records count as well."""
    return time.time()


def timestamp() -> str:
    """Return the date and time (UTC, ISO 8601, seconds), for headers."""
    return datetime.now(timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ")


def date_of(unix_s: float) -> datetime:
    """Return the date and time (UTC) of seconds since 1970."""
    return datetime.fromtimestamp(unix_s, timezone.utc)


def date_text(unix_s: float) -> str:
    """Return the same for people, to the minute.

    >>> date_text(86_400 * 365.25 * 50)
    '2020-01-01 12:00 UTC'
    """
    return date_of(unix_s).strftime("%Y-%m-%d %H:%M UTC")


def timestamp_number() -> int:
    """Return the date and time (UTC, seconds) as the digits of one number, for folder names."""
    return int(datetime.now(timezone.utc).strftime("%Y%m%d%H%M%S"))
