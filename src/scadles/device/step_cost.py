"""What steps cost a device, told from those that it has taken."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

_STEPS_KEPT = 50  # that a line is drawn through
_EXCHANGES_KEPT = 10
_LEAST_SPREAD = 0.05  # of batches, relative: from here on what a step costs can be told from what its samples do


@dataclass(slots=True)
class StepCost:
    """What a device's steps cost it beyond their samples, for each sample, and in the exchange: by what was last.

    >>> cost = StepCost()
    >>> for batch in range(10, 40):
    ...     cost.observe(batch, compute_s=0.2 + 0.01 * batch, exchange_s=0.5)
    >>> [round(seconds, 4) for seconds in (*cost.line(), cost.exchange_s)]
    [0.2, 0.01, 0.5]
    """

    exchange_s: float = 0.0
    _count: int = 0
    _means: np.ndarray = field(default_factory=lambda: np.zeros(4))  # of b, t, b^2, b t

    @property
    def is_known(self) -> bool:
        """Whether a step was seen."""
        return self._count > 0

    def observe(self, batch: int, compute_s: float, exchange_s: float) -> None:
        """Take note of a step: of how long its gradient took, and of how long all took from the last one on."""
        if not batch:
            return
        self._count += 1
        seen = np.array([batch, compute_s, batch * batch, batch * compute_s])
        self._means += (seen - self._means) / min(self._count, _STEPS_KEPT)
        self.exchange_s += (max(exchange_s, 0.0) - self.exchange_s) / min(self._count, _EXCHANGES_KEPT)

    def line(self) -> tuple[float, float]:
        """Return seconds for a step and for a sample; nothing for a step as long as all batches were alike."""
        batch, seconds, square, product = self._means.tolist()
        if not batch:
            return 0.0, 0.0
        variance = square - batch * batch
        if variance < (_LEAST_SPREAD * batch) ** 2:
            return 0.0, seconds / batch
        slope = min(max((product - batch * seconds) / variance, 0.0), seconds / batch)
        return seconds - slope * batch, slope

    def state(self) -> dict[str, Any]:
        """Return what a checkpoint holds, as JSON."""
        return {"exchange_s": self.exchange_s, "count": self._count, "means": self._means.tolist()}

    def load(self, state: Mapping[str, Any]) -> None:
        """Go on from what :meth:`state` returned."""
        self.exchange_s, self._count, self._means = state["exchange_s"], state["count"], np.array(state["means"])
