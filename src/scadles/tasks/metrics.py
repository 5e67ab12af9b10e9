"""What a test measures: sums over samples, which add up exactly over batches and devices."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable

import torch
from torch import Tensor

Values = Callable[[Tensor, Tensor], Tensor]


class Metric(ABC):
    """One number of a test.

    Attributes:
        name: in settings, events and tables.
        higher_is_better: which way is good.
        size: how many sums it is computed from.
    """

    name: str
    higher_is_better: bool
    size: int

    @abstractmethod
    def sums(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Return what some samples add to the sums, ``[size]``; on any torch device, of any dtype.

        Args:
            outputs: in the form of the task, ``[b, ...]``.
            targets: what they should be, ``[b, ...]``.
        """

    @abstractmethod
    def value(self, sums: Tensor) -> float:
        """Return the metric, from sums over all samples, float64 ``[size]``."""

    def per_label(self, sums: Tensor) -> tuple[float | None, ...]:
        """Return the same for each label's samples, to four digits, None where there are none; () without labels."""
        del sums
        return ()


class SampleMean(Metric):
    """The mean over samples of a value of each.

    Args:
        name: of the metric.
        values: (outputs, targets) to one value for each sample, ``[b]``.
        higher_is_better: which way is good.

    >>> off = SampleMean("off_by", lambda outputs, targets: (outputs - targets).abs(), higher_is_better=False)
    >>> off.value(off.sums(torch.tensor([1.0, 5.0]), torch.tensor([2.0, 2.0])))
    2.0
    """

    size = 2

    def __init__(self, name: str, values: Values, *, higher_is_better: bool) -> None:
        self.name = name
        self.higher_is_better = higher_is_better
        self._values = values

    def sums(self, outputs: Tensor, targets: Tensor) -> Tensor:
        values = self._values(outputs, targets).double()
        return torch.stack([values.sum(), values.new_tensor(float(len(values)))])

    def value(self, sums: Tensor) -> float:
        return float(sums[0]) / float(sums[1])


class MeanLoss(Metric):
    """The mean loss, which a test computes anyway: no sums of its own."""

    name, higher_is_better, size = "loss", False, 0

    def sums(self, outputs: Tensor, targets: Tensor) -> Tensor:
        return torch.empty(0)

    def value(self, sums: Tensor) -> float:
        """Return it from the sum of losses and the number of samples."""
        return float(sums[0]) / float(sums[1])


class Accuracy(Metric):
    """The share of right answers among scores ``[b, classes, ...]``: the label with the largest score.

    Args:
        classes: how many labels there are.
    """

    name, higher_is_better = "accuracy", True

    def __init__(self, classes: int) -> None:
        self._classes = classes
        self.size = 2 * classes

    def sums(self, outputs: Tensor, targets: Tensor) -> Tensor:
        right = targets[outputs.argmax(dim=1) == targets]
        counts = [torch.bincount(some.flatten().cpu(), minlength=self._classes) for some in (right, targets)]
        return torch.cat(counts)

    def value(self, sums: Tensor) -> float:
        right, counts = (half.tolist() for half in sums.chunk(2))
        return float(sum(right) / sum(counts))

    def per_label(self, sums: Tensor) -> tuple[float | None, ...]:
        right, counts = (half.tolist() for half in sums.chunk(2))
        return tuple(round(r / n, 4) if n else None for r, n in zip(right, counts, strict=True))


class IntersectionOverUnion(Metric):
    """The mean over labels of intersection over union, from scores ``[b, classes, ...]``; absent ones do not count."""

    name, higher_is_better = "iou", True

    def __init__(self, classes: int) -> None:
        self._classes = classes
        self.size = 3 * classes

    def sums(self, outputs: Tensor, targets: Tensor) -> Tensor:
        said = outputs.argmax(dim=1)
        parts = (targets[said == targets], targets, said)
        return torch.cat([torch.bincount(some.flatten().cpu(), minlength=self._classes) for some in parts])

    def value(self, sums: Tensor) -> float:
        both, true, said = sums.chunk(3)
        union = true + said - both
        return float((both[union > 0] / union[union > 0]).mean())

    def per_label(self, sums: Tensor) -> tuple[float | None, ...]:
        both, true, said = (part.tolist() for part in sums.chunk(3))
        rows = ((b, t + s - b) for b, t, s in zip(both, true, said, strict=True))
        return tuple(round(b / union, 4) if union else None for b, union in rows)


class F1(Metric):
    """Micro-averaged F1 of logits ``[b, labels]``, of which those above 0 say yes: 2 TP / (2 TP + FP + FN)."""

    name, higher_is_better, size = "f1", True, 3

    def sums(self, outputs: Tensor, targets: Tensor) -> Tensor:
        said, true = outputs > 0, targets > 0.5
        return torch.stack([(said & true).sum(), (said & ~true).sum(), (~said & true).sum()])

    def value(self, sums: Tensor) -> float:
        hits, false, missed = sums.tolist()
        return float(2 * hits / (2 * hits + false + missed)) if hits + false + missed else 1.0


class MeanError(Metric):
    """The mean over all values of a power of the absolute error: mean absolute and mean squared error, or its root."""

    higher_is_better, size = False, 2

    def __init__(self, name: str, power: int, *, root: bool = False) -> None:
        self.name = name
        self._power = power
        self._root = root

    def sums(self, outputs: Tensor, targets: Tensor) -> Tensor:
        errors = (outputs.double() - targets.double()).abs() ** self._power
        return torch.stack([errors.sum(), errors.new_tensor(float(errors.numel()))])

    def value(self, sums: Tensor) -> float:
        mean = float(sums[0]) / float(sums[1])
        return math.sqrt(mean) if self._root else mean


class R2(Metric):
    """The share of the targets' variance that is explained, 1 - SSE / SST, mean over the values of a target.

    Args:
        values: how many values a target has.
    """

    name, higher_is_better = "r2", True

    def __init__(self, values: int) -> None:
        self._values = values
        self.size = 3 * values + 1

    def sums(self, outputs: Tensor, targets: Tensor) -> Tensor:
        said, true = (x.double().reshape(-1, self._values) for x in (outputs, targets))
        parts = [((said - true) ** 2).sum(dim=0), true.sum(dim=0), (true**2).sum(dim=0)]
        return torch.cat([*parts, true.new_tensor([float(len(true))])])

    def value(self, sums: Tensor) -> float:
        wrong, total, squares = sums[:-1].chunk(3)
        spread = squares - total**2 / sums[-1]
        return float((1 - wrong / torch.where(spread > 0, spread, torch.inf)).mean())


class Perplexity(Metric):
    """e to the mean negative log-likelihood of a token, of scores ``[b, vocabulary, time]``."""

    name, higher_is_better, size = "perplexity", False, 2

    def sums(self, outputs: Tensor, targets: Tensor) -> Tensor:
        losses = torch.nn.functional.cross_entropy(outputs.double(), targets, reduction="sum")
        return torch.stack([losses, losses.new_tensor(float(targets.numel()))])

    def value(self, sums: Tensor) -> float:
        mean = float(sums[0]) / float(sums[1])
        return math.exp(mean) if mean < 700 else math.inf  # beyond it no float


def top_k(k: int) -> SampleMean:
    """Return the share of samples whose label is among the ``k`` largest scores ``[b, classes]``."""

    def hits(outputs: Tensor, targets: Tensor) -> Tensor:
        return (outputs.topk(min(k, outputs.shape[1]), dim=1).indices == targets[:, None]).any(dim=1)

    return SampleMean(f"top{k}_accuracy", hits, higher_is_better=True)


def exact_match() -> SampleMean:
    """Return the share of samples with logits ``[b, labels]`` that are right in every label."""
    return SampleMean("exact_match", lambda said, true: ((said > 0) == (true > 0.5)).all(dim=1), higher_is_better=True)
