"""The common model, tested by all devices together, or each device's own where BatchNorm's statistics stay local."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from scadles.fabric import Fabric
from scadles.training.scores import LossFunction, Scores, check_scores, find_scores, on_scores


def right_answers(outputs: Any, labels: Tensor) -> Tensor:
    """Return which of the scores ``[..., classes]`` in ``outputs`` are largest at their label, bool ``[...]``."""
    return find_scores(outputs).detach().argmax(dim=-1) == labels


@dataclass(frozen=True)
class Score:
    """Outcome of one evaluation over the whole test set; of several models, their mean.

    Attributes:
        per_label: accuracy on each label's samples, to four digits; None where there are none.
        latest_s: the latest stream time that a device had when it came to the test.
        own: accuracy of each present device's own model, where it has one.
    """

    accuracy: float
    loss: float
    per_label: tuple[float | None, ...]
    latest_s: float
    own: tuple[float, ...] = ()

    @property
    def spread(self) -> tuple[float, ...]:
        """The lowest and the highest of ``own``."""
        return (min(self.own), max(self.own)) if self.own else ()

    @classmethod
    def of(cls, rows: Tensor, latest_s: float, *, own: bool = False) -> Score:
        """Return the score that :meth:`Evaluator.count` came to on each device.

        Args:
            rows: what it returned, float64 ``[devices, 1 + 2 * classes]``.
            latest_s: the latest stream time of a device.
            own: whether each device tested a model of its own.
        """
        sums = rows.sum(dim=0)
        right, counts = (half.tolist() for half in sums[1:].chunk(2))
        per_label = tuple(round(r / n, 4) if n else None for r, n in zip(right, counts, strict=True))
        each_right, each_counts = (half.sum(dim=1) for half in rows[:, 1:].chunk(2, dim=1))
        each = tuple((each_right / each_counts).tolist()) if own else ()
        return cls(sum(right) / sum(counts), float(sums[0]) / sum(counts), per_label, latest_s, each)


class Evaluator:
    """Measures top-1 accuracy and mean loss.

    A common model is tested once: each of the N devices present takes every N-th sample. Where each has a model of its
    own, each tests it on all samples.

    Args:
        x: all test samples, prepared, float ``[n, *shape]``.
        y: their labels ``[n]``, below ``classes``.
        classes: how many labels there are.
        loss: mean loss of (outputs, labels).
        batch_size: samples per forward pass.
        fabric: the way to the other devices.
        own: whether each device has a model of its own.
        scores: finds the scores ``[b, classes]`` in the model's outputs.

    Attributes:
        scores: as given.
    """

    def __init__(
        self,
        x: Tensor,
        y: Tensor,
        classes: int,
        loss: LossFunction,
        batch_size: int,
        fabric: Fabric,
        *,
        own: bool = False,
        scores: Scores = find_scores,
    ) -> None:
        self._x, self._y = x, y
        self._own = own
        self._classes = classes
        self._loss = on_scores(loss, scores)
        self._batch_size = batch_size
        self._fabric = fabric
        self.scores = scores

    @property
    def _mine(self) -> slice:
        if self._own:
            return slice(None)
        present = self._fabric.present
        if self._fabric.rank not in present:  # one that follows leaves tests to the others
            return slice(0)
        return slice(present.index(self._fabric.rank), None, len(present))

    @property
    def example(self) -> Tensor:
        """A few samples to try a model with, ``[n, *shape]``; none where this device has none."""
        return self._x[self._mine][:2]

    def check(self, model: nn.Module) -> None:
        """Refuse a model whose outputs hold no score for each label, by trying it on two samples.

        Raises:
            ConfigError: there are none.
        """
        x = self.example
        if len(x):
            with _testing(model) as torch_device:
                check_scores(self.scores(model(x.to(torch_device))), len(x), self._classes)

    def right_answers(self, outputs: Any, labels: Tensor) -> Tensor:
        """Return which samples' scores are largest at their label, bool ``[b]``."""
        return right_answers(self.scores(outputs), labels)

    def score(self, model: nn.Module, phase: str, now_s: float = 0.0) -> Score:
        """Return the score of ``model``, the same on all devices; the train or eval mode of all its parts is kept.

        Args:
            model: in whose outputs there are scores ``[b, classes]``.
            phase: named in errors.
            now_s: this device's stream time.
        """
        sums = self.count(model)
        everybody = self._fabric.gather(torch.cat([sums, sums.new_tensor([now_s])]), phase)[list(self._fabric.present)]
        return Score.of(everybody[:, :-1], latest_s=float(everybody[:, -1].max()), own=self._own)

    def count(self, model: nn.Module) -> Tensor:
        """Return this device's sum of losses, right answers of each label and samples of each; modes are kept.

        The result is float64 ``[1 + 2 * classes]``.
        """
        sums = torch.zeros(1 + 2 * self._classes, dtype=torch.float64)
        with _testing(model) as torch_device:
            x, y = self._x[self._mine], self._y[self._mine]
            for start in range(0, len(y), self._batch_size):
                rows = slice(start, start + self._batch_size)
                outputs, labels = model(x[rows].to(torch_device)), y[rows].to(torch_device)
                right = labels[self.right_answers(outputs, labels)]
                sums[0] += float(self._loss(outputs, labels)) * len(labels)
                sums[1:] += torch.cat([torch.bincount(some.cpu(), minlength=self._classes) for some in (right, labels)])
        return sums


@contextmanager
def _testing(model: nn.Module) -> Iterator[torch.device]:
    """Let a model be tested, without graphs; the train or eval mode of all its parts is kept. Yields where it is."""
    were_training = [(part, part.training) for part in model.modules()]
    model.eval()
    try:
        with torch.no_grad():
            yield next(model.parameters()).device
    finally:
        for part, was_training in were_training:
            part.training = was_training
