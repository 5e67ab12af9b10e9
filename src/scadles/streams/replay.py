"""A data set, played as a stream."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from pydantic import ValidationError
from torch import Tensor

from scadles.clock import Clock
from scadles.config import ProfileConfig
from scadles.errors import ConfigError
from scadles.records import Span
from scadles.streams.arrivals import Arrivals
from scadles.streams.contract import Records, Source
from scadles.streams.profile import RateProfile
from scadles.streams.registry import SourceURL, register_source

Samples = Callable[[np.ndarray], tuple[Tensor, Tensor]]

_PROFILE_PARAMETERS = {"profile": "name"} | {
    name: name for name in ("arrivals", "period_s", "duty", "depth", "outage_at_s", "outage_s")
}


class ReplaySource(Source):
    """Records that arrive when ``arrivals`` says so. It is the reference of the contract, and holds no record itself.

    Args:
        samples: stream offsets, int64 ``[n]``, to samples ``[n, *shape]`` and labels ``[n]``; None brings records
            without what they hold (:class:`~scadles.records.Span`), for somebody who looks that up later.
        arrivals: when each record arrives.
        clock: the stream time; waiting sleeps on it, so a virtual clock moves on.
        rate_hz: their mean rate, so that a resumed stream knows whether it is another one.
        records: how many there are; None for no end.

    >>> import torch
    >>> from scadles.clock import VirtualClock
    >>> from scadles.streams.profile import RateProfile
    >>> clock = VirtualClock()
    >>> numbers = lambda offsets: (torch.from_numpy(offsets)[:, None], torch.from_numpy(offsets))
    >>> source = ReplaySource(numbers, Arrivals(RateProfile.constant(10.0)), clock)
    >>> source.open(0)
    >>> source.poll(4, timeout_s=1.0).offsets.tolist(), round(clock.now(), 9)
    ([0, 1, 2, 3], 0.4)
    >>> source.poll(100, timeout_s=0.5).offsets.tolist(), round(clock.now(), 9)
    ([4, 5, 6, 7, 8], 0.9)
    """

    __slots__ = ("_arrivals", "_clock", "_position", "_rate_hz", "_records", "_samples", "_shift_s")

    def __init__(
        self,
        samples: Samples | None,
        arrivals: Arrivals,
        clock: Clock,
        rate_hz: float | None = None,
        records: int | None = None,
    ) -> None:
        self._samples = samples
        self._arrivals = arrivals
        self._clock = clock
        self._position = 0
        self._rate_hz = rate_hz
        self._records = records
        self._shift_s = 0.0

    def open(self, position: int, mark: Mapping[str, Any] | None = None) -> None:
        if position < 0:
            raise ConfigError(f"position = {position}: a stream begins at offset 0")
        self._position = position
        self._shift_s = float(mark.get("shift_s", 0.0)) if mark else 0.0
        if mark and position and mark.get("rate_hz", self._rate_hz) != self._rate_hz:
            # at another rate from now on: what was polled has arrived by this moment, and nothing more
            arrived_s = self._arrivals.time(position - 1)
            self._shift_s = self._clock.now() - arrived_s if math.isfinite(arrived_s) else 0.0

    def rewind(self, position: int, mark: Mapping[str, Any] | None = None) -> bool:
        self.open(position, mark)
        return True

    def mark(self, position: int) -> dict[str, Any]:
        return {"rate_hz": self._rate_hz, "shift_s": self._shift_s}

    def arrival_time(self, count: int) -> float:
        """Return the stream time at which ``count`` (at least 1) records more than now polled will have arrived."""
        arrives_s = self._arrivals.time(self._position + count - 1)
        at_s = arrives_s + self._shift_s
        # rounded down it would be a moment at which the record is not there yet, and nobody would wait any longer
        return at_s if at_s - self._shift_s >= arrives_s else math.nextafter(at_s, math.inf)

    def poll(self, max_records: int, timeout_s: float) -> Records | Span:
        clock = self._clock
        if self._records is not None:
            max_records = min(max_records, self._records - self._position)
        if timeout_s > 0 and max_records > 0:
            until_s = min(self.arrival_time(max_records), clock.now() + timeout_s)
            # Rounding can end a sleep a hair before the record that it was meant for.
            while (now_s := clock.now()) < until_s:
                clock.sleep(until_s - now_s)
        first, count = self._position, min(max_records, self._waiting())
        self._position += count
        if self._samples is None:
            return Span(first, count)
        offsets = np.arange(first, self._position, dtype=np.int64)
        x, y = self._samples(offsets)
        return Records(offsets=offsets, times=self._arrivals.times(first, count) + self._shift_s, x=x, y=y)

    def skip(self, keep: int) -> int:
        passed = max(0, self._waiting() - keep)
        self._position += passed
        return passed

    def lag(self) -> int:
        return self._waiting()

    @property
    def position(self) -> int:
        return self._position

    @property
    def ended(self) -> bool:
        if self._records is None:
            return False
        return self._position >= self._records or math.isinf(self.arrival_time(1))

    def commit(self, position: int) -> None:
        """Do nothing: every record can be replayed for ever."""

    def close(self) -> None:
        """Do nothing: there is nothing to give back."""

    def _waiting(self) -> int:
        arrived = self._arrivals.count_by(self._clock.now() - self._shift_s)
        if self._records is not None and arrived > self._records:
            arrived = self._records
        return max(0, arrived - self._position)


@register_source("replay")
def replay_from_url(
    url: SourceURL, *, clock: Clock | None = None, records: int | None = None, **context: Any
) -> ReplaySource:
    """Return the source of ``replay://?rate=50&profile=bursts&...``.

    Parameters: ``rate`` (records per second, default 50), ``seed`` and ``device`` (of Poisson arrivals, default 0), and
    those of :class:`~scadles.config.ProfileConfig`, whose ``name`` is called ``profile`` here.

    Raises:
        ConfigError: an unknown parameter, a value out of range, a host or path, or no ``samples`` or ``clock``.
    """
    url.expect("rate", "seed", "device", *_PROFILE_PARAMETERS)
    if url.netloc or url.path:
        raise ConfigError(f"replay://{url.netloc}/{url.path}: takes neither host nor path; write replay://?rate=50")
    if "samples" not in context or clock is None:
        raise ConfigError("replay:// plays a data set against a clock: give it samples=... and clock=...")
    config = _profile_config(url)
    rate_hz = url.number("rate", 50.0)
    profile = RateProfile.of(config, rate_hz)
    seed_parts = (url.integer("seed", 0), url.integer("device", 0))
    arrivals = Arrivals(profile, seed_parts if config.arrivals == "poisson" else None)
    return ReplaySource(context["samples"], arrivals, clock, rate_hz, records)


def _profile_config(url: SourceURL) -> ProfileConfig:
    fields = {field: url.query[name] for name, field in _PROFILE_PARAMETERS.items() if name in url.query}
    try:
        return ProfileConfig.model_validate(fields)
    except ValidationError as error:
        problem = error.errors()[0]
        name = "profile" if problem["loc"][0] == "name" else problem["loc"][0]
        raise ConfigError(f"replay://: {name}={problem['input']!r}: {problem['msg']}") from None
