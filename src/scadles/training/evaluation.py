"""The common model, tested by all devices together: each takes its part of the test set."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from scadles.fabric import Fabric

LossFunction = Callable[[Tensor, Tensor], Tensor]


@dataclass(frozen=True)
class Score:
    """Outcome of one evaluation over the whole test set.

    Attributes:
        latest_s: the latest stream time that a device had when it came to the test.
    """

    accuracy: float
    loss: float
    latest_s: float


class Evaluator:
    """Measures top-1 accuracy and mean loss.

    Args:
        x: all test samples, prepared, float ``[n, *shape]``; this device keeps every N-th.
        y: their labels ``[n]``.
        loss: mean loss of (outputs, labels).
        batch_size: samples per forward pass.
    """

    def __init__(self, x: Tensor, y: Tensor, loss: LossFunction, batch_size: int, fabric: Fabric) -> None:
        self._x = x[fabric.rank :: fabric.size]
        self._y = y[fabric.rank :: fabric.size]
        self._loss = loss
        self._batch_size = batch_size
        self._fabric = fabric

    def score(self, model: nn.Module, phase: str, now_s: float = 0.0) -> Score:
        """Return the score of ``model``, the same on all devices; the train or eval mode of all its parts is kept.

        Args:
            model: with outputs ``[b, classes]``.
            phase: named in errors.
            now_s: this device's stream time.
        """
        sums = self.count(model)
        everybody = self._fabric.gather(torch.cat([sums, sums.new_tensor([now_s])]), phase)
        correct_sum, count, loss_sum = everybody[:, :3].sum(dim=0).tolist()
        return Score(accuracy=correct_sum / count, loss=loss_sum / count, latest_s=float(everybody[:, 3].max()))

    def count(self, model: nn.Module) -> Tensor:
        """Return this device's sums of correct answers, samples and losses, float64 ``[3]``; modes are kept."""
        were_training = [(part, part.training) for part in model.modules()]
        model.eval()
        sums = torch.zeros(3, dtype=torch.float64)
        place = next(model.parameters()).device
        with torch.no_grad():
            for start in range(0, len(self._y), self._batch_size):
                rows = slice(start, start + self._batch_size)
                outputs, labels = model(self._x[rows].to(place)), self._y[rows].to(place)
                correct = int((outputs.argmax(dim=1) == labels).sum())
                loss = float(self._loss(outputs, labels))
                sums += torch.tensor([correct, len(labels), loss * len(labels)], dtype=torch.float64)
        for part, was_training in were_training:
            part.training = was_training
        return sums
