"""The paper's rule for when a compressed gradient is good enough."""

from __future__ import annotations

import math

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
    >>> gate.decide(), gate.cnc, round(gate.kept_energy, 2)
    (False, 0.5, 0.6)
    """

    def __init__(self, delta: float, smoothing: float = 0.3) -> None:
        if not 0 <= delta <= 1:
            raise ConfigError(f"delta = {delta:g}: the share of energy that may be left out, 0 to 1")
        if not 0 < smoothing <= 1:
            raise ConfigError(f"smoothing = {smoothing:g}: above 0 and at most 1")
        self._delta = delta
        self._smoothing = smoothing
        self._left_out: float | None = None
        self._steps = 0
        self._compressed = 0
        self._measured = 0
        self._kept_sum = 0.0

    def decide(self) -> bool:
        """Return whether the next step sends compressed; ask as often as you like."""
        return self._left_out is not None and self._left_out <= self._delta

    def observe(self, total_norm_sq: float, total_kept_sq: float, *, compressed: bool | None = None) -> None:
        """Close a step with what came with its messages.

        Args:
            total_norm_sq: squared norms of the devices' vectors, added up.
            total_kept_sq: squared norms of what top-k keeps of them, added up, also where the vectors went out whole.
            compressed: what was really sent, where another gate had its say; None: what this gate had decided.
        """
        self._steps += 1
        self._compressed += self.decide() if compressed is None else compressed
        if not (math.isfinite(total_norm_sq) and math.isfinite(total_kept_sq)):
            return
        left_out = abs(total_norm_sq - total_kept_sq) / total_norm_sq if total_norm_sq > 0 else 0.0
        self._measured += 1
        self._kept_sum += 1 - left_out
        before = left_out if self._left_out is None else self._left_out
        self._left_out = self._smoothing * left_out + (1 - self._smoothing) * before

    @property
    def steps(self) -> int:
        """Steps observed."""
        return self._steps

    @property
    def compressed_steps(self) -> int:
        """Steps that were sent compressed."""
        return self._compressed

    @property
    def cnc(self) -> float:
        """Compressed steps over all steps, the paper's CNC ratio; 0 before the first."""
        return self._compressed / self._steps if self._steps else 0.0

    @property
    def kept_energy(self) -> float:
        """The share of the squared norm that top-k keeps, mean over all steps; 0 before the first."""
        return self._kept_sum / self._measured if self._measured else 0.0

    @property
    def left_out(self) -> float | None:
        """The average that is held against delta; None before the first step."""
        return self._left_out

    def state(self) -> dict[str, float]:
        """Return what a checkpoint must hold."""
        known = {} if self._left_out is None else {"left_out": self._left_out}
        counts = {"steps": float(self._steps), "compressed": float(self._compressed), "measured": float(self._measured)}
        return {**known, **counts, "kept_sum": self._kept_sum}

    def load(self, state: dict[str, float]) -> None:
        """Go on from a state."""
        self._left_out = state.get("left_out")
        self._steps, self._compressed = int(state["steps"]), int(state["compressed"])
        self._measured = int(state["measured"])
        self._kept_sum = state["kept_sum"]
