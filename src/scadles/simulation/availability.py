"""When devices are there: always, in given windows, or by chance."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

from scadles.config import AvailabilityConfig
from scadles.seeding import numpy_generator


class Availability:
    """When each device of a run is on.

    Args:
        config: one for all devices, or one for each.
        devices: how many there are.
        seed: of the run. A device's times do not depend on how many others there are, nor on what was asked before.

    Attributes:
        always: whether nobody is ever off; then nothing is stored.

    >>> availability = Availability(AvailabilityConfig(windows_s=((0, 50), (70, 100)), period_s=120), devices=2, seed=0)
    >>> availability.on(60.0).tolist(), availability.next_change(0, 60.0), availability.next_change(0, 110.0)
    ([False, False], 70.0, 120.0)
    """

    def __init__(self, config: AvailabilityConfig | tuple[AvailabilityConfig, ...], devices: int, seed: int) -> None:
        given = config if isinstance(config, tuple) else (config,)
        made = {one: _schedule(one, seed) for one in given}
        self._devices = devices
        self.always = all(schedule is None for schedule in made.values())
        if self.always:
            return
        self._schedules = [made[one] for one in given] * (1 if isinstance(config, tuple) else devices)
        self._number = np.full(devices, _NOWHERE.number)
        self._since_s = np.full(devices, _NOWHERE.since_s)
        self._until_s = np.full(devices, _NOWHERE.until_s)
        self._before_s = np.full(devices, _NOWHERE.before_s)

    def next_change(self, device: int, time_s: float) -> float:
        """Return the first stream time after ``time_s`` at which a device goes off or comes back; inf if none."""
        return math.inf if self.always else self._stretch(device, time_s).until_s

    def on(self, time_s: float) -> np.ndarray:
        """Return which devices are on at a stream time, bool ``[devices]``."""
        if self.always:
            return np.ones(self._devices, dtype=bool)
        on = np.asarray(self._number % 2 == 0)
        for device in np.flatnonzero((time_s < self._since_s) | (self._until_s <= time_s)):
            on[device] = self._stretch(int(device), time_s).on
        return on

    def _stretch(self, device: int, time_s: float) -> _Stretch:
        """Return the stretch that a time lies in; of each device the latest is kept, and where the one before began."""
        columns = (self._number, self._since_s, self._until_s, self._before_s)
        last = _Stretch(*(column[device].item() for column in columns))
        if last.since_s <= time_s < last.until_s:
            return last
        if last.before_s <= time_s < last.since_s:
            return _Stretch(last.number - 1, last.before_s, last.since_s, last.before_s)
        schedule = self._schedules[device]
        found = _EVER if schedule is None else schedule.find(device, time_s, last)
        for column, value in zip(columns, found, strict=True):
            column[device] = value
        return found


class _Stretch(NamedTuple):
    """A while in which a device stays on (of even number) or off (odd), its end excluded.

    Attributes:
        before_s: where the stretch before it began, as far as that is worth keeping; else its own start.
    """

    number: int
    since_s: float
    until_s: float
    before_s: float

    @property
    def on(self) -> bool:
        return self.number % 2 == 0


_EVER = _Stretch(0, -math.inf, math.inf, -math.inf)
_NOWHERE = _Stretch(0, math.inf, -math.inf, math.inf)


def _schedule(config: AvailabilityConfig, seed: int) -> _Windows | _Drawn | None:
    if config.windows_s is not None:
        return _Windows(config.windows_s, config.period_s)
    if config.on_s is not None and config.off_s is not None:
        return _Drawn(config.on_s, config.off_s, seed)
    return None


class _Windows:
    """On in the given windows, once or in each period."""

    def __init__(self, windows_s: tuple[tuple[float, float], ...], period_s: float | None) -> None:
        edges_s = [edge for window in windows_s for edge in window]
        # windows that meet where a period begins are one: nothing changes there
        self._on_first = edges_s[0] == 0 and edges_s[-1] == period_s
        self._edges_s = np.array(edges_s[1:-1] if self._on_first else edges_s)
        self._period_s = period_s

    def find(self, device: int, time_s: float, last: _Stretch) -> _Stretch:
        if not len(self._edges_s):
            return _EVER
        period_s = self._period_s or 0.0
        period = _periods(time_s, period_s) if period_s else 0
        edges_s = period * period_s + self._edges_s
        passed = int(np.searchsorted(edges_s, time_s, side="right"))
        since_s = float(edges_s[passed - 1]) if passed else period * period_s
        if passed < len(edges_s):
            until_s = float(edges_s[passed])
        else:
            until_s = (period + 1) * period_s + float(self._edges_s[0]) if period_s else math.inf
        return _Stretch(passed + (not self._on_first), since_s, until_s, since_s)


class _Drawn:
    """On and off in turn for exponential times (an alternating renewal process), begun as if it had always run."""

    def __init__(self, on_s: float, off_s: float, seed: int) -> None:
        self._means_s = (on_s, off_s)
        self._seed = seed

    def find(self, device: int, time_s: float, last: _Stretch) -> _Stretch:
        stretch = last if last.since_s <= time_s else self._first(device)
        while stretch.until_s <= time_s:
            stretch = self._drawn(device, stretch.number + 1, stretch.until_s, stretch.since_s)
        return stretch

    def _first(self, device: int) -> _Stretch:
        on_s, off_s = self._means_s
        on = numpy_generator(self._seed, device, "availability").random() < on_s / (on_s + off_s)
        return self._drawn(device, 0 if on else 1, 0.0, 0.0)

    def _drawn(self, device: int, number: int, since_s: float, before_s: float) -> _Stretch:
        generator = numpy_generator(self._seed, device, "availability", number)
        return _Stretch(number, since_s, since_s + float(generator.exponential(self._means_s[number % 2])), before_s)


def _periods(time_s: float, period_s: float) -> int:
    """Return how many whole periods have passed, so that rounding never puts a time before its own period."""
    count = math.floor(time_s / period_s)
    if count * period_s > time_s:
        return count - 1
    return count + 1 if (count + 1) * period_s <= time_s else count
