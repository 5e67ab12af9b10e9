"""Which window buys most, given what steps cost and how noisy gradients are."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

_AS_GOOD = 0.999  # of what the best window buys
_NOT_KEPT = 1e-9  # a sample a second buys, where everything must be kept and is not: less than whatever keeps all
_SLACK = 1.05  # a queue shrinks again only where a step leaves time for it
_SHORTEST_S, _LONGEST_S, _CANDIDATES = 0.01, 60.0, 200


class Fleet(NamedTuple):
    """What a window is chosen by.

    Attributes:
        rates_hz: of the devices' streams, ``[N]``.
        step_s, sample_s: what a step costs each of them to compute, and each sample in it, ``[N]``.
        exchange_s: seconds from when the last gradient is ready until all have taken the step.
    """

    rates_hz: np.ndarray
    step_s: np.ndarray
    sample_s: np.ndarray
    exchange_s: float


class Pace(NamedTuple):
    """What comes of some windows, ``[n]`` all.

    Attributes:
        batch: samples of all devices in a step.
        step_s: seconds from one step to the next.
        busy_s: of these, computing and exchanging.
    """

    batch: np.ndarray
    step_s: np.ndarray
    busy_s: np.ndarray


@dataclass(frozen=True)
class WindowRule:
    """What windows are for.

    Attributes:
        minimum, maximum: of a device's batch.
        price_s: seconds that a step costs beyond its time, such as for a radio.
        keeps_all: whether everything that comes must be trained on.
        longest_s: no window is longer.
    """

    minimum: int
    maximum: int
    price_s: float = 0.0
    keeps_all: bool = False
    longest_s: float = _LONGEST_S

    def windows(self, rates_hz: np.ndarray) -> np.ndarray:
        """Return the windows to choose from: of the shortest, batches are the smallest on average over devices."""
        longest_s = min(self.longest_s, _LONGEST_S)
        windows = np.geomspace(min(_SHORTEST_S, longest_s), longest_s, _CANDIDATES)
        smallest = self.minimum * len(rates_hz)
        return windows[windows * rates_hz.sum() >= smallest] if rates_hz.sum() * longest_s > smallest else windows[-1:]

    def pace(self, windows_s: np.ndarray, fleet: Fleet) -> Pace:
        """Return what comes of each of some windows, ``[n]``.

        While a step is computed and exchanged the next batch arrives, so a step takes as long as the longer of both; of
        what comes meanwhile, a window is kept.
        """
        rates, windows = fleet.rates_hz[:, None], windows_s[None]
        aims = np.clip(rates * windows, self.minimum, self.maximum)
        gather_s = np.minimum(windows, aims / np.maximum(rates, 1e-9)).max(axis=0)
        batches = np.minimum(aims, rates * windows)
        busy_s = (fleet.step_s[:, None] + fleet.sample_s[:, None] * batches).max(axis=0) + fleet.exchange_s
        step_s = np.maximum(gather_s, busy_s)
        return Pace(np.minimum(aims, rates * np.minimum(windows, step_s)).sum(axis=0), step_s, busy_s)

    def worth(self, found: Pace, noise: float) -> np.ndarray:
        """Return the progress a second that windows buy, ``[n]``; of infinite noise only samples count.

        A step on B samples is worth B / (B + B_n) of one without noise (McCandlish et al., 2018, equation 2.7), and has
        a price beside its time.
        """
        progress = found.batch / (found.batch + noise) if np.isfinite(noise) else found.batch
        return progress / (found.step_s + self.price_s)

    def value(self, windows_s: np.ndarray, found: Pace, noise: float) -> np.ndarray:
        """Return what windows are compared by, ``[n]``: their worth, of those that are allowed.

        Where everything is to be kept and none keeps it, the one that keeps most is best.
        """
        value = self.worth(found, noise)
        if self.keeps_all:
            sustained = found.busy_s * _SLACK <= windows_s
            value = np.where(sustained, value, 0.0) if sustained.any() else _NOT_KEPT * found.batch / found.step_s
        return value

    def best(self, fleet: Fleet, noise: float) -> float:
        """Return the window in seconds that buys most.

        Without limits on batches and without a price it is the shortest in which everything is trained on, c / (1 - u),
        with c the seconds that a step costs beyond its samples and u those that the samples of a second cost; or, where
        that is longer than sqrt(c B_n / (S u)), this one, and the rest is dropped because it is worth less than the
        time it takes.

        Args:
            fleet: rates and costs.
            noise: the noise scale, in samples; infinite where a gradient is all noise.
        """
        windows = self.windows(fleet.rates_hz)
        value = self.value(windows, self.pace(windows, fleet), noise)
        # of windows that buy nearly the same, the shortest
        return float(windows[int(np.argmax(value >= value.max() * _AS_GOOD))])
