"""The common model, tested by all devices together, or each device's own where BatchNorm's statistics stay local.

What it is tested on is the test part of a data set (:class:`Evaluator`), what each device has kept of its stream for
that (:class:`HoldoutEvaluator`), or each batch before it is trained on (:class:`StreamEvaluator`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from copy import copy
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from scadles.data import Dataset
from scadles.device.device import Device
from scadles.device.holdout import Holdout
from scadles.device.sliding_sums import SlidingSums
from scadles.errors import ConfigError
from scadles.fabric import Fabric
from scadles.importing import blame
from scadles.structures import Structure, answer, count, pick, to_torch_device
from scadles.tasks import Task
from scadles.training.score import OF_LOSS, Score

if TYPE_CHECKING:
    from typing_extensions import Self

_EXAMPLES = 8


Ready = Callable[[Structure, Structure], tuple[Structure, Structure]]


def _as_they_are(x: Structure, y: Structure) -> tuple[Structure, Structure]:
    return x, y


class Evaluator:
    """Measures the metrics of a task, and the mean loss, on a test set.

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

    #: Whether samples of the streams are tested on, whose number is told.
    counted = False

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
        mine = slice(None) if self.counted else self._mine
        return self._ready(*(pick(pick(part, mine), slice(2)) for part in (self._x, self._y)))

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
        return Score.of(everybody[:, :-1], self.task, latest_s=latest_s, own=self._own, counted=self.counted)

    def count(self, model: nn.Module) -> Tensor:
        """Return this device's sum of losses, what these count, samples, and sums of each metric, float64."""
        return self._add_up(model, pick(self._x, self._mine), pick(self._y, self._mine), self._ready)

    def measure(self, model: nn.Module, x: Structure, y: Structure) -> Tensor:
        """Return the same of any samples that a model takes, and what it should say; modes are kept."""
        return self._add_up(model, x, y, _as_they_are)

    def _add_up(self, model: nn.Module, x: Structure, y: Structure, ready: Ready) -> Tensor:
        task, total = self.task, self._nothing()
        with _testing(model) as torch_device:
            for start in range(0, count(y), self._batch_size):
                rows = slice(start, start + self._batch_size)
                samples, true = ready(pick(x, rows), pick(y, rows))
                targets = to_torch_device(true, torch_device)
                outputs: Any = answer(model, to_torch_device(samples, torch_device))
                given = task.weight(targets)
                weight = count(targets) if given is None else given
                total[0] += float(task.minimised(outputs, targets)) * weight if weight else 0.0
                total[1] += weight
                total[2] += count(targets)
                measured = task.in_own_units(task.fit(outputs, targets), targets)
                total[OF_LOSS:] += torch.cat([metric.sums(*measured).cpu().double() for metric in task.metrics])
        return total

    def _nothing(self) -> Tensor:
        return torch.zeros(OF_LOSS + sum(metric.size for metric in self.task.metrics), dtype=torch.float64)

    def of(self, device: Device) -> Self:
        """Return the same test on what another device of this process keeps."""
        del device
        return self

    def tested(self) -> None:
        """Take note that all devices have had their test."""


class HoldoutEvaluator(Evaluator):
    """The same on what each device has kept of its own stream.

    Args:
        holdout: the samples.
        arguments: of an :class:`Evaluator`; its samples are those to try a model with.
    """

    counted = True

    def __init__(self, holdout: Holdout, *arguments: Any, **named: Any) -> None:
        super().__init__(*arguments, **named)
        self._holdout = holdout

    def count(self, model: nn.Module) -> Tensor:
        if not len(self._holdout):
            return self._nothing()
        records = self._holdout.records
        return self._add_up(model, torch.as_tensor(records.x), records.y, self._ready)

    def of(self, device: Device) -> Self:
        other = copy(self)
        other._holdout = self._holdout if device.intake.holdout is None else device.intake.holdout
        return other


class StreamEvaluator(Evaluator):
    """The same on what each device has trained on lately, each batch before it was.

    Args:
        sums: what came of these tests.
        arguments: of an :class:`Evaluator`; its samples are those to try a model with.
    """

    counted = True

    def __init__(self, sums: SlidingSums, *arguments: Any, **named: Any) -> None:
        super().__init__(*arguments, **named)
        self._sums = sums

    def count(self, model: nn.Module) -> Tensor:
        total = self._sums.total
        return self._nothing() if total is None else total

    def of(self, device: Device) -> Self:
        other = copy(self)
        other._sums = self._sums if device.tests is None else device.tests
        return other

    def tested(self) -> None:
        self._sums.next_interval()


def make_evaluator(
    device: Device, task: Task, dataset: Dataset, batch_size: int, fabric: Fabric, *, own: bool = False
) -> Evaluator:
    """Return what tests the models of a run, on what this device keeps for that, prepared as what is trained on.

    Args:
        device: which one; one that keeps nothing is tested on the test part of the data set.
        task: what is measured.
        dataset: of the run.
        batch_size: samples per forward pass.
        fabric: the way to the other devices.
        own: whether each device has a model of its own.
    """
    learner = device.learner

    def ready(x: Structure, y: Structure) -> tuple[Structure, Structure]:
        return task.pair(learner.prepare(x), y)

    holdout, sums = device.intake.holdout, device.tests
    if holdout is None and sums is None:
        x, y = dataset.test()
        if learner.statistics is not None:  # which change from test to test
            return Evaluator(x, y, task, batch_size, fabric, own=own, ready=ready)
        return Evaluator(*ready(x, y), task, batch_size, fabric, own=own)
    example = dataset.samples(np.arange(min(_EXAMPLES, dataset.train_size or _EXAMPLES)))
    if holdout is not None:
        return HoldoutEvaluator(holdout, *example, task, batch_size, fabric, own=own, ready=ready)
    return StreamEvaluator(sums or SlidingSums(1), *example, task, batch_size, fabric, own=own, ready=ready)


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
