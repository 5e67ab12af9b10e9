"""How much of a vector's energy its largest entries hold, by a sample."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from scadles.exchange.compression.blocks import one_of_each

_SAMPLED = 1 << 14
_SMOOTHING = 0.3


class Energy(NamedTuple):
    """Squared norm of a vector, and what of it the largest entries hold."""

    norm_sq: float
    kept_sq: float


def energy(values: Tensor, ratio: float, generator: np.random.Generator) -> Energy:
    """Return the squared norm of a vector, and what of it the largest ``ratio`` of the entries hold.

    Long vectors are not passed over: both are told from 16,384 entries, of which at a ratio of 0.01 the largest 164
    count.

    Args:
        values: float32 ``[n]``.
        ratio: above 0, below 1.
        generator: draws the sample.

    >>> energy(torch.tensor([3.0, 0.0, 4.0, 0.0]), 0.25, np.random.default_rng(0))
    Energy(norm_sq=25.0, kept_sq=16.0)
    """
    n = len(values)
    if n > _SAMPLED:
        values = values.index_select(0, torch.from_numpy(one_of_each(_SAMPLED, n, generator)).to(values.device))
    squares = np.square(values.detach().cpu().numpy(), dtype=np.float64)
    place = len(squares) - max(1, round(ratio * len(squares)))
    scale = n / len(squares)
    return Energy(scale * float(squares.sum()), scale * float(np.partition(squares, place)[place:].sum()))


def lag_steps(kept: float, lag: float) -> float:
    """Return how many steps a model is behind one that is sent all of its gradients: ``lag (1 / kept - 1)``.

    With error feedback everything comes, but later: where a share ``kept`` of the energy is sent in a step, the rest
    waits for ``1 / kept - 1`` more. Learning is late by a multiple of that, whatever the number of steps.

    >>> lag_steps(1.0, 3.0), lag_steps(0.5, 3.0), round(lag_steps(0.1, 3.0))
    (0.0, 3.0, 27)
    """
    return lag * (1 / min(kept, 1.0) - 1) if kept > 0 else math.inf


class KeptEnergy:
    """The share of the energy that a step keeps at each of some levels of compression, one of which is in use.

    Of what is kept back most are entries that are not among the largest, so that a level keeps less once it is in use.
    How much less is remembered, for when it is to be used again. Level 0 keeps everything.

    Args:
        levels: how many there are.
        used: the one in use at first.
    """

    def __init__(self, levels: int, used: int = 0) -> None:
        self._used = used
        self._idle: list[float | None] = [1.0, *([None] * (levels - 1))]
        self._in_use: list[float | None] = [1.0, *([None] * (levels - 1))]
        self._change = [1.0] * levels
        self._outdated: list[int] = []  # levels that were looked at beside another one in use

    def share(self, level: int) -> float:
        """Return what a level keeps, or would keep; nothing where nobody has looked yet."""
        idle, in_use = self._idle[level], self._in_use[level]
        if level == self._used and in_use is not None:
            return in_use
        return 0.0 if idle is None else min(idle * self._change[level], 1.0)

    def observe(self, level: int, norm_sq: float, kept_sq: float) -> None:
        """Take note of a step's squared norm, and of what a level keeps of it; what is no number is passed over."""
        if not (0 < norm_sq < math.inf and 0 <= kept_sq < math.inf):
            return
        shares = self._in_use if level == self._used else self._idle
        kept, before = min(kept_sq / norm_sq, 1.0), shares[level]
        if before is not None and level not in self._outdated:
            kept = _SMOOTHING * kept + (1 - _SMOOTHING) * before
        self._outdated = [other for other in self._outdated if other != level]
        shares[level] = kept
        if (idle := self._idle[level]) and level == self._used:
            self._change[level] = kept / idle

    def use(self, level: int) -> None:
        """Let a level be in use from the next step on."""
        if self._idle[self._used] is None:
            self._idle[self._used] = self._in_use[self._used]
        self._in_use[level] = None if self._idle[level] is None else self.share(level)
        self._used, self._outdated = level, list(range(1, len(self._idle)))

    def state(self) -> dict[str, Any]:
        """Return what a checkpoint must hold, as JSON."""
        return {name: list(getattr(self, f"_{name}")) for name in _STATE} | {"used": self._used}

    def load(self, state: dict[str, Any]) -> None:
        """Go on from a state."""
        self._used = state["used"]
        for name in _STATE:
            setattr(self, f"_{name}", list(state[name]))


_STATE = ("idle", "in_use", "change", "outdated")
