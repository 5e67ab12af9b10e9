"""How many seconds of stream make a batch: as many as buy most, by what is measured in the run."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from scadles.device.pace import Fleet, WindowRule
from scadles.exchange.aggregation.noise_scale import Bounds

_CHANGED_EVERY = 20  # steps
_LONGEST_CHANGE = 2.0  # by which factor, at most, a window changes
_NEAR = 1.2  # a factor within which nothing is changed
_LEAST_GAIN = 1.05  # of progress a second, for which something is
_UNUSED = 0.1  # a share of the stream from which on it is said that it is not used
#: By step: windows that differ a little, so that what a sample costs can be told from what a step does.
_VARIED = {3: 0.8, 5: 1.2}
#: The first step that is measured: the one before is slow in its own way.
FIRST_MEASURED = 2
_UNKNOWN = Bounds(math.nan, 0.0, math.inf)


class AutoWindow:
    """The window of all devices, chosen anew every few measurements; the same everywhere, from what all have measured.

    It goes towards the nearest window that is best for a noise scale within its bounds, by at most a factor of two in
    20 steps; it stays where it is within a factor of 1.2 of that, or where less than 5 % would come of it.

    Args:
        seconds: to begin with.
        rule: what windows are for.
        first_batch: samples of a device at most, as long as nothing is measured; None for all of the window.

    Attributes:
        seconds: the window.
        first_s: the one to begin with.
        changes: how often it was another one from then on.
        why: the last one was chosen, in words.
        rule: as given.
    """

    def __init__(self, seconds: float, rule: WindowRule, first_batch: int | None = None) -> None:
        self.seconds = self.first_s = seconds
        self.changes, self.why = 0, ""
        self.rule = rule
        self._first_batch = first_batch
        self._changed_at = -_CHANGED_EVERY

    def of_step(self, step: int) -> float:
        """Return the window of a step; in two of the first it is another, to find out what a sample costs.

        A longer one only as far as the rule allows: others do not wait longer for a device.
        """
        return min(self.seconds * _VARIED.get(step, 1.0), max(self.seconds, self.rule.longest_s))

    def most_of_step(self, step: int) -> int | None:
        """Return how many samples a device takes in a step at most; None for as many as the window has."""
        return self._first_batch if step <= FIRST_MEASURED else None

    def follow(self, step: int, fleet: Fleet, bounds: Bounds | None) -> str | None:
        """Go towards what is best after a step; return why the window changes, None where it does not.

        Args:
            step: the last one.
            fleet: rates and costs.
            bounds: of the noise scale; None where nothing is known of it.
        """
        if step - self._changed_at < _CHANGED_EVERY or not fleet.rates_hz.sum() > 0:
            return None
        bounds, before_s = bounds or _UNKNOWN, self.seconds
        low_s, high_s = sorted(self.rule.best(fleet, noise) for noise in (bounds.low, bounds.high))
        aim_s = min(max(before_s, low_s), high_s)
        if max(aim_s / before_s, before_s / aim_s) < _NEAR or self._gain(before_s, aim_s, fleet, bounds) < _LEAST_GAIN:
            return None
        self.seconds = min(max(aim_s, before_s / _LONGEST_CHANGE), before_s * _LONGEST_CHANGE)
        self._changed_at = step
        self.changes += 1
        self.why = self._reason(before_s, fleet, bounds)
        return self.why

    def _gain(self, before_s: float, aim_s: float, fleet: Fleet, bounds: Bounds) -> float:
        """Return what another window is worth, in terms of this one."""
        noise = bounds.value
        if not math.isfinite(noise):  # where it may be anything: what it must be for this to be the way to go
            noise = bounds.low if aim_s < before_s else bounds.high
        before, after = self.rule.worth(self.rule.pace(np.array([before_s, aim_s]), fleet), noise).tolist()
        return after / before if before > 0 else math.inf

    def guess(self, step: int, fleet: Fleet, noise: float) -> str | None:
        """Go all the way to what is best for a guessed noise scale; return why, None where the window stays."""
        before_s, aim_s = self.seconds, self.rule.best(fleet, noise)
        if max(aim_s / before_s, before_s / aim_s) < _NEAR:
            return None
        self.seconds, self._changed_at = aim_s, step
        self.changes += 1
        self.why = self._reason(before_s, fleet, Bounds(noise, 0.0, math.inf), "is not known and taken for")
        return self.why

    def _reason(self, before_s: float, fleet: Fleet, bounds: Bounds, how: str = "is") -> str:
        found = self.rule.pace(np.array([before_s, self.seconds]), fleet)
        steps = found.step_s[0] / found.step_s[1] - 1
        said = (
            f"window {before_s:.3g} s -> {self.seconds:.3g} s: {100 * steps:+.0f} % steps a second, as a step costs "
            f"{found.busy_s[0]:.3g} s of computing and exchanging"
        )
        if math.isfinite(bounds.value):
            before, after = self.rule.worth(found, bounds.value)
            said += (
                f", {100 * (after / before - 1):+.0f} % progress a second, as the noise scale {how} "
                f"{bounds.value:,.0f} samples and the batch {found.batch[0]:,.0f}"
            )
        unused = 1 - found.batch[1] / (fleet.rates_hz.sum() * found.step_s[1])
        if unused > _UNUSED:
            becomes = "wait longer and longer" if self.rule.keeps_all else "are dropped"
            said += f"; {100 * unused:.0f} % of the samples {becomes}, "
            many = fleet.rates_hz * self.seconds > self.rule.maximum
            if fleet.rates_hz[many].sum() * 2 > fleet.rates_hz.sum():
                said += f"as a device takes {self.rule.maximum:,} a step at most (batch.max, buffer.capacity)"
            else:
                said += "as no window keeps up" if self.rule.keeps_all else "which are worth less than their time"
        return said

    def state(self) -> dict[str, Any]:
        """Return what a checkpoint holds, as JSON."""
        return {
            "seconds": self.seconds,
            "first_s": self.first_s,
            "changed_at": self._changed_at,
            "changes": self.changes,
            "why": self.why,
        }

    def load(self, state: Mapping[str, Any]) -> None:
        """Go on from what :meth:`state` returned, unless the settings say now that another window is the first.

        Raises:
            ValueError: it is nothing that :meth:`state` returns.
        """
        seconds = float(state["seconds"])
        if not (math.isfinite(seconds) and seconds > 0):
            raise ValueError(f"a window of {seconds} s")
        if state["first_s"] == self.first_s:
            self.seconds, self._changed_at = seconds, int(state["changed_at"])
            self.changes, self.why = int(state["changes"]), str(state["why"])
