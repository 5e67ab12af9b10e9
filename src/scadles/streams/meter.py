"""How fast a stream is, measured."""

from __future__ import annotations

import math
from collections.abc import Mapping

from scadles.errors import ConfigError


class RateMeter:
    """A moving average of the arrival rate that forgets with a time constant, unbiased from the first observation.

    With ``f = exp(-dt / time_constant)`` for each observation of ``n`` records in ``dt`` seconds, spread evenly::

        count <- f count + (n / dt) time_constant (1 - f)
        time  <- f time  +          time_constant (1 - f)
        rate   = count / time

    A constant rate is therefore measured exactly, however the observations are spaced. The first observation only
    starts the measurement: nobody knows over what time its records came.

    Args:
        time_constant_s: stream seconds after which an observation weighs 1/e, above 0.

    >>> meter = RateMeter()
    >>> meter.observe(0.0, 0)
    >>> meter.observe(2.0, 80)
    >>> round(meter.rate_hz, 6)
    40.0
    """

    __slots__ = ("_count", "_last_s", "_time_constant_s", "_time_s")

    def __init__(self, time_constant_s: float = 5.0) -> None:
        if not (math.isfinite(time_constant_s) and time_constant_s > 0):
            raise ConfigError(f"time_constant_s = {time_constant_s:g}: must be finite and above 0 (stream seconds)")
        self._time_constant_s = time_constant_s
        self._count = 0.0
        self._time_s = 0.0
        self._last_s: float | None = None

    def observe(self, now_s: float, arrived: int) -> None:
        """Take note that ``arrived`` records came since the last observation; ``now_s`` is the stream time."""
        if self._last_s is None:
            self._last_s = now_s
            return
        elapsed_s = max(0.0, now_s - self._last_s)
        if elapsed_s == 0 and arrived == 0:
            return
        kept_s = -math.expm1(-elapsed_s / self._time_constant_s) * self._time_constant_s
        fading = math.exp(-elapsed_s / self._time_constant_s)
        self._count = fading * self._count + arrived * (kept_s / elapsed_s if elapsed_s > 0 else 1.0)
        self._time_s = fading * self._time_s + kept_s
        self._last_s = now_s

    @property
    def rate_hz(self) -> float:
        """Records per stream second; 0 before anything was measured."""
        return self._count / self._time_s if self._time_s > 0 else 0.0

    def state(self) -> dict[str, float]:
        """Return what :meth:`load` needs to go on, ready for JSON; empty before the first observation."""
        if self._last_s is None:
            return {}
        return {"count": self._count, "time_s": self._time_s, "last_s": self._last_s}

    def load(self, state: Mapping[str, float]) -> None:
        """Go on where ``state`` was taken."""
        self._count = state.get("count", 0.0)
        self._time_s = state.get("time_s", 0.0)
        self._last_s = state.get("last_s")
