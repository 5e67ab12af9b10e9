"""The wall-clock loop of one device: batches out, losses in; tests, checkpoints and the account on the way."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from functools import partial
from types import TracebackType
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from scadles.device.connected import Batch
from scadles.device.parts import checked_weight
from scadles.errors import ConfigError, LeftError, RunError
from scadles.observe import Step
from scadles.structures import tensors_in
from scadles.tasks import Task, find_scores, right_answers
from scadles.training.elastic import ElasticCourse
from scadles.training.hooks import Hook
from scadles.training.leaving import leave, say_why

if TYPE_CHECKING:
    from typing_extensions import Self


class LiveDevice(ElasticCourse):
    """A device in a running cluster, as :func:`scadles.join` returns it.

    Use it as a context manager, iterate over :meth:`batches`, and give each batch's mean loss to :meth:`step`. The
    iteration ends on all devices after the same step; leaving the context earlier asks the others to end as well.

    Args:
        device: the device itself.
        config: the run.
        tools: evaluator, checkpoints, log and progress.
        run_dir: the run folder.
        checkpoint: what to go on from; None starts at the beginning.
        resuming: whether an earlier attempt wrote events that may be void now.
        changes: what is set otherwise than in that attempt.
    """

    def __enter__(self) -> Self:
        with ExitStack() as failing, ExitStack() as leaving:
            failing.callback(self._tools.lock.release)
            leaving.callback(self._tools.log.close)
            leaving.push(partial(leave, self._device.fabric))
            leaving.callback(self._device.intake.source.close)
            leaving.enter_context(self._tools.progress)
            leaving.enter_context(self._stop)
            leaving.callback(self._learner.guard().release)
            self._start()
            self._leaving = leaving.pop_all()
            failing.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with self._tools.lock:
            if error is not None:
                say_why(self._device.fabric, error)
            with self._leaving:
                if kind is None:
                    self._end_early()
                    self._finish()
                    if self._device.rejecting or self._ended_by == "diverged":
                        self._refuse_to_go_on()
            self._write_results()

    @property
    def task(self) -> Task:
        """What is learnt, with the loss and the metrics of the run."""
        return self._tools.evaluator.task

    def batches(self) -> Iterator[Batch]:
        """Yield batches until the run ends; a step in which this device has nothing happens by itself."""
        while self._ended_by is None:
            if self._owes_step:
                raise RunError("call device.step(loss) once for every batch before asking for the next one")
            if self._follows:
                self._device.collect_nothing()
                self._complete(None)
                continue
            batch = self._device.gather(self._should_stop, self._show_wait)
            if len(batch):
                self._owes_step = True
                self._labels, self._scores = batch.y, []
                self._test_first(batch)
                yield batch
            else:
                self._complete(None)

    def step(self, loss: Tensor | None = None, outputs: Any = None, weight: float | Tensor | None = None) -> Step:
        """Take part in one global step with the mean loss over the last batch.

        Args:
            loss: one number, with its graph; None where :meth:`accumulate` has been given all parts of the batch.
            outputs: what the model answered to the batch; where targets are class labels there are scores
                ``[b, classes]`` in it, from which comes the accuracy on this device's own stream (test, then train).
            weight: what the mean is over, where it is not the samples of the batch: the number of tokens that count, or
                the sum of their weights. The step is then that of the mean over all devices' tokens; with
                ``aggregation.mean: plain`` it does not matter. A batch of weight 0 counts for nothing.

        Raises:
            RunError: there is no batch that this loss could belong to.
            PeerLostError: a device was lost; the last checkpoint is intact.
        """
        if not self._owes_step:
            raise RunError("step() without a batch: call it once for each batch that batches() yields")
        if loss is None and not self._has_parts:
            raise RunError("step() without a loss: give it the mean loss over the batch, or accumulate() its parts")
        if outputs is not None and self.task.classes:
            self._scores.append(self.task.fit(outputs, self._labels).detach())
        correct = self._count_right() if self._scores else None
        self._owes_step = self._has_parts = False
        return self._complete(loss, correct, None if weight is None else checked_weight(weight))

    def accumulate(self, loss: Tensor, outputs: Any = None, weight: float | Tensor | None = None) -> None:
        """Do the backward pass of a part of the last batch, which need not be in memory with the others.

        The parts of a batch count by their ``weight``, or by the samples in their ``outputs``; where they have neither
        they are taken to be of one size. :meth:`step` then ends the batch.

        Args:
            loss: mean loss over the part, with its graph.
            outputs: what the model answered to it.
            weight: as in :meth:`step`.
        """
        if not self._owes_step:
            raise RunError("accumulate() without a batch: its parts are those of a batch that batches() yields")
        if outputs is not None:
            # of class labels the answer is found without the targets, of which this part has some
            answers = self.task.fit(outputs, self._labels) if self.task.classes else _rows_of(outputs)
            weight = len(answers) if weight is None else weight
            if self.task.classes:
                self._scores.append(answers.detach())
        self._has_parts = True
        self._device.accumulate(loss, None if weight is None else checked_weight(weight))

    def on_step(self, hook: Hook, state: Any = None) -> None:
        """Call ``hook(step)`` after every step, those included in which this device had nothing.

        What must happen on all devices alike belongs here: averages of weights, schedulers, what is frozen when. Add
        the same hooks in the same order on all devices, and when the run is resumed.

        Args:
            hook: given the :class:`~scadles.observe.Step` that has been taken.
            state: has ``state_dict()`` and ``load_state_dict()`` and is kept in checkpoints; None takes the hook itself
                where it has them. Where the run is resumed, its state is restored here.

        Example::

            device.on_step(lambda step: average.update_parameters(model), state=average)
        """
        self._hooks.add(hook, state)

    def left(self, why: str = "") -> LeftError:
        """Return the error that says why this device has no summary: it has left, or the run has ended without it."""
        said = f"device {self.rank} has left the run after step {self.step_number}{why and f': {why}'}"
        if not self._stop.wanted:
            return LeftError(said, 0)
        return LeftError(f"{said}; with the same name and folder it comes back", self._stop.exit_code)

    def _count_right(self) -> int:
        scores, self._scores = torch.cat(self._scores), []
        own, labels = len(self._device.taken), self._labels
        if scores.dim() != 2 or len(scores) != len(labels):
            raise RunError(
                f"the outputs must be [{len(labels)}, classes], as the batch; their shape is {list(scores.shape)}"
            )
        return int(right_answers(scores[:own], labels[:own]).sum())

    def _should_stop(self) -> bool:
        return self._stop.wanted or self._device.intake.rejects_too_much

    def _show_wait(self, held: int, target: int) -> None:
        self._gathered = (self._learner.step_number, held)
        self._tools.progress.waiting(f"gathering {held}/{target} samples")
        self._tell()  # a stream that has broken off should not be waited for in silence


def _rows_of(outputs: Any) -> Tensor:
    """Return something in a model's outputs that has a row for each sample."""
    try:
        return find_scores(outputs)
    except ConfigError:
        if tensors := tensors_in(outputs):
            return tensors[0]
        raise
