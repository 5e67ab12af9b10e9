"""The learning rate: scaled with the global batch, scheduled on global samples.

Every device computes the same factor, because total batch and samples seen are the same everywhere.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Mapping, Sequence
from typing import Literal

from torch.optim import Adam, Adamax, AdamW, NAdam, Optimizer, RAdam

Scaling = Literal["linear", "sqrt", "none"]
_ADAPTIVE = (Adam, AdamW, Adamax, NAdam, RAdam)


def scaling_for(optimizer: Optimizer) -> Scaling:
    """Return the scaling that suits an optimizer: square root for Adam and its kin, linear otherwise."""
    return "sqrt" if isinstance(optimizer, _ADAPTIVE) else "linear"


class LearningRate:
    """Factor on the optimizer's base learning rate.

    Linear: sum(b) / B with B the base global batch (paper, section IV); sqrt: its square root, for adaptive optimizers
    (Malladi et al., 2022). On top: a linear warm-up and cuts by ``gamma``, both counted in global samples.

    Args:
        scaling: ``linear``, ``sqrt`` or ``none``.
        base_batch: B, samples of a conventional global batch.
        warmup_samples: global samples over which the factor grows from 0; 0 for no warm-up.
        milestones: global samples after which the rate is multiplied by ``gamma``, ascending.
        gamma: factor of each cut.

    >>> rate = LearningRate("linear", base_batch=256, milestones=(1000,), gamma=0.2)
    >>> rate.factor(total_batch=128, samples_before=0), rate.factor(total_batch=128, samples_before=1000)
    (0.5, 0.1)
    """

    def __init__(
        self,
        scaling: Scaling,
        base_batch: int,
        warmup_samples: int = 0,
        milestones: Sequence[int] = (),
        gamma: float = 0.2,
    ) -> None:
        self.scaling = scaling
        self.base_batch = base_batch
        self.warmup_samples = warmup_samples
        self.milestones = tuple(milestones)
        self.gamma = gamma

    def batch_scale(self, total_batch: int) -> float:
        """Return what the global batch alone makes of the base rate."""
        if self.scaling == "none":
            return 1.0
        ratio = total_batch / self.base_batch
        return ratio if self.scaling == "linear" else math.sqrt(ratio)

    def factor(self, total_batch: int, samples_before: int) -> float:
        """Return the factor for a step on ``total_batch`` samples after ``samples_before`` global samples."""
        warmup, cut = self._schedule(samples_before, samples_before + total_batch)
        return self.batch_scale(total_batch) * warmup * cut

    def take(self, total_batch: int, samples_before: int) -> tuple[float, float]:
        """Return what the batch alone makes of the base rate of a step that is taken now, and the whole factor."""
        return self.batch_scale(total_batch), self.factor(total_batch, samples_before)

    def state(self) -> dict[str, float]:
        """Return what is carried from step to step, for a checkpoint."""
        return {}

    def load(self, state: Mapping[str, float]) -> None:
        """Go on from what :meth:`state` returned."""

    def _schedule(self, before: float, after: float) -> tuple[float, float]:
        """Return what warm-up and cuts make of the rate of a step between these two positions, in samples."""
        warmup = min(1.0, after / self.warmup_samples) if self.warmup_samples else 1.0
        return warmup, self.gamma ** bisect_right(self.milestones, before)
