"""The course of a run whose devices come and go: who is lost is done without, and who comes is taken in."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any, TypeVar

from torch import Tensor

from scadles.clock import timestamp
from scadles.errors import MembershipChangedError, NotAdmittedError, RunError
from scadles.fabric import ElasticFabric
from scadles.observe import (
    Away,
    Divergence,
    Evaluation,
    Event,
    Finished,
    InitialValues,
    Membership,
    Notice,
    Resumed,
    Samples,
    Step,
    Summary,
    events_path,
)
from scadles.training.admission import Admission, Entry
from scadles.training.arrived import is_note
from scadles.training.changes import hash_of_compression
from scadles.training.course import Course
from scadles.training.fingerprint import fingerprint
from scadles.training.saving import save

#: How a run ends for a device that leaves it while the others go on.
LEFT = "left"
T = TypeVar("T")


class _OverError(Exception):
    """For this device the run is over, in the middle of something."""


class _BeginAgainError(Exception):
    """Somebody was given the common state in the middle of what all do after a step: all do it from its beginning."""


class ElasticCourse(Course):
    """A course that follows the views of an elastic fabric; over any other fabric it is that of :class:`.Course`."""

    def __init__(self, *arguments: Any, **named: Any) -> None:
        super().__init__(*arguments, **named)
        fabric = self._device.fabric
        self._latest: Step | None = None
        self._names: dict[int, str] = {}
        self._accounts: list[dict[str, Any]] = []
        self._admission: Admission | None = None
        self._gathered = (0, 0)
        if isinstance(fabric, ElasticFabric):
            fabric.stopped = lambda: self._stop.wanted
            fabric.progress = lambda: self._gathered
            self._admission = Admission(fabric, self._device, self._schedule, self._hooks, self.config)

    def _start(self) -> None:
        if self._admission is None:
            super()._start()
            return
        device, own = self._device, self._checkpoint_to_load
        self._checkpoint_to_load = None
        with device.buffers.untouched():
            self._tools.evaluator.check(self.model)
        device.try_out(self._tools.evaluator.example)
        self._tools.progress.waiting("waiting to be admitted")
        origin = self._tools.origin
        entry = self._admission.enter(
            own, self._carried(), can_begin=origin is not None or self.config.init_from is None
        )
        since = entry.since
        self._tools.checkpoints.discard_after(self._learner.step_number if since is None else since)
        device.start(entry.carried["clock_s"])
        if self._resuming or since is not None:
            self._emit(Resumed, position=device.intake.source.position, started_at=timestamp(), away_since=since)
        for message in self._tools.notices:
            self._emit(Notice, message=message)
        if origin is not None and entry.view.source == self.rank:
            self._emit(InitialValues, **origin._asdict())
        self._take_note(entry)
        with suppress(_OverError):
            self._after_step()

    @property
    def _follows(self) -> bool:
        """Whether others take steps that this device only takes after them."""
        return self._admission is not None and self._admission.fabric.follows

    def _record(self, event: Event) -> None:
        if self._follows and isinstance(event, Step | Divergence | Evaluation):
            self._tools.progress.update(event)  # it is the others' step
        else:
            super()._record(event)

    def _complete(self, loss: Tensor | None, correct: int | None = None, weight: float | None = None) -> Step:
        try:
            self._latest = super()._complete(loss, correct, weight)
        except _OverError:
            if self._latest is None:
                raise RunError("the run ended before this device took part in a step") from None
        return self._latest

    def _take_step(self, loss: Tensor | None, correct: int | None, weight: float | None) -> Step:
        """Take part in a step; where it comes to nothing for this device, in the next one, without a batch."""
        if self._admission is None:
            return super()._take_step(loss, correct, weight)
        while True:
            try:
                event, self._asked_to_stop = self._device.step(loss, correct=correct, weight=weight)
            except MembershipChangedError:
                self._follow(self._admission, in_step=True)
                self._after_step()
                if self._ended_by is not None:
                    raise _OverError from None
                self._device.collect_nothing()
                loss = correct = weight = None
                continue
            self._tell_of_members(dict(self._admission.fabric.members))
            return event

    def _after_step(self) -> None:
        while True:
            try:
                if self._admission is not None and self._admission.fabric.changed:
                    self._follow(self._admission, in_step=False)
                super()._after_step()
                break
            except _BeginAgainError:
                continue
        if self._admission is not None and self._ended_by is None and self._stop.wanted:
            self._ended_by = LEFT

    def _measure(self) -> None:
        self._with_others(super()._measure)

    def _evaluate(self) -> None:
        self._with_others(super()._evaluate)

    def _checkpoint(self) -> str:
        return self._with_others(super()._checkpoint)

    def _summarise(self, model_sha256: str) -> Summary:
        if self._admission is not None:
            self._admission.fabric.ended_by = str(self._ended_by)
        return self._with_others(lambda: super(ElasticCourse, self)._summarise(model_sha256))

    def _with_others(self, work: Callable[[], T]) -> T:
        """Do what all devices do together, again where one is lost meanwhile.

        Raises:
            _BeginAgainError: devices were cut off and have come in again, with the state of one of them, which may not
                have come as far in what all do together.
        """
        while True:
            try:
                return work()
            except MembershipChangedError:
                if self._admission is None:
                    raise
                if self._follow(self._admission, in_step=False).view.receivers:
                    self._evaluated_at = -1
                    raise _BeginAgainError from None

    def _follow(self, admission: Admission, *, in_step: bool) -> Entry:
        """Go over to the newest view; where there is none any more, leave."""
        self._tools.progress.waiting("catching up" if self._follows else "waiting to be admitted")
        try:
            entry = admission.follow(self.statistics, self._carried(), in_step=in_step)
        except NotAdmittedError as error:
            self._emit(Notice, message=f"device {self.rank} leaves: {error}")
            self._ended_by = LEFT
            raise _OverError from None
        self._device.clock.start(entry.carried["clock_s"])  # a test that was broken off let it stand still
        if entry.view.receivers:
            self._device.end_step()  # all begin at this moment: nobody has waited for those that come
        if entry.since is not None:
            self._tools.checkpoints.discard_after(entry.since)
            position = self._device.intake.source.position
            self._emit(Resumed, position=position, started_at=timestamp(), away_since=entry.since)
        self._take_note(entry)
        return entry

    def _carried(self) -> dict[str, Any]:
        """Return what those that come must know beside the state of a checkpoint."""
        return {"asked_to_stop": self._asked_to_stop, "accounts": self._accounts, "clock_s": self.clock_now_s}

    def _take_note(self, entry: Entry) -> None:
        """Take up what a view came with."""
        self.statistics = entry.statistics
        self._asked_to_stop = bool(entry.carried["asked_to_stop"])
        self._accounts = list(entry.carried["accounts"])
        self._tell_of_members(dict(entry.view.members))

    def _tell_of_members(self, names: dict[int, str]) -> None:
        """Say who has come and who has gone."""
        joined, left = names.keys() - self._names.keys(), self._names.keys() - names.keys()
        self._names = names
        if joined or left:
            said = {str(device): name for device, name in sorted(names.items())}
            self._emit(Membership, names=said, joined=tuple(sorted(joined)), left=tuple(sorted(left)))

    def _end_early(self) -> None:
        if self._admission is None:
            super()._end_early()
        elif self._ended_by is None:
            self._device.undo_collect()
            self._ended_by = LEFT

    def _finish(self) -> None:
        while self._ended_by != LEFT:
            try:
                super()._finish()
                return
            except _BeginAgainError:
                self._begin_the_end_again()
            except _OverError:
                continue
        self._leave()

    def _begin_the_end_again(self) -> None:
        """Do what those do that come to the end of the run only now."""
        with suppress(_BeginAgainError, _OverError):
            if self._schedule.evaluation_due(self._learner):
                self._evaluate()

    def _leave(self) -> None:
        """Leave a run that goes on without this device, which can come back with what is its own."""
        self._tools.log.check(now=True)
        model_sha256 = fingerprint(self.model, buffers=self.config.aggregation.batchnorm == "aggregate")
        store, hashed = self._tools.checkpoints, {"compression": hash_of_compression(self.config)}
        save(self._device, self.statistics, self._schedule, store, model_sha256, self._hooks, hashed)
        ledger = self._device.intake.describe()
        self._emit(Finished, reason=LEFT, ledger=ledger, model_sha256=model_sha256)

    def _away(self, model_sha256: str) -> tuple[Away, ...]:
        known = dict(enumerate(self._accounts))
        notes = self._admission.fabric.away if self._admission is not None else {}
        absent = sorted((known.keys() | notes.keys()).difference(self._device.fabric.present))
        said = {device: note for device, note in notes.items() if is_note(note)}
        gone = [self._gone(device, known.get(device, {}), said.get(device), model_sha256) for device in absent]
        return (*super()._away(model_sha256), *(one for one in gone if one.samples.received))

    def _gone(self, device: int, account: Mapping[str, Any], note: Mapping[str, Any] | None, model_sha256: str) -> Away:
        """Return the account of a device that is away: as it said with its last step, else as all were told of it."""
        about = {"after_step": self._learner.step_number, "position": 0, "bytes_sent": 0, **account}
        if note is not None:
            about |= {"after_step": note["step"], "position": note["intake"]["position"]}
            about["samples"] = {name: note["intake"]["ledger"].get(name, 0) for name in Samples.model_fields}
        return Away(device=device, model_sha256=model_sha256 if note is None else "", **about)

    def _who_writes(self) -> int:
        """Return the first of the devices whose events are in this folder, which may be one's own or one of all."""
        if self._admission is None:
            return super()._who_writes()
        here = (device for device in self._device.fabric.present if events_path(self.run_dir, device).exists())
        return next(here, self.rank)

    def _known(self, rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
        here, before = self._device.fabric.present, self._accounts
        self._accounts = [row if d in here or d >= len(before) else before[d] for d, row in enumerate(rows)]
        return self._accounts
