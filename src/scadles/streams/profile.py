"""How a stream's rate varies in time: periodic, piecewise constant, with an exact integral and inverse."""

from __future__ import annotations

import math
from bisect import bisect_left, bisect_right
from functools import cache, lru_cache
from typing import TYPE_CHECKING

import numpy as np

from scadles.config import ProfileConfig
from scadles.errors import ConfigError

if TYPE_CHECKING:
    from typing_extensions import Self

DAY_STEPS = 1440
ROUNDING = 1e-13
SHAPES_KEPT = 64


class RateProfile:
    """A periodic, piecewise constant rate.

    Args:
        durations_s: length of each piece of one period, float ``[n]``, not negative, of a sum above 0.
        rates_hz: records per second in each piece, float ``[n]``, not negative. All zero is a silent stream.

    Raises:
        ConfigError: a rate or duration that is negative or not finite, or a period of no length.

    >>> profile = RateProfile.bursts(10.0, period_s=4.0, duty=0.25)
    >>> profile.expected(np.array([0.5, 1.0, 4.0, 4.5])).tolist()
    [20.0, 40.0, 40.0, 60.0]
    >>> profile.when(np.array([20.0, 40.0, 60.0])).tolist()
    [0.5, 1.0, 4.5]
    """

    __slots__ = ("_rate_hz", "_shape")

    def __init__(self, durations_s: np.ndarray, rates_hz: np.ndarray) -> None:
        self._shape = _Shape(durations_s, rates_hz)
        self._rate_hz = 1.0

    @classmethod
    def constant(cls, rate_hz: float) -> Self:
        """Return the same rate at all times."""
        return cls._scaled(rate_hz, _constant())

    @classmethod
    def bursts(cls, rate_hz: float, *, period_s: float, duty: float) -> Self:
        """Return a stream that brings all its records in the first ``duty`` of each period; its mean is ``rate_hz``."""
        if not 0 < duty <= 1:
            raise ConfigError(
                f"duty = {duty:g}: the share of a period in which records arrive must be above 0, up to 1"
            )
        return cls._scaled(rate_hz, _bursts(period_s, duty))

    @classmethod
    def day(cls, rate_hz: float, *, period_s: float, depth: float) -> Self:
        """Return a raised cosine of mean ``rate_hz`` that starts at midnight, its lowest point.

        ``rate (1 - depth cos(2 pi t / period))`` in 1440 steps: from ``(1 - depth) rate`` to ``(1 + depth) rate``.
        """
        if not 0 <= depth <= 1:
            raise ConfigError(f"depth = {depth:g}: must lie between 0 (flat) and 1 (falls to zero at night)")
        return cls._scaled(rate_hz, _day(period_s, depth))

    @classmethod
    def outage(cls, rate_hz: float, *, period_s: float, at_s: float, length_s: float) -> Self:
        """Return a constant rate that falls silent for ``length_s`` from ``at_s`` on in each period.

        The records of that time never come, so the mean is below ``rate_hz``.
        """
        rest_s = period_s - at_s - length_s
        if rest_s < -1e-9 * period_s:
            raise ConfigError(
                f"outage_at_s + outage_s = {at_s:g} + {length_s:g} reaches beyond period_s = {period_s:g}: "
                "lengthen the period, or let the outage end within it"
            )
        return cls._scaled(rate_hz, _outage(at_s, length_s, max(0.0, rest_s)))

    @classmethod
    def of(cls, config: ProfileConfig, rate_hz: float) -> Self:
        """Return the profile that ``config`` describes, for a stream of ``rate_hz``."""
        period_s = config.period_s
        if config.name == "bursts":
            return cls.bursts(rate_hz, period_s=period_s, duty=config.duty)
        if config.name == "day":
            return cls.day(rate_hz, period_s=period_s, depth=config.depth)
        if config.name == "outage":
            return cls.outage(rate_hz, period_s=period_s, at_s=config.outage_at_s, length_s=config.outage_s)
        return cls.constant(rate_hz)

    @classmethod
    def _scaled(cls, rate_hz: float, shape: _Shape) -> Self:
        if not (math.isfinite(rate_hz) and rate_hz >= 0):
            raise ConfigError(f"rate = {rate_hz:g}: must be finite and not negative (records per second)")
        profile = cls.__new__(cls)
        profile._shape, profile._rate_hz = shape, float(rate_hz)
        return profile

    def expected(self, time_s: np.ndarray | float) -> np.ndarray:
        """Return how many records are expected by each stream time, float64; 0 before the start."""
        return np.asarray(self._rate_hz * self._shape.expected(time_s))

    def expected_at(self, time_s: float) -> float:
        """Return how many records are expected by one stream time: to rounding what :meth:`expected` says, sooner."""
        return self._rate_hz * self._shape.expected_at(time_s) if time_s > 0 else 0.0

    def when(self, records: np.ndarray) -> np.ndarray:
        """Return the earliest time by which so many records (above 0) are expected, float64; inf on a silent stream."""
        if self._rate_hz == 0 or self._shape.total == 0:
            return np.full(np.shape(records), math.inf)
        return self._shape.when(records / self._rate_hz)

    def when_one(self, records: float) -> float:
        """Return for one number what :meth:`when` returns for many, the same to the bit, sooner."""
        if self._rate_hz == 0 or self._shape.total == 0:
            return math.inf
        return self._shape.when_one(records / self._rate_hz)


class _Shape:
    """One period of a profile at a mean rate that its owner multiplies; shared by all streams that have it."""

    def __init__(self, durations_s: np.ndarray, rates_hz: np.ndarray) -> None:
        durations = _checked("a profile's duration", durations_s)
        rates = _checked("rate", rates_hz)
        durations, rates = durations[durations > 0], rates[durations > 0]
        if not len(durations):
            raise ConfigError("a profile's period is 0 s long: give at least one piece a duration above 0")
        self._rates_hz = rates
        self._first_piece = int(np.argmax(rates > 0))
        self._edges_s = np.concatenate([[0.0], np.cumsum(durations)])
        self._records = np.concatenate([[0.0], np.cumsum(rates * durations)])
        # one look-up among Python's own floats is many times faster than in an array
        self._columns: list[list[float]] = [values.tolist() for values in (rates, self._edges_s, self._records)]
        self._flat_hz = float(rates[0]) if len(rates) == 1 else None
        self.period_s = float(self._edges_s[-1])
        self.total = float(self._records[-1])

    def expected(self, time_s: np.ndarray | float) -> np.ndarray:
        periods, rest_s = np.divmod(np.maximum(time_s, 0.0), self.period_s)
        return np.asarray(periods * self.total + np.interp(rest_s, self._edges_s, self._records))

    def expected_at(self, time_s: float) -> float:
        if self._flat_hz is not None:
            return time_s * self._flat_hz
        rates_hz, edges_s, records = self._columns
        periods, rest_s = divmod(time_s, self.period_s)
        piece = min(bisect_right(edges_s, rest_s), len(rates_hz)) - 1
        return periods * self.total + records[piece] + (rest_s - edges_s[piece]) * rates_hz[piece]

    def when(self, records: np.ndarray) -> np.ndarray:
        if self._flat_hz is not None:
            return np.asarray(records / self._flat_hz)
        # A record due at an edge comes before a silence that begins there; rounding must not push it behind.
        hair = ROUNDING * (records + self.total)
        periods = np.maximum(np.ceil((records - hair) / self.total) - 1, 0)
        rest = records - periods * self.total
        piece = np.maximum(np.searchsorted(self._records, rest - hair, side="left") - 1, self._first_piece)
        within_s = (np.minimum(rest, self._records[piece + 1]) - self._records[piece]) / self._rates_hz[piece]
        return np.asarray(periods * self.period_s + self._edges_s[piece] + within_s)

    def when_one(self, records: float) -> float:
        if self._flat_hz is not None:
            return records / self._flat_hz
        rates_hz, edges_s, sums = self._columns
        hair = ROUNDING * (records + self.total)
        periods = max(math.ceil((records - hair) / self.total) - 1, 0)
        rest = records - periods * self.total
        piece = max(bisect_left(sums, rest - hair) - 1, self._first_piece)
        return periods * self.period_s + edges_s[piece] + (min(rest, sums[piece + 1]) - sums[piece]) / rates_hz[piece]


@cache
def _constant() -> _Shape:
    return _Shape(np.array([1.0]), np.array([1.0]))


@lru_cache(SHAPES_KEPT)
def _bursts(period_s: float, duty: float) -> _Shape:
    return _Shape(np.array([duty, 1 - duty]) * period_s, np.array([1 / duty, 0.0]))


@lru_cache(SHAPES_KEPT)
def _day(period_s: float, depth: float) -> _Shape:
    middle = (np.arange(DAY_STEPS) + 0.5) / DAY_STEPS
    # At depth 1 rounding could take the first minute a hair below zero.
    factors = np.maximum(0.0, 1 - depth * np.cos(2 * np.pi * middle))
    return _Shape(np.full(DAY_STEPS, period_s / DAY_STEPS), factors)


@lru_cache(SHAPES_KEPT)
def _outage(at_s: float, length_s: float, rest_s: float) -> _Shape:
    return _Shape(np.array([at_s, length_s, rest_s]), np.array([1.0, 0.0, 1.0]))


def _checked(name: str, values: np.ndarray) -> np.ndarray:
    values = np.asarray(values, dtype=np.float64)
    bad = values[~(np.isfinite(values) & (values >= 0))]
    if len(bad):
        raise ConfigError(f"{name} = {bad[0]:g}: must be finite and not negative")
    return values
