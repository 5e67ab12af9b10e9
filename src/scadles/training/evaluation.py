"""The common model, tested by all devices together, or each device's own where BatchNorm's statistics stay local."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from scadles.data import Dataset
from scadles.device.learner import Learner
from scadles.errors import ConfigError
from scadles.fabric import Fabric
from scadles.importing import blame
from scadles.structures import Structure, answer, count, pick, to_torch_device
from scadles.tasks import Task

_OF_LOSS = 2  # sum of losses and of what they count (samples, or weights), before the sums of the metrics


Ready = Callable[[Structure, Structure], tuple[Structure, Structure]]


def _as_they_are(x: Structure, y: Structure) -> tuple[Structure, Structure]:
    return x, y


@dataclass(frozen=True)
class Score:
    """Outcome of one evaluation over the whole test set; of several models, their mean.

    Attributes:
        values: name and value of each metric, the run's own first.
        loss: mean over the samples.
        per_label: the metric on each label's samples, to four digits; None where there are none; () without labels.
        latest_s: the latest stream time that a device had when it came to the test.
        own: the metric of each present device's own model, where it has one.
    """

    values: tuple[tuple[str, float], ...]
    loss: float
    per_label: tuple[float | None, ...]
    latest_s: float
    own: tuple[float, ...] = ()

    @property
    def value(self) -> float:
        """The run's own metric."""
        return self.values[0][1]

    @property
    def spread(self) -> tuple[float, ...]:
        """The lowest and the highest of ``own``."""
        return (min(self.own), max(self.own)) if self.own else ()

    @classmethod
    def of(cls, rows: Tensor, task: Task, latest_s: float, *, own: bool = False) -> Score:
        """Return the score that :meth:`Evaluator.count` came to on each device.

        Args:
            rows: what it returned, float64 ``[devices, sums]``.
            task: whose metrics these are.
            latest_s: the latest stream time of a device.
            own: whether each device tested a model of its own.
        """
        sums = _parts(rows.sum(dim=0), task)
        values = tuple((metric.name, metric.value(part)) for metric, part in zip(task.metrics, sums[1:], strict=True))
        each = tuple(task.metrics[0].value(_parts(row, task)[1]) for row in rows) if own else ()
        loss = float(sums[0][0]) / float(sums[0][1])
        return cls(values, loss, task.metrics[0].per_label(sums[1]), latest_s, each)


class Evaluator:
    """Measures the metrics of a task, and the mean loss.

    A common model is tested once: each of the N devices present takes every N-th sample. Where each has a model of its
    own, each tests it on all samples.

    Args:
        x: what a model takes, of all test samples, ``[n, ...]``; of several parts by name or in order.
        y: what it should say, ``[n, ...]``, likewise.
        task: what is measured.
        batch_size: samples per forward pass.
        fabric: the way to the other devices.
        own: whether each device has a model of its own.
        ready: makes samples and targets what is said above, anew for every test, where they are not so already.

    Attributes:
        task: as given.
    """

    def __init__(
        self,
        x: Structure,
        y: Structure,
        task: Task,
        batch_size: int,
        fabric: Fabric,
        *,
        own: bool = False,
        ready: Ready = _as_they_are,
    ) -> None:
        self._ready = ready
        self._x, self._y = x, y
        self._own = own
        self._batch_size = batch_size
        self._fabric = fabric
        self.task = task

    @property
    def _mine(self) -> slice:
        if self._own:
            return slice(None)
        present = self._fabric.present
        if self._fabric.rank not in present:  # one that follows leaves tests to the others
            return slice(0)
        return slice(present.index(self._fabric.rank), None, len(present))

    @property
    def example(self) -> Structure:
        """A few samples to try a model with, ``[n, ...]``; none where this device has none."""
        return self._examples()[0]

    def _examples(self) -> tuple[Structure, Structure]:
        return self._ready(*(pick(pick(part, self._mine), slice(2)) for part in (self._x, self._y)))

    def check(self, model: nn.Module) -> None:
        """Refuse a model whose outputs are no answer to the task, by trying it on two samples.

        Raises:
            ConfigError: they are not.
        """
        x, y = self._examples()
        if count(x):
            with _testing(model) as torch_device:
                said = _asked(model, to_torch_device(x, torch_device))
                self.task.check(said, to_torch_device(y, torch_device))

    def score(self, model: nn.Module, phase: str, now_s: float = 0.0) -> Score:
        """Return the score of ``model``, the same on all devices; the train or eval mode of all its parts is kept.

        Args:
            model: whose outputs answer the task.
            phase: named in errors.
            now_s: this device's stream time.
        """
        sums = self.count(model)
        everybody = self._fabric.gather(torch.cat([sums, sums.new_tensor([now_s])]), phase)[list(self._fabric.present)]
        latest_s = float(everybody[:, -1].max())
        return Score.of(everybody[:, :-1], self.task, latest_s=latest_s, own=self._own)

    def count(self, model: nn.Module) -> Tensor:
        """Return this device's sum of losses, what these count, and sums of each metric, float64; modes are kept."""
        task = self.task
        total = torch.zeros(_OF_LOSS + sum(metric.size for metric in task.metrics), dtype=torch.float64)
        with _testing(model) as torch_device:
            x, y = pick(self._x, self._mine), pick(self._y, self._mine)
            for start in range(0, count(y), self._batch_size):
                rows = slice(start, start + self._batch_size)
                samples, true = self._ready(pick(x, rows), pick(y, rows))
                targets = to_torch_device(true, torch_device)
                outputs: Any = answer(model, to_torch_device(samples, torch_device))
                given = task.weight(targets)
                weight = count(targets) if given is None else given
                total[0] += float(task.minimised(outputs, targets)) * weight if weight else 0.0
                total[1] += weight
                measured = task.in_own_units(task.fit(outputs, targets), targets)
                total[_OF_LOSS:] += torch.cat([metric.sums(*measured).cpu().double() for metric in task.metrics])
        return total


def _asked(model: nn.Module, x: Structure) -> Any:
    """Return what a model says of samples; refuse one that cannot be given their parts."""
    try:
        return answer(model, x)
    except TypeError as error:
        if isinstance(x, Tensor):
            raise
        way = f"by name: {', '.join(x)}" if isinstance(x, Mapping) else f"in order, {len(x)} of them"
        raise ConfigError(
            f"the model is given the parts of samples {way}; its forward raised {blame(error)}"
        ) from error


def on_test_part(
    dataset: Dataset, learner: Learner, task: Task, batch_size: int, fabric: Fabric, *, own: bool = False
) -> Evaluator:
    """Return what tests models on the test part of a data set, prepared as what is trained on.

    Args:
        dataset: of the run.
        learner: says how samples are prepared.
        task: what is measured.
        batch_size: samples per forward pass.
        fabric: the way to the other devices.
        own: whether each device has a model of its own.
    """

    def ready(x: Structure, y: Structure) -> tuple[Structure, Structure]:
        return task.pair(learner.prepare(x), y)

    x, y = dataset.test()
    if learner.statistics is not None:  # which change from test to test
        return Evaluator(x, y, task, batch_size, fabric, own=own, ready=ready)
    return Evaluator(*ready(x, y), task, batch_size, fabric, own=own)


def _parts(sums: Tensor, task: Task) -> list[Tensor]:
    """Return the sums of the loss, then those of each metric; one without sums of its own is computed from the loss."""
    loss, *own = torch.split(sums, [_OF_LOSS, *(metric.size for metric in task.metrics)])
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
    if not task.is_plain:
        found |= {"metrics": dict(score.values), "own": own if task.aim.metric != "accuracy" else None}
    return found


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
