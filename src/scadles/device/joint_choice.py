"""Window and ratio of compression chosen together: each ratio is worth what it buys at the window that suits it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from functools import lru_cache
from typing import Any

import numpy as np

from scadles.device.pace import Fleet, WindowRule
from scadles.exchange.compression import AtBest

_LEAST_AHEAD = 50  # steps without noise that a choice shall pay within


class JointChoice:
    """What comes of the best window for whatever an exchange takes, by one measurement; a :class:`.WindowChoice`.

    Ratios are compared at the windows to which they lead, not at the present one: beside a window that is long because
    all of the gradient is sent, no ratio would buy anything. Progress a second is that of :meth:`.WindowRule.worth`, in
    steps without noise, of which a lag of so many steps takes ``lag / (lag + H)``: H steps are ahead, as many as fit
    into the time that the run has taken so far, and as many as make 50 without noise at least.

    Args:
        rule: what windows are for.
        fleet: rates and costs.
        noise: the noise scale, in samples; infinite where a gradient is all noise.
    """

    def __init__(self, rule: WindowRule, fleet: Fleet, noise: float) -> None:
        self._rule = rule
        self._fleet = fleet
        self._noise = noise
        self._best = lru_cache(maxsize=64)(self._find_best)  # all devices of a simulation ask the same
        self._of = lru_cache(maxsize=16)(self._found)

    def at_best(self, exchange_s: float, lag: float, elapsed_s: float) -> AtBest:
        """Return what comes of the best window, as :class:`.WindowChoice` has it."""
        return self._best(exchange_s, lag, elapsed_s)

    def _find_best(self, exchange_s: float, lag: float, elapsed_s: float) -> AtBest:
        windows, step_s, value = self._of(exchange_s)
        ahead_s = np.maximum(elapsed_s, _LEAST_AHEAD / np.maximum(value, 1e-9))
        value = value * ahead_s / (ahead_s + lag * step_s) if math.isfinite(lag) else 0.0 * value
        best = int(value.argmax())
        return AtBest(float(value[best]), float(step_s[best]), float(windows[best]))

    def _found(self, exchange_s: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        fleet = self._fleet._replace(exchange_s=exchange_s)
        windows = self._rule.windows(fleet.rates_hz)
        found = self._rule.pace(windows, fleet)
        return windows, found.step_s, self._rule.value(windows, found, self._noise)

    def state(self) -> dict[str, Any]:
        """Return what a checkpoint holds, as JSON."""
        costs = {name: getattr(self._fleet, name).tolist() for name in _COSTS}
        return {**costs, "noise": self._noise if math.isfinite(self._noise) else None}

    @classmethod
    def of(cls, rule: WindowRule, state: Mapping[str, Any]) -> JointChoice:
        """Return what had this state.

        Raises:
            ValueError: it is nothing that :meth:`state` returns.
        """
        costs = [np.array(state[name], dtype=np.float64) for name in _COSTS]
        noise = math.inf if state["noise"] is None else float(state["noise"])
        if {array.shape for array in costs} != {(costs[0].size,)} or not noise >= 0:
            raise ValueError("rates and costs of different numbers of devices, or a noise scale below 0")
        rates_hz, step_s, sample_s = costs
        if not (np.isfinite(costs).all() and rates_hz.min() >= 0 < rates_hz.sum()):
            raise ValueError("rates or costs of devices that are no numbers, or no rates")
        return cls(rule, Fleet(rates_hz, step_s, sample_s, exchange_s=0.0), noise)


_COSTS = ("rates_hz", "step_s", "sample_s")
