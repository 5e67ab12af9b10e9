"""What is kept of a simulated run: sums for every device, events of some."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import torch

from scadles._version import __version__
from scadles.config import RunConfig
from scadles.device.device import Device
from scadles.device.divergence import Finding
from scadles.device.learner import Learner
from scadles.exchange.aggregation.outliers import described
from scadles.models import Nothing
from scadles.observe import (
    DeviceSummary,
    Divergence,
    Evaluation,
    Event,
    EventLog,
    Finished,
    Header,
    NonFinite,
    Notice,
    Progress,
    Rejection,
    Samples,
    Seconds,
    SetAside,
    Shared,
    StrayTarget,
    evenly,
    events_path,
)
from scadles.simulation.cluster import StepDone
from scadles.tasks import Task
from scadles.training.score import Score, evaluation_fields


class Record:
    """The account of a simulated run.

    Args:
        config: the run.
        devices: its devices.
        learner: theirs.
        task: what is learnt.
        run_dir: where events go; None keeps none.
        progress: what the terminal shows.

    Attributes:
        shown: numbers of the devices whose events are kept, evenly chosen where there are too many.
    """

    def __init__(
        self,
        config: RunConfig,
        devices: list[Device],
        learner: Learner,
        task: Task,
        run_dir: Path | None,
        progress: Progress,
    ) -> None:
        self._devices = devices
        self._learner = learner
        self._progress = progress
        self._seconds = np.zeros((3, len(devices)))
        self._slowest_steps = np.zeros(len(devices), dtype=np.int64)
        self._judged, self._correct = np.zeros((2, len(devices)), dtype=np.int64)
        self._task = task
        self._judges = task.classes > 0 and not isinstance(learner.model, Nothing)
        self._bytes_sent = 0
        self.shown = evenly(len(devices), config.simulation.recorded_devices)
        self._logs: dict[int, EventLog] = {}
        self._leaving = ExitStack()
        self._leaving.enter_context(progress)
        if run_dir is not None:
            for number in self.shown:
                path, header = events_path(run_dir, number), _header(config, number)
                log = EventLog(path, header, append=False, most_bytes=config.events.most_bytes)
                self._logs[number] = self._leaving.enter_context(log)
        self._non_finite = dict.fromkeys(self.shown, 0)

    def close(self) -> None:
        """Close all files."""
        self._leaving.close()

    def step(self, done: StepDone) -> None:
        """Count a step, and write down what those devices did that are shown."""
        waited_s = np.array([device.wait_s for device in done.members])
        computed_s = np.array([device.compute_s for device in done.members])
        self._seconds[:, done.present] += waited_s, computed_s, done.duration_s - waited_s - computed_s
        self._slowest_steps[done.result.slowest] += 1
        self._bytes_sent += done.bytes_sent
        if self._judges:
            trained = done.reports.weight > 0
            own = np.zeros(len(trained), dtype=np.int64)
            own[done.present] = [len(device.taken) for device in done.members]
            self._judged[trained] += own[trained]
            self._correct[trained] += done.correct[trained]
        present = [number for number in self.shown if done.present[number]]
        for number in present:
            self._describe(done, self._devices[number], first=number == present[0])

    def all(self, kind: Callable[..., Event], of: Callable[[Device], dict[str, Any]], time_s: float) -> None:
        """Write down an event of every device that is shown, with what it says of each."""
        for number in self.shown:
            event = kind(step=self._learner.step_number, time_s=time_s, **of(self._devices[number]))
            self._write(number, event, show=number == self.shown[0])

    def first(self, event: Event) -> None:
        """Write down an event for the first of the devices that are shown, and show it."""
        self._write(self.shown[0], event, show=True)

    def rows(self) -> Iterator[DeviceSummary]:
        """Yield each device's part in the summary; an exchange's bytes are shared out evenly, the rest to the first."""
        each, rest = divmod(self._bytes_sent, len(self._devices))
        for device in self._devices:
            wait_s, compute_s, sync_s = self._seconds[:, device.number].tolist()
            judged, correct = int(self._judged[device.number]), int(self._correct[device.number])
            yield DeviceSummary(
                device=device.number,
                rate_hz=device.intake.rate_hz,
                samples=Samples(**device.intake.describe()),
                seconds=Seconds(wait=wait_s, compute=compute_s, sync=sync_s),
                buffer_max_samples=device.intake.max_waiting,
                bytes_sent=each + (rest if device.number == 0 else 0),
                slowest_steps=int(self._slowest_steps[device.number]),
                non_finite_steps=device.non_finite_steps,
                stray_targets=device.intake.source.stray_targets,
                online_accuracy=correct / judged if judged else None,
                shared=Shared(**device.sender.describe()) if device.sender is not None else None,
            )

    def finished(self, reason: str, model_sha256: str, time_s: float) -> None:
        """Write down the end."""
        self.all(
            Finished,
            lambda device: {"reason": reason, "ledger": device.intake.describe(), "model_sha256": model_sha256},
            time_s,
        )

    def evaluated(self, score: Score, here: np.ndarray, own: Mapping[int, float | None]) -> None:
        """Write down a test of the common model, or of the ``own`` ones of these devices, on those who are ``here``."""
        shown = [number for number in self.shown if here[number]]
        for number in shown:
            event = Evaluation(
                step=self._learner.step_number,
                time_s=score.latest_s,
                samples_trained=self._learner.samples_seen,
                **evaluation_fields(self._task, score, own.get(number)),
            )
            self._write(number, event, show=number == shown[0])

    def diverges(self, done: StepDone, found: Finding) -> None:
        """Write down what was found of divergence, on those devices that took part in the step."""
        step, time_s = self._learner.step_number, done.synced_s
        for number in self.shown:
            if done.present[number]:
                event = Divergence(step=step, time_s=time_s, **found._asdict())
                self._write(number, event, show=number == self.shown[0])
        self.first(Notice(step=step, time_s=time_s, message=found.why))

    def _describe(self, done: StepDone, device: Device, *, first: bool) -> None:
        number = device.number
        trained = bool(done.reports.weight[number])
        correct = int(done.correct[number]) if self._judges else None
        step = device.describe(done.result, done.synced_s, trained=trained, correct=correct)
        self._write(number, step, show=first)
        if device.non_finite_steps > self._non_finite[number]:
            self._non_finite[number] = device.non_finite_steps
            self._write(number, NonFinite(step=step.step, time_s=step.time_s, batch=device.batch_size), show=True)
        if device.number in done.found and not trained:
            why = described(done.found[number])
            self._write(
                number, SetAside(step=step.step, time_s=step.time_s, batch=device.batch_size, why=why), show=True
            )
        for reason, count, first_offset in device.intake.rejected_since_last_time():
            told = Rejection(step=step.step, time_s=step.time_s, count=count, reason=reason, first_offset=first_offset)
            self._write(number, told, show=True)

        for reason, count in device.intake.source.strays_since_last_time():
            stray = StrayTarget(step=step.step, time_s=step.time_s, count=count, reason=reason)
            self._write(number, stray, show=True)

    def _write(self, number: int, event: Event, *, show: bool) -> None:
        if number in self._logs:
            self._logs[number].write(event)
        if show:
            self._progress.update(event)


def _header(config: RunConfig, device: int) -> Header:
    return Header(
        step=0,
        time_s=0.0,
        device=device,
        devices=config.devices,
        method=config.method,
        seed=config.seed,
        clock="virtual",
        started_at=None,
        versions={"scadles": __version__, "torch": torch.__version__},
    )
