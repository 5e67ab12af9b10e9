"""The task of a run: one object that says what is learnt."""

from __future__ import annotations

import dataclasses
import math
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from torch import Tensor
from torch.nn.functional import cross_entropy

from scadles.errors import ConfigError
from scadles.importing import blame
from scadles.structures import Structure, count, pick, shapes_in_words
from scadles.tasks.metrics import Metric
from scadles.tasks.scores import LossFunction, Scores, check_scores, find_scores

if TYPE_CHECKING:
    from typing_extensions import Self

Pair = Callable[[Structure, Structure], tuple[Structure, Structure]]
Fit = Callable[[Any, Structure], Any]


@dataclass(frozen=True)
class Goal:
    """What a run is to reach, and how its metric is read.

    Attributes:
        metric: its name.
        higher_is_better: which way is good.
        limit: what must be reached; None for nothing.

    >>> Goal("mae", higher_is_better=False, limit=0.2).reached(0.19)
    True
    """

    metric: str
    higher_is_better: bool
    limit: float | None = None

    def better(self, one: float, other: float | None) -> bool:
        """Whether one value is better than the other, which may not be there or no number yet."""
        if other is None or math.isnan(other):
            return True
        return one > other if self.higher_is_better else one < other

    def reached(self, value: float) -> bool:
        """Whether a value is good enough."""
        if self.limit is None:
            return False
        return value >= self.limit if self.higher_is_better else value <= self.limit


def as_they_are(x: Structure, y: Structure) -> tuple[Structure, Structure]:
    """Return samples and targets as they are."""
    return x, y


def _each_cross_entropy(outputs: Tensor, targets: Tensor) -> Tensor:
    return cross_entropy(outputs, targets, reduction="none")


@dataclass(frozen=True)
class Task:
    """What is learnt: what a model takes and shall say, what is minimised, and what counts as good.

    Args:
        loss: mean loss of (outputs, targets).
        metrics: what a test measures, at least one; the first is the run's own.
        kind: a name for it.
        outputs: values in a built-in network's answer to one sample.
        pair: prepared samples ``[b, *shape]`` and what the stream has with them to what the model takes and what it
            should say. Samples and targets of several parts are dictionaries of tensors ``[b, ...]``, or tuples where
            the parts are in order.
        fit: brings what the model says into the form of the targets; the metrics see that.
        sample_losses: (fitted outputs, targets) to the loss of each sample, ``[b]``, whose mean ``loss`` is; None where
            it is not such a mean. A simulation with it makes the gradients of many devices at once.
        mean_over: targets to what their mean loss is over, one number, where that is not their samples.
        classes: of class labels, one a sample, whose right answers are counted; 0 for any other target.
        in_own_units: fitted outputs and targets to what the metrics see.
        goal: what a run is to reach; None: the first metric, without a limit.
        fits_loss: whether ``loss`` is always given fitted outputs; a loss of the user's is given what the model says as
            it is where that is no tensor, or the answer is scores of class labels.

    A task of your own is a function ``MODULE:CALLABLE``, named in ``task.kind``, that is given ``shape`` (of a sample)
    and ``target`` (a :class:`~scadles.targets.TargetType`) where it asks for them::

        def denoising():
            return scadles.Task(
                loss=torch.nn.functional.l1_loss,
                metrics=[SampleMean("mae", lambda out, y: (out - y).abs().flatten(1).mean(1), higher_is_better=False)],
                pair=lambda x, y: (x + 0.1 * torch.randn_like(x), x),
            )
    """

    loss: LossFunction
    metrics: Sequence[Metric]
    kind: str = "custom"
    outputs: int = 1
    pair: Pair = as_they_are
    fit: Fit = lambda outputs, targets: find_scores(outputs)
    sample_losses: LossFunction | None = None
    mean_over: Callable[[Tensor], Tensor] | None = None
    classes: int = 0
    in_own_units: Pair = as_they_are
    goal: Goal | None = None
    fits_loss: bool = True

    @property
    def aim(self) -> Goal:
        """What the run is to reach."""
        return self.goal or Goal(self.metrics[0].name, self.metrics[0].higher_is_better)

    @property
    def is_plain(self) -> bool:
        """Whether accuracy is all that is measured, as for pictures with one label each."""
        return self.kind == "classification" and [metric.name for metric in self.metrics] == ["accuracy"]

    def minimised(self, outputs: Any, targets: Structure) -> Tensor:
        """Return the mean loss of what a model says."""
        as_given = not self.fits_loss and (self.classes > 0 or not isinstance(outputs, Tensor))
        return self.loss(outputs if as_given else self.fit(outputs, targets), targets)

    def weight(self, targets: Structure) -> float | None:
        """Return what the mean loss of these targets is over; None where that is their samples."""
        return None if self.mean_over is None else float(self.mean_over(targets))

    def each_loss(self, outputs: Any, targets: Structure) -> Tensor:
        """Return the loss of each sample, ``[b]``; only where there is :attr:`sample_losses`."""
        if self.sample_losses is None:
            raise ConfigError(f"task {self.kind}: its loss is no mean of samples' losses")
        return self.sample_losses(self.fit(outputs, targets), targets)

    def with_own(self, loss: LossFunction | None, scores: Scores | None) -> Self:
        """Return the same with a loss of (outputs, targets) and a way to find scores of the user's, where given."""
        task = self
        if scores is not None:
            own, fit = scores, task.fit
            task = dataclasses.replace(task, fit=lambda outputs, targets: fit(own(outputs), targets))
        if loss is None:
            return task
        if loss is cross_entropy and self.kind == "classification":
            return dataclasses.replace(
                task, loss=loss, sample_losses=_each_cross_entropy, mean_over=None, fits_loss=True
            )
        return dataclasses.replace(task, loss=loss, sample_losses=None, mean_over=None, fits_loss=False)

    def check(self, outputs: Any, targets: Structure) -> None:
        """Refuse a model that does not answer in the form of the targets.

        Args:
            outputs: its answer to a few samples.
            targets: of these.

        Raises:
            ConfigError: it does not, or the loss or a metric cannot be computed of it.
        """
        fitted = self.fit(outputs, targets)
        if self.kind == "classification":
            check_scores(fitted, count(targets), self.classes)
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # what they warn of is refused
                losses = self._losses_of_a_few(outputs, targets)
                sizes = [tuple(metric.sums(*self.in_own_units(fitted, targets)).shape) for metric in self.metrics]
        except (ConfigError, KeyboardInterrupt, MemoryError):
            raise
        except Exception as error:
            raise ConfigError(
                f"task {self.kind}: the model answers {shapes_in_words(fitted)} where targets are "
                f"{shapes_in_words(targets)}, and loss or metrics cannot be computed: {blame(error)}"
            ) from error
        for loss, wanted, what in losses:
            if not isinstance(loss, Tensor) or tuple(loss.shape) != wanted:
                found = (
                    f"its shape is {list(loss.shape)}" if isinstance(loss, Tensor) else f"it is {type(loss).__name__}"
                )
                raise ConfigError(f"task {self.kind}: the loss must be {what}; {found}")
        for metric, size in zip(self.metrics, sizes, strict=True):
            if size != (metric.size,):
                raise ConfigError(
                    f"task {self.kind}: metric {metric.name} returns sums {list(size)}, not [{metric.size}]"
                )

    def _losses_of_a_few(self, outputs: Any, targets: Structure) -> list[tuple[object, tuple[int, ...], str]]:
        """Return losses of a batch, and of one sample of it, with the shapes that they must have, in words as well."""
        n, one = count(targets), slice(1)
        found: list[tuple[object, tuple[int, ...], str]] = [
            (self.minimised(outputs, targets), (), "one number, the mean")
        ]
        if self.fits_loss and isinstance(outputs, Tensor) and len(outputs) == n:
            found.append((self.minimised(outputs[one], pick(targets, one)), (), "one number, the mean"))
        if self.sample_losses is not None:
            found.append((self.each_loss(outputs, targets), (n,), "a mean over samples"))
        return found
