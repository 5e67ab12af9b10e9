"""The course of a run on one device, around its steps: the beginning, tests, checkpoints, events, the end."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from hashlib import sha256
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from scadles.clock import timestamp, wall_seconds
from scadles.config import RunConfig
from scadles.device.connected import Batch, ConnectedDevice
from scadles.exchange.aggregation.outliers import described
from scadles.fabric import ElasticFabric
from scadles.observe import (
    Away,
    CheckpointWritten,
    Divergence,
    Evaluation,
    Event,
    Finished,
    InitialValues,
    Loss,
    NonFinite,
    Notice,
    RateChange,
    RatioChange,
    Rejection,
    Resumed,
    SetAside,
    Step,
    StrayTarget,
    Summary,
    WindowChange,
)
from scadles.training.changes import Changes, hash_of_compression
from scadles.training.checkpoint import Checkpoint
from scadles.training.fingerprint import agree, digest, fingerprint
from scadles.training.hooks import StepHooks
from scadles.training.membership import account, accounts, packed
from scadles.training.outliers import count_found, outliers
from scadles.training.run_statistics import RunStatistics
from scadles.training.saving import restore, save
from scadles.training.schedule import Schedule
from scadles.training.score import evaluation_fields
from scadles.training.signals import StopRequest
from scadles.training.summarise import summarise, write_results
from scadles.training.tools import Tools, diverged, rejected_too_much

NO_CHANGES = Changes()


class Course:
    """What happens on a device from the beginning of a run to its end, when nobody but the steps has to be added.

    Args:
        device: the device itself.
        config: the run.
        tools: evaluator, checkpoints, log and progress.
        run_dir: the run folder.
        checkpoint: what to go on from; None starts at the beginning.
        resuming: whether an earlier attempt wrote events that may be void now.
        changes: what is set otherwise than in that attempt.
    """

    def __init__(
        self,
        device: ConnectedDevice,
        config: RunConfig,
        tools: Tools,
        run_dir: Path,
        *,
        checkpoint: Checkpoint | None = None,
        resuming: bool = False,
        changes: Changes = NO_CHANGES,
    ) -> None:
        self.config = config
        self.run_dir = run_dir
        self.summary: Summary | None = None
        self.statistics = RunStatistics()
        self._device = device
        self._learner = device.learner
        self._tools = tools
        self._checkpoint_to_load = checkpoint
        self._resuming = resuming
        self._resumed_from: int | None = None
        self._changes = changes
        self._stop = StopRequest()
        self._leaving = ExitStack()
        self._ended_by: str | None = None
        self._owes_step = self._has_parts = False
        self._scores: list[Tensor] = []
        self._hooks = StepHooks()
        self._labels = torch.empty(0, dtype=torch.int64)
        self._evaluated_at = -1
        self._told_of_losses = False
        self._schedule = Schedule(config)
        self._started_wall_s = wall_seconds()
        self._asked_to_stop = False

    @property
    def rank(self) -> int:
        """This device's number, 0..N-1."""
        return self._device.fabric.rank

    @property
    def model(self) -> nn.Module:
        """The network that all devices train."""
        return self._learner.model

    @property
    def step_number(self) -> int:
        """How many steps have been taken, the same on all devices; a resumed run goes on from its checkpoint's."""
        return self._learner.step_number

    @property
    def clock_now_s(self) -> float:
        """Stream time in seconds."""
        return self._device.clock.now()

    def _start(self) -> None:
        if self._checkpoint_to_load is not None:
            self.statistics = restore(
                self._checkpoint_to_load, self._device, self._schedule, self._hooks, hash_of_compression(self.config)
            )
            self._checkpoint_to_load = None
            since = self._tools.members.absent_since
            self._tools.checkpoints.discard_after(self._learner.step_number if since is None else since)
            self._ended_by = self._schedule.reason_to_end(self._learner, self.statistics, stopped=False)
        else:
            self._device.intake.open()
        if self._resuming:
            self._resumed_from = self._learner.step_number
            position = self._device.intake.source.position
            self._emit(Resumed, position=position, started_at=timestamp(), away_since=self._tools.members.absent_since)
        for change in (*self._changes.said, *self._learner.ask_again()) if self._resuming else ():
            self._emit(Notice, message=f"resumed: {change}")
        for message in self._tools.notices:
            self._emit(Notice, message=message)
        if self._ended_by is not None and self.rank == 0:
            said = f"the run had ended already ({self._ended_by}, after step {self._learner.step_number})"
            self._emit(Notice, message=f"{said}: raise steps, duration_s or target_accuracy to go on")
        if self._tools.origin is not None:
            self._emit(InitialValues, **self._tools.origin._asdict())
        self._check_same_model()
        with self._device.buffers.untouched():
            self._tools.evaluator.check(self.model)
        self._device.try_out(self._tools.evaluator.example)
        if self._learner.step_number == 0:
            self._checkpoint()
        self._device.start()
        if self._device.all_ended:
            self._ended_by = self._ended_by or "streams"

    def _complete(self, loss: Tensor | None, correct: int | None = None, weight: float | None = None) -> Step:
        device = self._device
        self._tools.progress.waiting("exchanging gradients")
        bad_before, size = device.non_finite_steps, device.batch_size
        aside_before = device.set_aside_steps
        event = self._take_step(loss, correct, weight)
        self._record(event)
        self.statistics.add(event, self.rank)
        if device.non_finite_steps > bad_before:
            self._emit(NonFinite, batch=size)
        self._tell_of_outliers(size if device.set_aside_steps > aside_before else 0)
        self._tell_of_divergence()
        for reason, count, first_offset in device.intake.rejected_since_last_time():
            self._emit(Rejection, count=count, reason=reason, first_offset=first_offset)
        for reason, count in device.intake.source.strays_since_last_time():
            self._emit(StrayTarget, count=count, reason=reason)
        self._tell_of_losses()
        self._tell()
        self._hooks(event)
        self._after_step()
        return event

    def _take_step(self, loss: Tensor | None, correct: int | None, weight: float | None) -> Step:
        event, self._asked_to_stop = self._device.step(loss, stop=self._stop.wanted, correct=correct, weight=weight)
        return event

    def _after_step(self) -> None:
        """Measure, test, end the run and write a checkpoint where it is time to: the same on all devices."""
        self._measure()
        if self._schedule.evaluation_due(self._learner):
            self._evaluate()
        self._ended_by = self._schedule.reason_to_end(
            *(self._learner, self.statistics),
            stopped=self._asked_to_stop,
            rejecting=bool(self._device.rejecting),
            ended=self._device.all_ended,
        )
        if self._ended_by is None and self._learner.step_number % self.config.checkpoint.every_steps == 0:
            self._checkpoint()

    def _end_early(self) -> None:
        """The caller left before the run was over: tell the others, so that all end after the same step."""
        if self._ended_by is None:
            self._stop.ask()
            self._owes_step = self._has_parts = False
            self._device.undo_collect()
            self._complete(None)

    def _finish(self) -> None:
        if self._ended_by == "streams":
            self._device.intake.drop_held()
        self._tell_of_losses(at_the_end=True)
        if self._evaluated_at != self._learner.step_number:
            self._evaluate()
        model_sha256 = self._checkpoint()
        self._emit(Finished, reason=self._ended_by, ledger=self._device.intake.describe(), model_sha256=model_sha256)
        self.summary = self._summarise(model_sha256)

    def _summarise(self, model_sha256: str) -> Summary:
        return summarise(
            self._device,
            self.config,
            self._tools.evaluator.task,
            self.statistics,
            ended_by=str(self._ended_by),
            wall_s=wall_seconds() - self._started_wall_s,
            model_sha256=model_sha256,
            away=self._away(model_sha256),
        )

    def _away(self, model_sha256: str) -> tuple[Away, ...]:
        """Return the accounts of those who took part once and do not now."""
        return self._tools.members.away

    def _write_results(self) -> None:
        if self.summary is not None and self.rank == self._who_writes():
            write_results(self.summary, self._learner, self._tools.preparation, self.run_dir, self._tools.draw)

    def _who_writes(self) -> int:
        """Return which device writes the results."""
        return self._device.fabric.present[0]

    def _refuse_to_go_on(self) -> None:
        """End the run with an error on all devices, once its results are written."""
        self._write_results()
        self._device.fabric.gather(torch.zeros(1), "writing the results")
        if self._device.rejecting:
            raise rejected_too_much(self._device.rejecting, self.config, self.run_dir)
        raise diverged(self.run_dir)

    def _tell(self) -> None:
        """Pass on what the stream has to say, as long as there is somebody to tell."""
        self._tools.log.check()
        for message in self._device.intake.notices():
            self._emit(Notice, message=f"device {self.rank}: {message}")
        for message in self._learner.exchange.notices():
            self._emit(Notice, message=message)
        for ratio, why in self._learner.exchange.ratio_changes():
            self._emit(RatioChange, ratio=ratio, why=why)

    def _tell_of_outliers(self, set_aside: int) -> None:
        """Say whose gradients are unlike all others; of this device's own batch so many samples were set aside."""
        found, statistics = self._learner.exchange.found, self.statistics
        if set_aside:
            self._emit(SetAside, batch=set_aside, why=described(found[self.rank]))
        told = count_found(statistics.found, found)
        if self._tells_of_others:
            for outlier in outliers(statistics.found, self._learner.step_number, self.config.aggregation.outliers):
                if outlier.device in told:
                    self._emit(Notice, message=str(outlier))

    def _tell_of_divergence(self) -> None:
        guard = self._learner.divergence
        if guard is not None and (found := guard.finding) is not None:
            self._emit(Divergence, **found._asdict())
            if self._tells_of_others:
                self._emit(Notice, message=found.why)

    @property
    def _tells_of_others(self) -> bool:
        """Whether somebody looks at this device who sees none of the others."""
        return isinstance(self._device.fabric, ElasticFabric) or self.rank == self._who_writes()

    def _tell_of_losses(self, *, at_the_end: bool = False) -> None:
        if count := self._device.intake.missing_since_last_time(at_the_end=at_the_end):
            self._emit(Loss, count=count, reason="their ids were passed over")
            if not self._told_of_losses:
                self._told_of_losses = True
                said = "messages never came, as gaps in their ids show; they were lost before or at the broker (is its "
                said += "queue long enough?), and are counted as missing"
                self._emit(Notice, message=f"device {self.rank}: {said}")

    def _test_first(self, batch: Batch) -> None:
        """Test the model on this device's own samples of a batch before they are trained on, where it shall be."""
        device = self._device
        if device.tests is not None and len(device.taken):
            with device.buffers.untouched():
                device.tests.note(self._tools.evaluator.measure(self.model, *device.own_samples(batch)))

    def _measure(self) -> None:
        """Let window and learning rate follow what is measured, where they do."""
        measuring, why = self._learner.measuring, self._device.measure()
        if why is not None and measuring is not None and measuring.window is not None:
            self._emit(WindowChange, window_s=measuring.window.seconds, why=why, **measuring.describe())
        if measuring is not None and (why := measuring.rate_news()) is not None:
            self._emit(RateChange, factor=measuring.rate_factor, why=why)

    def _evaluate(self) -> None:
        device = self._device
        # a replayed stream can wait, so that accuracy over time does not pay for being measured
        stream_waits = self.config.stream.url.startswith("replay:")
        if stream_waits:
            device.clock.pause()
        self._evaluated_at = self._learner.step_number
        self._share_statistics()
        phase = f"test after step {self._learner.step_number}"
        with device.buffers.untouched():
            score = self._tools.evaluator.score(self.model, phase, self.clock_now_s)
        task, here = self._tools.evaluator.task, device.fabric.present
        own = score.own[here.index(self.rank)] if score.own and self.rank in here else None
        if score.values:
            self.statistics.evaluated(
                score.values, self.clock_now_s, task.aim, score.per_label, score.spread, counts=score.counts
            )
            self._emit(Evaluation, **evaluation_fields(task, score, own), samples_trained=self._learner.samples_seen)
        self._tools.evaluator.tested()
        self._schedule.evaluated(self._learner)
        if stream_waits:
            device.clock.start(score.latest_s)  # who came to the test sooner stood still for longer

    def _checkpoint(self) -> str:
        """Write a checkpoint once all devices are known to hold the same model; return the model's fingerprint."""
        self._tools.log.check(now=True)
        self._share_statistics()
        mine = account(self._device, self.statistics)
        model_sha256, said = self._check_same_model(packed(mine))
        ledger = self._device.intake.describe()
        store = self._tools.checkpoints
        members = {
            "accounts": self._known(accounts(mine, said)),
            "compression": hash_of_compression(self.config),
            "away": [one.model_dump() for one in self._tools.members.away],
        }
        position = save(self._device, self.statistics, self._schedule, store, model_sha256, self._hooks, members)
        self._emit(CheckpointWritten, position=position, ledger=ledger, model_sha256=model_sha256)
        return model_sha256

    def _known(self, rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
        """Return the accounts of all devices, given those of the devices that are there."""
        return rows

    def _check_same_model(self, account: bytes = b"") -> tuple[str, list[bytes]]:
        """Return the model's fingerprint, once all are known to have it, and the accounts of all devices."""
        common = self.config.aggregation.batchnorm == "aggregate"
        model_sha256 = fingerprint(self._learner.model, buffers=common)
        managed = self._learner.managed
        beside = managed.not_in_the_model(buffers=common)
        mine = digest(beside) if beside else ""
        said = agree(
            sha256((model_sha256 + mine).encode()).hexdigest() if mine else model_sha256,
            self._device.fabric,
            f"comparing models after step {self._learner.step_number}",
            managed.tensors() if common else managed.parameters,
            resumed_from=self._resumed_from,
            beside=account,
        )
        return model_sha256, said

    def _share_statistics(self) -> None:
        if self.config.aggregation.batchnorm == "aggregate":
            self._device.average_batchnorm()

    def _emit(self, kind: Callable[..., Event], **fields: Any) -> None:
        self._record(kind(step=self._learner.step_number, time_s=self.clock_now_s, **fields))

    def _record(self, event: Event) -> None:
        self._tools.log.write(event)
        self._tools.progress.update(event)
