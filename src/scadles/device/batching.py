"""How much to train on now."""

from __future__ import annotations

from abc import ABC, abstractmethod


class BatchRule(ABC):
    """The size to aim at, and how long to wait for it."""

    @abstractmethod
    def target(self, rate_hz: float) -> int:
        """Return the batch size to aim at, given the measured rate of the stream."""

    @abstractmethod
    def deadline_s(self, last_take_s: float) -> float:
        """Return the stream time at which a device trains on what is there, be it nothing."""

    def resize(self, window_s: float, most: int | None = None) -> None:  # noqa: B027 - most rules have no window
        """Take another window from now on, where this rule has one, and not more than ``most`` samples."""


class FixedBatch(BatchRule):
    """The same batch size on every device, as conventional distributed training has it.

    A stream of S samples per second needs ``size / S`` seconds, so the slowest holds up everyone (paper, section II).

    Args:
        size: samples.
        max_wait_s: stream seconds after which a device goes on with what it has, so that a silent stream stops nobody.
    """

    def __init__(self, size: int, max_wait_s: float) -> None:
        self.size = size
        self.max_wait_s = max_wait_s

    def target(self, rate_hz: float) -> int:
        return self.size

    def deadline_s(self, last_take_s: float) -> float:
        return last_take_s + self.max_wait_s


class RateBatch(BatchRule):
    """One window of the stream: b = S * window, clamped to minimum..maximum (paper, section IV: one second, 8..1024).

    The window's end is the deadline: a stream that brought less trains on less, a silent one on nothing.

    >>> rule = RateBatch(window_s=1.0, minimum=8, maximum=1024)
    >>> [rule.target(rate) for rate in (3, 38, 5000)]
    [8, 38, 1024]
    """

    def __init__(self, window_s: float, minimum: int, maximum: int) -> None:
        self.window_s = window_s
        self.minimum = minimum
        self.maximum = self._most = maximum

    def target(self, rate_hz: float) -> int:
        return min(max(round(rate_hz * self.window_s), self.minimum), self._most)

    def deadline_s(self, last_take_s: float) -> float:
        return last_take_s + self.window_s

    def resize(self, window_s: float, most: int | None = None) -> None:
        self.window_s = window_s
        self._most = self.maximum if most is None else min(most, self.maximum)


class ShrunkBatch(BatchRule):
    """A part of what another rule aims at, for devices that train on others' samples as well.

    Args:
        rule: the other one; its deadline holds.
        factor: how many times smaller the batch is, at least 1.

    >>> ShrunkBatch(FixedBatch(64, max_wait_s=60.0), factor=3.5).target(rate_hz=50.0)
    18
    """

    def __init__(self, rule: BatchRule, factor: float) -> None:
        self._rule = rule
        self._factor = factor

    def target(self, rate_hz: float) -> int:
        return max(1, round(self._rule.target(rate_hz) / self._factor))

    def deadline_s(self, last_take_s: float) -> float:
        return self._rule.deadline_s(last_take_s)

    def resize(self, window_s: float, most: int | None = None) -> None:
        self._rule.resize(window_s, most)
