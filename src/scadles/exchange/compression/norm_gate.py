"""The paper's rule for when a compressed gradient is good enough."""

from __future__ import annotations

import math
from typing import Any

from scadles.errors import ConfigError


class NormGate:
    """Compress while the energy that top-k leaves out stays small (paper, section IV, adaptive compression).

    The rule is EWMA(| |g|^2 - |topk(g)|^2 | / |g|^2) <= delta, on squared norms of the whole gradient. A step's
    statistics travel in its own messages, so that they decide about the step after it, on all devices alike and
    without a message of their own. The first step, about which nothing is known, is dense.

    Args:
        delta: the energy that may be left out, 0 to 1.
        smoothing: weight of the newest step in the average, above 0, at most 1.

    >>> gate = NormGate(delta=0.3, smoothing=0.5)
    >>> gate.decide()
    False
    >>> gate.observe(10.0, 8.0)
    >>> gate.decide()
    True
    >>> gate.observe(10.0, 4.0)
    >>> gate.decide(), round(gate.left_out, 2)
    (False, 0.4)
    """

    def __init__(self, delta: float, smoothing: float = 0.3) -> None:
        if not 0 <= delta <= 1:
            raise ConfigError(f"delta = {delta:g}: the share of energy that may be left out, 0 to 1")
        if not 0 < smoothing <= 1:
            raise ConfigError(f"smoothing = {smoothing:g}: above 0 and at most 1")
        self._delta = delta
        self._smoothing = smoothing
        self._left_out: float | None = None

    def decide(self) -> bool:
        """Return whether the next step sends compressed; ask as often as you like."""
        return self._left_out is not None and self._left_out <= self._delta

    def observe(self, total_norm_sq: float, total_kept_sq: float) -> None:
        """Close a step with what came with its messages; numbers that are none are passed over.

        Args:
            total_norm_sq: squared norms of the devices' vectors, added up.
            total_kept_sq: squared norms of what top-k keeps of them, added up, also where the vectors went out whole.
        """
        if not (math.isfinite(total_norm_sq) and math.isfinite(total_kept_sq)):
            return
        left_out = abs(total_norm_sq - total_kept_sq) / total_norm_sq if total_norm_sq > 0 else 0.0
        before = left_out if self._left_out is None else self._left_out
        self._left_out = self._smoothing * left_out + (1 - self._smoothing) * before

    @property
    def left_out(self) -> float | None:
        """The average that is held against delta; None before the first step."""
        return self._left_out

    @property
    def reason(self) -> str:
        """What it says to the next step, without numbers."""
        if self._left_out is None:
            return "dense, to see what stays behind"
        return "little stays behind" if self.decide() else "too much stays behind"

    @property
    def why(self) -> str:
        """What it says to the next step, with numbers."""
        if self._left_out is None:
            return self.reason
        return f"{self.reason}: {self._left_out:.3f} of the squared norm on average, delta = {self._delta:g}"

    def state(self) -> dict[str, Any]:
        """Return what a checkpoint must hold."""
        return {"left_out": self._left_out}

    def load(self, state: dict[str, Any]) -> None:
        """Go on from a state."""
        self._left_out = state["left_out"]
