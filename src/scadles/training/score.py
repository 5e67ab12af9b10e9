"""What a test came to, from the sums of all devices."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from scadles.tasks import Task

#: Sum of losses, of what they count (samples, or weights), and samples, before the sums of the metrics.
OF_LOSS = 3
#: A test on fewer samples of the streams is no best one, and reaches no target.
FEWEST = 100


@dataclass(frozen=True)
class Score:
    """Outcome of one evaluation over the whole test set; of several models, their mean.

    Attributes:
        values: name and value of each metric, the run's own first; () where nobody had anything to test on.
        loss: mean over the samples.
        per_label: the metric on each label's samples, to four digits; None where there are none; () without labels.
        latest_s: the latest stream time that a device had when it came to the test.
        own: the metric of each present device's own model, where it has one; None where that was tested on nothing.
        samples: that were tested on, where these are of the streams; None for a test set, which is always the same.
    """

    values: tuple[tuple[str, float], ...]
    loss: float
    per_label: tuple[float | None, ...]
    latest_s: float
    own: tuple[float | None, ...] = ()
    samples: int | None = None

    @property
    def counts(self) -> bool:
        """Whether it says enough to be the best, or to reach a target."""
        return self.samples is None or self.samples >= FEWEST

    @property
    def value(self) -> float:
        """The run's own metric."""
        return self.values[0][1]

    @property
    def spread(self) -> tuple[float, ...]:
        """The lowest and the highest of ``own``."""
        known = [value for value in self.own if value is not None]
        return (min(known), max(known)) if known else ()

    @classmethod
    def of(cls, rows: Tensor, task: Task, latest_s: float, *, own: bool = False, counted: bool = False) -> Score:
        """Return the score that :meth:`Evaluator.count` came to on each device.

        Args:
            rows: what it returned, float64 ``[devices, sums]``.
            task: whose metrics these are.
            latest_s: the latest stream time of a device.
            own: whether each device tested a model of its own.
            counted: whether the samples are of the streams, so that their number says how much the score is worth.
        """
        sums = _parts(rows.sum(dim=0), task)
        if not sums[0][2]:
            return cls((), math.nan, (), latest_s, samples=0)
        values = tuple((metric.name, metric.value(part)) for metric, part in zip(task.metrics, sums[1:], strict=True))
        each = tuple(task.metrics[0].value(_parts(row, task)[1]) if row[2] else None for row in rows) if own else ()
        loss = float(sums[0][0]) / float(sums[0][1]) if sums[0][1] else math.nan
        samples = int(sums[0][2]) if counted else None
        return cls(values, loss, task.metrics[0].per_label(sums[1]), latest_s, each, samples)


def _parts(sums: Tensor, task: Task) -> list[Tensor]:
    """Return the sums of the loss, then those of each metric; one without sums of its own is computed from the loss."""
    loss, *own = torch.split(sums, [OF_LOSS, *(metric.size for metric in task.metrics)])
    return [loss, *(part if metric.size else loss for metric, part in zip(task.metrics, own, strict=True))]


def evaluation_fields(task: Task, score: Score, own: float | None) -> dict[str, Any]:
    """Return what an event says of a test.

    Args:
        task: of the run.
        score: what the test came to.
        own: the metric of this device's own model; None where the model is common.
    """
    found: dict[str, Any] = {"loss": score.loss, "per_label": score.per_label}
    if task.aim.metric == "accuracy":
        found |= {"accuracy": score.value, "own_accuracy": own}
    if score.samples is not None:
        found["samples"] = score.samples
    if not task.is_plain:
        found |= {"metrics": dict(score.values), "own": own if task.aim.metric != "accuracy" else None}
    return found
