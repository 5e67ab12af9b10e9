"""The backward pass of a device's batch, at once or in parts."""

from __future__ import annotations

import math

import numpy as np
from torch import Tensor

from scadles.errors import RunError


class Parts:
    """The parts of one batch that a backward pass has been done for.

    Attributes:
        total: sum of the parts' weights, or how many there are where none was given one.
    """

    def __init__(self) -> None:
        self.total = 0.0
        self._losses = 0.0
        self._weighted: bool | None = None

    @property
    def weight(self) -> float | None:
        """The weight of the batch; None where the parts have none."""
        return self.total if self._weighted else None

    @property
    def mean_loss(self) -> float:
        """The mean loss over the batch."""
        return self._losses / self.total if self.total else 0.0

    @property
    def counts_for_nothing(self) -> bool:
        """Whether all parts were given a weight of 0."""
        return self._weighted is True and self.total == 0

    def add(self, loss: Tensor, weight: float | None) -> None:
        """Do the backward pass of a part, into the gradients of those before it."""
        if self._weighted not in (None, weight is not None):
            raise RunError("give all parts of a batch a weight, or none of them")
        self._weighted = weight is not None
        factor = 1.0 if weight is None else checked_weight(weight)
        check_loss(loss)
        value = float(loss.detach())
        self.total += factor
        if factor:
            self._losses += factor * value
            if math.isfinite(value):
                backward(loss, factor)


def check_loss(loss: Tensor) -> None:
    """Refuse a loss that is not one number."""
    if loss.dim() != 0:
        raise RunError(f"the loss must be the mean over the batch, one number; it has shape {tuple(loss.shape)}")


def checked_weight(weight: float | Tensor) -> float:
    """Return a weight as a float32 message carries it; refuse one that is negative or not finite."""
    value = float(np.float32(float(weight)))
    if not math.isfinite(value) or value < 0:
        raise RunError(f"weight = {value:g}: what the mean loss is over must be finite and not negative")
    return value


def backward(loss: Tensor, weight: float) -> None:
    """Do the backward pass of ``weight * loss``.

    Raises:
        RunError: somebody has done it before, or there is no graph.
    """
    if not loss.requires_grad:
        raise RunError(
            "the loss depends on no parameter that requires a gradient: make it of the model's outputs, outside of "
            "torch.no_grad(), without .item() or .detach()"
        )
    try:
        (loss * weight).backward()  # type: ignore[no-untyped-call]
    except RuntimeError as error:
        if "backward through the graph a second time" not in str(error):
            raise
        raise RunError(
            "loss.backward() was called in the loop: leave it and optimizer.step() out, because device.step(loss) does "
            "the backward pass, the exchange with the other devices and the optimizer's step"
        ) from None
