"""Several tasks at once: a target of several parts, each of which a model answers."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor

from scadles.errors import ConfigError
from scadles.layout import Layout
from scadles.tasks.metrics import MeanLoss, Metric
from scadles.tasks.scores import LossFunction
from scadles.tasks.task import Task


class Weighted(NamedTuple):
    """The task of one part.

    Attributes:
        task: as if there were no other.
        weight: of its loss in the sum.
    """

    task: Task
    weight: float


class PartMetric(Metric):
    """A metric of one part, called ``PART.METRIC``.

    Args:
        part: name of it.
        inner: the metric.
    """

    def __init__(self, part: str, inner: Metric) -> None:
        self._part = part
        self._inner = inner
        self.name = f"{part}.{inner.name}"
        self.higher_is_better = inner.higher_is_better
        self.size = inner.size

    def sums(self, outputs: Any, targets: Any) -> Tensor:
        return self._inner.sums(outputs[self._part], targets[self._part])

    def value(self, sums: Tensor) -> float:
        return self._inner.value(sums)

    def per_label(self, sums: Tensor) -> tuple[float | None, ...]:
        return self._inner.per_label(sums)


def multitask(parts: Mapping[str, Weighted], layout: Layout, loss: LossFunction | None = None) -> Task:
    """Return the task of learning several at once: the loss is the weighted sum of theirs.

    A model answers with a dictionary that has each part's name, or, where parts are in order, with a list or tuple of
    as many; what else it answers is left alone.

    Args:
        parts: the task of each part of a target.
        layout: of a target.
        loss: mean loss of (outputs, targets) in place of that sum, given both as the model and the stream have them.
    """

    def each(outputs: Any, targets: Any) -> list[tuple[str, Weighted, Any, Any]]:
        said, true = _by_name(outputs, layout), dict(zip(layout.names, layout.values(targets), strict=True))
        return [(name, part, said[name], true[name]) for name, part in parts.items()]

    def fit(outputs: Any, targets: Any) -> dict[str, Tensor]:
        return {name: part.task.fit(said, true) for name, part, said, true in each(outputs, targets)}

    def mean(outputs: Any, targets: Any) -> Tensor:
        losses = [part.weight * part.task.minimised(said, true) for _, part, said, true in each(outputs, targets)]
        return torch.stack(losses).sum()

    def of_samples(fitted: Any, targets: Any) -> Tensor:
        found = each(fitted, targets)
        return torch.stack([part.weight * part.task.each_loss(said, true) for _, part, said, true in found]).sum(0)

    def pair(x: Any, y: Any) -> tuple[Any, Any]:
        true = layout.values(y)
        return x, layout.structure(
            [parts[name].task.pair(x, part)[1] for name, part in zip(layout.names, true, strict=True)]
        )

    def in_own_units(fitted: Any, targets: Any) -> tuple[Any, Any]:
        measured = {name: part.task.in_own_units(said, true) for name, part, said, true in each(fitted, targets)}
        return {name: said for name, (said, _) in measured.items()}, {
            name: true for name, (_, true) in measured.items()
        }

    fusible = loss is None and all(part.task.sample_losses is not None for part in parts.values())
    named = [PartMetric(name, m) for name, part in parts.items() for m in part.task.metrics if m.size]
    return Task(
        loss=loss or mean,
        metrics=[*named, MeanLoss()],
        kind="multitask",
        outputs=sum(part.task.outputs for part in parts.values()),
        pair=pair,
        fit=fit,
        sample_losses=of_samples if fusible else None,
        in_own_units=in_own_units,
        fits_loss=False,
    )


def _by_name(outputs: Any, layout: Layout) -> Mapping[str, Any]:
    """Return a model's answer to each part.

    Raises:
        ConfigError: there is none to some part.
    """
    if isinstance(outputs, Mapping):
        missing = [name for name in layout.names if name not in outputs]
        if not missing:
            return outputs
        raise ConfigError(
            f"the model answers with a dictionary of {', '.join(map(str, outputs)) or 'nothing'}, and there is no "
            f"answer to {', '.join(missing)}: its names must be those of the targets' parts, {', '.join(layout.names)}"
        )
    if isinstance(outputs, list | tuple) and layout.in_order and len(outputs) >= len(layout.parts):
        return dict(zip(layout.names, outputs, strict=False))
    expected = (
        f"a list or tuple of {len(layout.parts)}" if layout.in_order else f"a dictionary of {', '.join(layout.names)}"
    )
    raise ConfigError(
        f"the model answers with {type(outputs).__name__}, and targets have several parts: expected {expected}"
    )


Unpack = Callable[[Tensor], Any]


def taking_apart(task: Task, unpack: Unpack) -> Task:
    """Return the same for targets that come as rows of bytes."""
    pair = task.pair
    return dataclasses.replace(task, pair=lambda x, y: pair(x, unpack(y)))
