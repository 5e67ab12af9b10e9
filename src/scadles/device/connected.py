"""A device with a learner of its own, connected to the others: gather, gradient, exchange, update."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from scadles.clock import Clock
from scadles.device.batching import BatchRule
from scadles.device.device import Device, never
from scadles.device.injection import SampleExchange, Samples
from scadles.device.intake import Intake
from scadles.device.learner import Learner
from scadles.device.measuring import is_measured
from scadles.device.parts import Parts, backward, check_loss
from scadles.device.sliding_sums import SlidingSums
from scadles.device.step_cost import StepCost
from scadles.device.transform import Transform
from scadles.device.trial import changed_buffers, compile_now
from scadles.errors import MembershipChangedError, RunError
from scadles.exchange.aggregation import (
    NOT_FINITE,
    REJECTS_TOO_MUCH,
    STREAM_ENDED,
    BatchNormStatistics,
    ForwardBuffers,
    Report,
    Reports,
)
from scadles.exchange.aggregation.report_check import ReportCheck
from scadles.fabric import ElasticFabric, Fabric
from scadles.observe.events import Step
from scadles.records import Records
from scadles.structures import Structure, count, pick, to_torch_device

_MOST_LOSS = float(np.finfo(np.float32).max)  # a message has no room for more


@dataclass(frozen=True)
class Batch:
    """What a device trains on in one step.

    Attributes:
        x: what the model takes, ``[b, ...]``, on its device: own samples first, then those of others. Of samples of
            several parts a dictionary of tensors (``model(**batch.x)``), or a tuple where they are in order.
        y: what it should say: labels, int64 ``[b]``, or what else the task has for targets, ``[b, ...]``; of several
            parts a dictionary or a tuple.
        offsets: where in the stream the own ones came from, int64, fewer than ``b`` where others have shared.
    """

    x: Structure
    y: Structure
    offsets: np.ndarray

    def __len__(self) -> int:
        return count(self.y)


class ConnectedDevice(Device):
    """A device with a learner of its own, connected to the others by a fabric.

    Args:
        intake: the stream's way in.
        rule: how much to train on.
        learner: model and optimizer, the same as on all other devices.
        fabric: the way to them.
        clock: stream time.
        samples: shares samples with the others; None where none are shared.
        tests: what came of testing each batch before it was trained on; None where nobody does.
        transform: makes something else of samples that are trained on; None leaves them as they are.
        check: says what is wrong with a report before a hub, which has the same, refuses this device for it.

    Attributes:
        last_taken: the last step that this device took part in since it was started; 0 before.
        rejecting: devices that asked to end the run because too much of their streams is rejected.
        all_ended: whether the streams of all devices have ended, and all that they brought is trained on.
    """

    __slots__ = (
        "_check",
        "_counts_for_nothing",
        "_has_shared",
        "_parts",
        "_samples",
        "_shared_before",
        "_sketching_s",
        "_transform",
        "all_ended",
        "batchnorm",
        "buffers",
        "fabric",
        "last_taken",
        "rejecting",
    )

    def __init__(
        self,
        intake: Intake,
        rule: BatchRule,
        learner: Learner,
        fabric: Fabric,
        clock: Clock,
        samples: SampleExchange | None = None,
        tests: SlidingSums | None = None,
        transform: Transform | None = None,
        check: ReportCheck | None = None,
    ) -> None:
        super().__init__(fabric.rank, intake, rule, learner, clock, samples.sender if samples else None, tests)
        self.fabric = fabric
        self._samples = samples
        self._transform = transform
        self._check = check
        self._has_shared = False
        self._shared_before: dict[str, Any] | None = None  # kept while nobody is there to share with
        self._parts: Parts | None = None
        self._counts_for_nothing = False
        self._sketching_s = 0.0
        self.buffers = ForwardBuffers(learner.model, learner.statistics)
        self.batchnorm = BatchNormStatistics(learner.model)
        self.rejecting: tuple[int, ...] = ()
        self.all_ended = False
        self.last_taken = 0

    def try_out(self, example: Structure) -> None:
        """Let the model be compiled where it shall be, and find the buffers that training passes change.

        Each step makes these the same on all devices.

        Args:
            example: prepared samples to try the model with, which leaves no trace; an empty one tries nothing.
        """
        model, buffers, found = self.learner.model, self.buffers, torch.zeros(len(self.buffers))
        if count(example):
            x = to_torch_device(example, self.learner.torch_device)
            compile_now(model, buffers, x)
            found[changed_buffers(model, buffers, x) if len(buffers) else []] = 1.0
        if len(buffers):
            anywhere = self.fabric.gather(found, "looking at buffers").sum(dim=0)
            buffers.active = anywhere.nonzero().flatten().tolist()
            buffers.remember()
        if len(buffers) or self.learner.statistics is not None:
            self.learner.exchange.watch(buffers)

    def start(self, at_s: float = 0.0) -> None:
        """Start the clock on all devices at once; what is slow only the first time has happened before.

        Args:
            at_s: the stream time of the others, where this device comes to them.
        """
        self.learner.optimizer.zero_grad()  # torch loads its compiler here
        if isinstance(self.fabric, ElasticFabric):  # somebody may come at any time
            self.clock.start(at_s)
            self.begin()
            return
        ended = self.fabric.gather(torch.tensor([float(self.exhausted)]), "starting the clocks")
        self.all_ended = bool(ended.all())
        self.clock.start()
        self.begin()

    def gather(
        self, should_stop: Callable[[], bool] = never, on_wait: Callable[[int, int], None] | None = None
    ) -> Batch:
        """Wait for a batch as :meth:`collect` does, share with the others, and return it ready for the model."""
        records = self.collect(should_stop, on_wait)
        if not isinstance(records, Records):
            raise RunError("this stream brings records without samples: it is for simulated devices")
        self.batchnorm.remember()
        self.buffers.begin_batch()
        theirs = self._share(records)
        if not self.batch_size:  # nothing came, or the one sample was given back
            return Batch(torch.empty(0), torch.empty(0, dtype=torch.int64), np.empty(0, dtype=np.int64))
        own = [torch.as_tensor(records.x)] if len(records) else []
        x = torch.cat([*own, *(samples.x for samples in theirs)])
        if self._transform is not None:
            x = self._transform(x, self.number, self.learner.step_number + 1)
        if self.learner.statistics is not None:
            self.learner.statistics.observe(x)
        x = self.learner.prepare(x)
        y = torch.cat([*([records.y] if len(records) else []), *(samples.y for samples in theirs)])
        x, y = self.learner.pair(x, y)
        torch_device = self.learner.torch_device
        return Batch(to_torch_device(x, torch_device), to_torch_device(y, torch_device), records.offsets)

    def own_samples(self, batch: Batch) -> tuple[Structure, Structure]:
        """Return what a batch has of this device's own stream as a test sees it: prepared, and not transformed."""
        own = slice(len(self.taken))
        if self._transform is None or not isinstance(self.taken, Records):
            return pick(batch.x, own), pick(batch.y, own)
        x, y = self.learner.pair(self.learner.prepare(torch.as_tensor(self.taken.x)), self.taken.y)
        torch_device = self.learner.torch_device
        return to_torch_device(x, torch_device), to_torch_device(y, torch_device)

    def _share(self, records: Records) -> list[Samples]:
        """Take part in this step's sharing; return what others share, and let computing begin when it is here."""
        if self._samples is None:
            return []
        theirs = self._samples.take_part(self.learner.step_number + 1, records, self.clock.now())
        self._has_shared = True
        # a virtual clock waits for the last sender here; a wall clock has done so by itself
        self.clock.advance_to(max([self.clock.now(), *(samples.sent_at_s for samples in theirs)]))
        self.receive(sum(len(samples.y) for samples in theirs), self.clock.now())
        return [samples for samples in theirs if len(samples.y)]

    def undo_collect(self) -> None:
        self.undo_passes()
        self._parts = None
        super().undo_collect()

    def undo_passes(self) -> None:
        """Take back what passes over the present batch have done to buffers of the model."""
        self.batchnorm.restore()
        self.buffers.undo_batch()

    def end_step(self) -> None:
        super().end_step()
        self.batchnorm.forget()
        self.buffers.end_batch()
        self._has_shared = False

    def accumulate(self, loss: Tensor, weight: float | None = None) -> None:
        """Add the gradient of a part of the present batch to that of the parts before.

        Args:
            loss: mean loss over the part, with its graph.
            weight: of the part in the mean over the batch, in which all parts have one, or all count alike.
        """
        if self._parts is None:
            self._parts = Parts()
            self.learner.look_for_parameters()
            self.learner.exchange.begin(1.0, self._phase, in_parts=True)
        self._parts.add(loss, weight)

    def step(
        self,
        loss: Tensor | None,
        *,
        stop: bool = False,
        correct: int | None = None,
        weight: float | None = None,
    ) -> tuple[Step, bool]:
        """Exchange gradients and update the model, whatever this device has to bring.

        Args:
            loss: mean loss over the last gathered batch, or over its last part where there are others, with its graph;
                None for an empty batch, or after the last part.
            weight: what this mean is over, where it is not the samples of the batch: tokens, say, or sums of weights.
            stop: ask all devices to end after this step.
            correct: right answers on the samples of this device's own stream in that batch, if they were counted.

        Returns:
            What happened, and whether any device asked to end.

        Raises:
            PeerLostError: a device did not answer; model and optimizer are as they were.
        """
        if not self._has_shared and not len(self.taken):
            self._share_nothing()
        size = self.batch_size
        reports = self._exchange_gradients(size, loss, weight, stop=stop)
        trained = bool(reports.weight[self.number])
        # a virtual clock waits for the last one here; a wall clock has done so by itself
        self.clock.advance_to(self._last_end_s + float(reports.ready_s.max()))
        synced_s = self.clock.now()
        result = self.learner.update(reports, self.fabric.present)
        if isinstance(self.fabric, ElasticFabric) and self.fabric.follows:
            self.has_followed(float(reports.ready_s[self.fabric.present[0]]))
        else:
            self.last_taken = self.learner.step_number
        self.rejecting, self.all_ended = result.rejecting, result.ended
        counts = trained or self._counts_for_nothing
        self.settle(trained=counts, set_aside=not counts and self.number in self.learner.exchange.found)
        if trained:
            self.batchnorm.trained(size)
        elif size:
            self.batchnorm.restore()
        if self.learner.take_buffers_along(result):
            self.buffers.remember()
        event = self.describe(result, synced_s, trained=trained, correct=correct)
        if not trained and self.learner.measuring is not None:
            self.learner.measuring.forget()
        self.note_cost(result)
        self.end_step()
        return event, result.stop

    def _share_nothing(self) -> None:
        """Take part in a sharing that this device has not come to: the others wait for it where it is a sender."""
        self._share(Records.concatenate([]))
        self.injected = 0

    def state(self) -> dict[str, Any]:
        """Return the counters that a checkpoint needs beside model, optimizer and intake."""
        return {
            **self.learner.state(),
            "non_finite_steps": self.non_finite_steps,
            "last_take_s": self._last_take_s,
            "last_message_s": self._last_message_s,
            "shared": self.sender.state() if self.sender is not None else self._shared_before,
            **({"tests": self.tests.state()} if self.tests is not None else {}),
            **({"cost": self.cost.state()} if self.cost is not None else {}),
        }

    def load(self, state: dict[str, Any]) -> None:
        """Go on from what :meth:`state` returned."""
        self.learner.load(state)
        self.non_finite_steps = state["non_finite_steps"]
        self._last_take_s = state["last_take_s"]
        self._last_message_s = state["last_message_s"]
        self._shared_before = state["shared"]
        if self.sender is not None and state["shared"] is not None:
            self.sender.load(state["shared"])
        if self.tests is not None:
            self.tests.load(state.get("tests"))
        if self.cost is not None:
            self.cost = StepCost()
            if state.get("cost") is not None:
                self.cost.load(state["cost"])

    def average_batchnorm(self) -> None:
        """Give all devices the weighted mean of their BatchNorm running statistics."""
        if self.batchnorm:
            total = self.batchnorm.pack()
            self.fabric.reduce(total, f"BatchNorm statistics after step {self.learner.step_number}").wait()
            self.batchnorm.unpack(total)

    @property
    def _phase(self) -> str:
        return f"gradients of step {self.learner.step_number + 1}"

    def _exchange_gradients(self, size: int, loss: Tensor | None, given: float | None, *, stop: bool) -> Reports:
        if self._parts is not None and loss is not None:
            self.accumulate(loss, given)
            loss = None
        parts, self._parts = self._parts, None
        self._counts_for_nothing = given == 0 or (parts is not None and parts.counts_for_nothing)
        if parts is not None:
            value, given = parts.mean_loss, parts.weight
            weight = self.learner.weight(size, value, given)
            self.learner.exchange.reweigh(weight, weight / parts.total if parts.total else 0.0)
        else:
            if loss is not None:
                check_loss(loss)
            value = float(loss.detach()) if loss is not None else 0.0
            weight = self.learner.weight(size, value, given) if loss is not None else 0.0
            self.learner.look_for_parameters()
            self.learner.exchange.begin(weight, self._phase)
            if loss is not None and weight > 0:
                backward(loss, weight)
        self._sketch(size, weight)
        self.ready()
        wish = STREAM_ENDED if self.exhausted and not stop else float(stop)
        if self.intake.rejects_too_much:
            wish = REJECTS_TOO_MUCH
        news = self.learner.hyperparameters.news()
        told = 0.0 if math.isfinite(value) else NOT_FINITE
        if weight:
            told = max(-_MOST_LOSS, min(_MOST_LOSS, value))
        mine = Report(size, weight, self._ready_s, self._elapsed_s, told, wish, news, wait_s=self.waited_s)
        if self._check is not None and (why := self._check.problem(self.number, mine)):
            raise RunError(f"{self._phase}: {why}")
        return self._send(mine)

    def _sketch(self, size: int, weight: float) -> None:
        """Take note of this device's gradient by itself, before it is exchanged, where it is to be measured."""
        measuring, step = self.learner.measuring, self.learner.step_number + 1
        if measuring is None or not measuring.is_due(step):
            return
        measuring.forget()
        began_s = self.clock.now()
        if weight > 0 and is_measured(self.number, self.fabric.size):
            gradients = (parameter.grad for parameter in self.learner.exchange.parameters)
            measuring.note(step, self.number, size, measuring.sketch(gradients, step) / weight)
        self._sketching_s = self.clock.now() - began_s

    def measure(self) -> str | None:
        """Measure with all others what windows go by, after a step of which that is due.

        Returns:
            Why the window changes; None where it does not.

        Raises:
            PeerLostError: a device did not answer.
        """
        measuring, step, fabric = self.learner.measuring, self.learner.step_number, self.fabric
        if measuring is None or self.cost is None or not measuring.is_due(step):
            return None
        began_s = self.clock.now()
        follows = isinstance(fabric, ElasticFabric) and fabric.follows
        said = None if follows else measuring.row(step, self.number, self.intake.rate_hz, self.cost)
        message = measuring.message(step, fabric.size, self.number, said).to(self.learner.torch_device)
        fabric.reduce(message, f"measuring after step {step}").wait()
        why = measuring.learn_of(step, message.cpu(), fabric.present)
        if self.elapsed_s > 0:
            measuring.took((self._sketching_s + self.clock.now() - began_s) / self.elapsed_s)
        return why

    def _send(self, report: Report) -> Reports:
        """Exchange gradients with those who are there, again if some of them are lost meanwhile."""
        fabric, learner = self.fabric, self.learner
        while True:
            try:
                if isinstance(fabric, ElasticFabric):
                    fabric.note(learner.step_number + 1, self._own_state(trained=report.weight > 0))
                return learner.exchange.finish(report)
            except MembershipChangedError as change:
                # whoever is given the state of others must begin a step with them; and nobody may share samples again
                # while others have done so before
                if not isinstance(fabric, ElasticFabric):
                    raise
                leaves = change.detached or self._samples is not None
                if leaves or fabric.enter(learner.step_number).receivers:
                    learner.exchange.withdraw()
                    self.void_ready()
                    raise
                learner.exchange.again()

    def _own_state(self, *, trained: bool) -> dict[str, Any]:
        """Return what is this device's alone, as it will be once the present step counts."""
        intake = asdict(self.intake.state_after(trained=trained or self._counts_for_nothing))
        intake["ledger"]["injected"] += self.injected * trained
        return {
            "intake": intake,
            "device": {
                "non_finite_steps": self.non_finite_steps + (self.batch_size > 0 and not trained),
                "shared": self.sender.state() if self.sender is not None else self._shared_before,
            },
        }

    def void_step(self, *, counted: bool) -> None:
        """Begin anew: the present step came to nothing for this device, or the others have taken it.

        Args:
            counted: whether its gradient is part of what the others have gone on with.
        """
        if counted:
            self.last_taken = self.learner.step_number + 1
            self.learner.exchange.counted()
            self.settle(trained=True)
            self.end_step()
            return
        self.undo_collect()
        self._has_shared = False
