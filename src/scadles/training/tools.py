"""What a run needs beside its device, and how it is made."""

from __future__ import annotations

import platform
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch

from scadles._version import __version__
from scadles.assembly.label_distribution import draw_label_distribution
from scadles.assembly.task import build_preparation
from scadles.clock import timestamp
from scadles.config import RunConfig
from scadles.data import Dataset, Preparation
from scadles.device.connected import ConnectedDevice
from scadles.errors import DataError, RunError
from scadles.fabric import ElasticFabric
from scadles.observe import EventLog, Header, Progress, RunFolder, events_path, plot_run
from scadles.streams.quarantine import first_reason, quarantine_path
from scadles.tasks import Task
from scadles.training.checkpoint import CheckpointStore
from scadles.training.evaluation import Evaluator, make_evaluator
from scadles.training.lock import RunLock
from scadles.training.membership import Members
from scadles.training.resuming import Start
from scadles.training.starting_values import Origin

PICTURE_FILE = "progress.png"


@dataclass(frozen=True)
class Tools:
    """What a run needs beside its device.

    Attributes:
        evaluator: tests the common model.
        checkpoints: where this device's state is kept.
        log: where this device's events go.
        lock: keeps other runs out of the run folder.
        notices: what a user should know of how the run starts.
        members: who takes part in the run.
        origin: where the first values come from, on device 0, or at a hub on each device that has them; None where they
            are drawn, or of a checkpoint.
        progress: what the terminal shows.
        preparation: what samples and answers go through.
        draw: draws the run once it is over; None draws nothing.
    """

    evaluator: Evaluator
    checkpoints: CheckpointStore
    log: EventLog
    lock: RunLock
    notices: Sequence[str]
    members: Members
    origin: Origin | None
    progress: Progress
    preparation: Preparation
    draw: Callable[[RunFolder], None] | None


def build_tools(
    settings: RunConfig,
    dataset: Dataset,
    device: ConnectedDevice,
    run_dir: Path,
    task: Task,
    start: Start,
    lock: RunLock,
    *,
    quiet: bool,
    resume: bool,
) -> Tools:
    """Return the tools of one device; with ``resume`` its log goes on with the events of an earlier attempt."""
    fabric = device.fabric
    has_own_model = bool(device.batchnorm) and settings.aggregation.batchnorm == "local"
    header = Header(
        step=0,
        time_s=0.0,
        device=fabric.rank,
        devices=fabric.size,
        method=settings.method,
        seed=settings.seed,
        clock="wall",
        started_at=timestamp(),
        versions={"scadles": __version__, "torch": torch.__version__, "python": platform.python_version()},
    )
    return Tools(
        make_evaluator(device, task, dataset, settings.evaluation.batch_size, fabric, own=has_own_model),
        start.checkpoints,
        EventLog(events_path(run_dir, fabric.rank), header, append=resume, most_bytes=settings.events.most_bytes),
        lock,
        start.notices,
        start.members,
        start.origin if fabric.rank == 0 or isinstance(fabric, ElasticFabric) else None,
        Progress(
            f"{settings.method} on {settings.data.dataset}",
            fabric.size,
            task.aim.limit,
            settings.steps,
            settings.duration_s,
            settings.clock.speed,
            metric=task.aim.metric,
            higher_is_better=task.aim.higher_is_better,
            quiet=quiet or (fabric.rank != 0 and not isinstance(fabric, ElasticFabric)),
        ),
        build_preparation(settings, dataset),
        partial(_draw, _as_dealt(settings, start), dataset) if settings.picture else None,
    )


def rejected_too_much(devices: Sequence[int], config: RunConfig, run_dir: Path) -> DataError:
    """Return the error that ends a run because of what these devices reject."""
    who = f"device{'s' if len(devices) > 1 else ''} {', '.join(map(str, devices))}"
    examples = quarantine_path(run_dir, devices[0])
    first = f" (the first: {reason})" if (reason := first_reason(examples)) else ""
    return DataError(
        f"{who}: more than stream.max_rejected_share = {config.stream.max_rejected_share:g} of the stream "
        f"cannot be trained on{first}; {examples} has the first examples, with reasons. "
        f"The last checkpoint is intact: mend the stream or the settings and go on with --out {run_dir} --resume"
    )


def diverged(run_dir: Path) -> RunError:
    """Return the error that ends a run which going back to a good state has not helped."""
    return RunError(
        "training has diverged again and again from the same state, at ever smaller learning rates; the model in "
        f"{run_dir} is that state: lower optimizer.lr, set optimizer.clip_norm, or look at what the streams bring"
    )


def _as_dealt(settings: RunConfig, start: Start) -> RunConfig:
    """Return the settings with as many devices as the data set was dealt to."""
    return settings.model_copy(update={"devices": start.checkpoints.identity.dealt})


def _draw(settings: RunConfig, dataset: Dataset, folder: RunFolder) -> None:
    plot_run(folder, folder.path / PICTURE_FILE)
    draw_label_distribution(settings, dataset, folder.path)
