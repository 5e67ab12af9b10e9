"""One device: wait for a batch, turn it into a weighted gradient, take part in the exchange, apply the mean.

Neither this file nor the rules it calls know whether the clock is real, or what the fabric is made of.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from scadles.aggregation import BatchNormStatistics, GradientExchange, LearningRate, Report
from scadles.batching import BatchRule
from scadles.clock import Clock
from scadles.errors import RunError
from scadles.fabric import Fabric
from scadles.intake import Intake
from scadles.observe.events import Step

_WAIT_SLICE_S = 0.5


@dataclass(frozen=True)
class Batch:
    """What a device trains on in one step.

    Attributes:
        x: prepared samples, float ``[b, *shape]``, on the model's device.
        y: labels, int64 ``[b]``.
        offsets: where in the stream they came from, int64 ``[b]``.
    """

    x: Tensor
    y: Tensor
    offsets: np.ndarray

    def __len__(self) -> int:
        return len(self.offsets)


@dataclass(frozen=True)
class Learner:
    """What is trained and how.

    Attributes:
        prepare: raw samples to what the model takes.
        mean: ``weighted`` by batch size, or ``plain``, every device that has a batch alike.
        bucket_bytes: None exchanges gradients after the backward pass, a size during it.
    """

    model: nn.Module
    optimizer: Optimizer
    learning_rate: LearningRate
    prepare: Callable[[Tensor], Tensor]
    mean: Literal["weighted", "plain"] = "weighted"
    bucket_bytes: int | None = None


class Device:
    """One of N devices that hold the same model.

    Args:
        intake: the stream's way in.
        rule: how much to train on.
        learner: model and optimizer.
        fabric: the way to the other devices.
        clock: stream time.
    """

    def __init__(self, intake: Intake, rule: BatchRule, learner: Learner, fabric: Fabric, clock: Clock) -> None:
        self.intake = intake
        self.learner = learner
        self.fabric = fabric
        self.clock = clock
        self.step_number = 0
        self.samples_seen = 0
        self.cluster_time_s = 0.0
        self.non_finite_steps = 0
        self.batchnorm = BatchNormStatistics(learner.model)
        self._rule = rule
        self._base_lrs = [group["lr"] for group in learner.optimizer.param_groups]
        self._exchange = GradientExchange(
            learner.model.parameters(), fabric.reduce, fabric.rank, fabric.size, learner.bucket_bytes
        )
        self._place = next(learner.model.parameters()).device
        self._last_take_s = self._last_message_s = self._last_end_s = 0.0
        self._gather_started_s = self._gathered_s = 0.0
        self._batch: Batch | None = None

    def start(self) -> None:
        """Start the clock on all devices at once; what is slow only the first time has happened before."""
        self.learner.optimizer.zero_grad()  # torch loads its compiler here
        self.fabric.gather(torch.zeros(1), "starting the clocks")
        self.clock.start()
        self._last_take_s = self._last_message_s = self._last_end_s = self.clock.now()
        self.intake.start()

    def gather(
        self, should_stop: Callable[[], bool] = lambda: False, on_wait: Callable[[int, int], None] | None = None
    ) -> Batch:
        """Wait until the batch rule is content and return the batch, which may be empty.

        Args:
            should_stop: ends the wait early with what is there.
            on_wait: told samples held and samples aimed at, now and then.
        """
        self._gather_started_s = self.clock.now()
        deadline_s = self._rule.deadline_s(self._last_take_s)
        self.intake.pull()
        while True:
            target = self._rule.target(self.intake.rate_hz)
            missing = target - self.intake.held
            left_s = deadline_s - self.clock.now()
            if missing <= 0 or left_s <= 0 or should_stop():
                break
            if on_wait:
                on_wait(self.intake.held, target)
            self.intake.pull(min(left_s, _WAIT_SLICE_S), want=missing)
        count = min(target, self.intake.held)
        if count == 1 and self.batchnorm:
            count = 0  # BatchNorm cannot train on one sample: it waits for the next one
        records = self.intake.take(count)
        self._last_take_s = self._gathered_s = self.clock.now()
        x = self.learner.prepare(torch.as_tensor(records.x)) if len(records) else torch.as_tensor(records.x)
        self._batch = Batch(x.to(self._place), records.y.to(self._place), records.offsets)
        self.batchnorm.remember()
        return self._batch

    def give_back(self) -> None:
        """Undo the last gathering: its samples wait in the buffer again, and the batch is empty."""
        if self._batch is not None and len(self._batch):
            self.intake.undo_take()
            self.batchnorm.restore()
        nothing = torch.empty(0)
        self._batch = Batch(nothing, nothing.long(), np.empty(0, np.int64))

    def step(self, loss: Tensor | None, *, stop: bool = False) -> tuple[Step, bool]:
        """Exchange gradients and update the model, whatever this device has to bring.

        Args:
            loss: mean loss over the last gathered batch, with its graph; None for an empty batch.
            stop: ask all devices to end after this step.

        Returns:
            What happened, and whether any device asked to end.

        Raises:
            PeerLostError: a device did not answer; model and optimizer are as they were.
        """
        batch = self._batch
        if batch is None:
            raise RunError("step() needs a batch: gather one first")
        if loss is not None and loss.dim() != 0:
            raise RunError(f"the loss must be the mean over the batch, one number; it has shape {tuple(loss.shape)}")
        reports = self._exchange_gradients(batch, loss, stop)
        synced_s = self.clock.now()
        lr_scale = self._update(reports)
        self._settle(batch, reports[self.fabric.rank], had_loss=loss is not None)
        event = self._describe(batch, reports, lr_scale, synced_s)
        self._batch = None
        self._last_end_s = self.clock.now()
        return event, any(report.stop for report in reports)

    def state(self) -> dict[str, Any]:
        """Return the counters that a checkpoint needs beside model, optimizer and intake."""
        return {
            "step": self.step_number,
            "samples_seen": self.samples_seen,
            "cluster_time_s": self.cluster_time_s,
            "non_finite_steps": self.non_finite_steps,
            "base_lrs": self._base_lrs,
        }

    def load(self, state: dict[str, Any]) -> None:
        """Go on from what :meth:`state` returned."""
        self.step_number = state["step"]
        self.samples_seen = state["samples_seen"]
        self.cluster_time_s = state["cluster_time_s"]
        self.non_finite_steps = state["non_finite_steps"]
        self._base_lrs = state["base_lrs"]

    def average_batchnorm(self) -> None:
        """Give all devices the weighted mean of their BatchNorm running statistics."""
        if self.batchnorm:
            total = self.batchnorm.pack()
            self.fabric.reduce(total, f"BatchNorm statistics after step {self.step_number}").wait()
            self.batchnorm.unpack(total)

    def _exchange_gradients(self, batch: Batch, loss: Tensor | None, stop: bool) -> list[Report]:  # noqa: FBT001
        size = len(batch) if loss is not None else 0
        value = float(loss.detach()) if loss is not None else 0.0
        weight = float(size) if self.learner.mean == "weighted" else float(size > 0)
        if not math.isfinite(value):
            weight = value = 0.0
        self._exchange.begin(weight, f"gradients of step {self.step_number + 1}")
        if loss is not None and weight > 0:
            (loss * weight).backward()  # type: ignore[no-untyped-call]
        ready_s = self.clock.now()
        report = Report(
            batch=size,
            weight=weight,
            ready_s=ready_s - self._last_end_s,
            elapsed_s=ready_s - self._last_message_s,
            loss=value,
            stop=float(stop),
        )
        self._last_message_s = ready_s
        return self._exchange.finish(report)

    def _update(self, reports: list[Report]) -> float:
        """Apply the mean gradient, the same on every device; return the learning-rate scale."""
        total = sum(int(r.batch) for r in reports if r.weight)
        scale = self.learner.learning_rate.batch_scale(total)
        if total:
            factor = self.learner.learning_rate.factor(total, self.samples_seen)
            for group, base in zip(self.learner.optimizer.param_groups, self._base_lrs, strict=True):
                group["lr"] = base * factor
            self.learner.optimizer.step()
        self.samples_seen += total
        self.step_number += 1
        self.cluster_time_s += reports[0].elapsed_s
        return scale

    def _settle(self, batch: Batch, mine: Report, *, had_loss: bool) -> None:
        trained = mine.weight > 0
        self.intake.settle(trained=trained)
        if trained:
            self.batchnorm.trained(len(batch))
        elif had_loss:
            self.batchnorm.restore()
            self.non_finite_steps += 1
        self.intake.truncate()

    def _describe(self, batch: Batch, reports: list[Report], lr_scale: float, synced_s: float) -> Step:
        now_s = self.clock.now()
        contributed = [r for r in reports if r.weight]
        total = sum(int(r.batch) for r in contributed)
        ready = [r.ready_s for r in reports]
        slowest = max(range(len(ready)), key=ready.__getitem__)
        mine = reports[self.fabric.rank]
        compute_s = (self._last_message_s - self._gathered_s) + (now_s - synced_s)
        return Step(
            step=self.step_number,
            time_s=now_s,
            batch=int(mine.batch) if mine.weight else 0,
            total_batch=total,
            offsets=(int(batch.offsets[0]), int(batch.offsets[-1])) if len(batch) and mine.weight else None,
            rate_hz=self.intake.rate_hz,
            wait_s=self._gathered_s - self._gather_started_s,
            compute_s=compute_s,
            sync_s=synced_s - self._last_message_s,
            slowest=slowest,
            slowest_s=ready[slowest] - min(ready),
            loss=sum(r.loss * r.batch for r in contributed) / total if total else None,
            lr=float(self.learner.optimizer.param_groups[0]["lr"]),
            lr_scale=lr_scale,
            held=self.intake.held,
            lag=self.intake.lag,
            dropped=self.intake.ledger.dropped,
        )
