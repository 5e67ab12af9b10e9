"""What a run came to: devices put their figures together, device 0 writes them down."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Container, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors import SafetensorError
from safetensors.torch import save_file

from scadles.config import RunConfig
from scadles.data.preparation import KEY, Preparation
from scadles.device.buffer import Ledger
from scadles.device.connected import ConnectedDevice
from scadles.device.learner import Learner
from scadles.errors import DataError, MissingExtraError, RunError
from scadles.exchange.reduction import ClusterExchange, CompressedExchange
from scadles.files import FREE_SPACE
from scadles.observe import (
    Away,
    ChosenRate,
    ChosenWindow,
    Compressed,
    DeviceSummary,
    Diverged,
    Measured,
    RunFolder,
    Samples,
    Seconds,
    Shared,
    Simulated,
    Summary,
)
from scadles.observe.console import print_warning
from scadles.tasks import Task
from scadles.training.outliers import outliers
from scadles.training.packing import own_copy
from scadles.training.portable import extra_state, flatten, model_tensors
from scadles.training.run_statistics import RunStatistics
from scadles.training.starting_values import MODEL_FILE

_SHARED = "shared/"


@dataclass(frozen=True)
class RunEnd:
    """How a run ended, and what it was counted with.

    Attributes:
        time_s: stream seconds of the whole run.
        wall_s: wall seconds of the last attempt.
        time_to_target_s: stream seconds until the target was measured; None when it was not.
        reason: ``target``, ``steps``, ...
        model_sha256: of the common model.
        clock: ``wall`` or ``virtual``.
        bytes_counted_by: how ``bytes_sent`` is known.
        collectives: on one device.
        insecure: whether what travelled could have been encrypted, and was not.
        simulated: of a simulated run only.
    """

    time_s: float
    wall_s: float
    time_to_target_s: float | None
    reason: str
    model_sha256: str
    clock: Literal["wall", "virtual"]
    bytes_counted_by: str
    collectives: int
    insecure: bool = False
    simulated: Simulated | None = None


def summarise(
    device: ConnectedDevice,
    config: RunConfig,
    task: Task,
    statistics: RunStatistics,
    *,
    ended_by: str,
    wall_s: float,
    model_sha256: str,
    away: Sequence[Away] = (),
) -> Summary:
    """Put the figures of all devices together, with those of devices that are ``away``.

    Every device calls this and gets the same summary, but for wall_s.
    """
    statistics = statistics.up_to_now(device)
    figures = _gather(device, statistics)
    # clocks differ by a little: that of the first device that is there is everybody's
    present = device.fabric.present
    time_s, time_to_target_s = figures[present[0]]["time_s"], figures[present[0]]["time_to_target_s"]
    ending = RunEnd(
        time_s=time_s,
        wall_s=wall_s,
        time_to_target_s=None if math.isnan(time_to_target_s) else time_to_target_s,
        reason=ended_by,
        model_sha256=model_sha256,
        clock="wall",
        bytes_counted_by=device.fabric.bytes_counted_by,
        collectives=statistics.collectives,
        insecure=device.fabric.insecure,
    )
    rows = (_of_device(number, row) for number, row in enumerate(figures))
    return compose(config, task, device.learner, statistics, ending, rows, present, away)


def compose(
    config: RunConfig,
    task: Task,
    learner: Learner,
    statistics: RunStatistics,
    ending: RunEnd,
    rows: Iterable[DeviceSummary],
    shown: Container[int],
    away: Sequence[Away] = (),
) -> Summary:
    """Return the summary of a run from the rows of all its devices, of which it holds those that are ``shown``.

    Devices that are ``away`` count in the sums of samples, bytes and what was shared.
    """
    samples, seconds, shared = (dict[str, Any].fromkeys(kind.model_fields, 0) for kind in (Samples, Seconds, Shared))
    kept, devices, fullest, bytes_sent, shares = [], 0, 0, 0, False
    judged, correct = 0, 0.0
    for row in rows:
        devices += 1
        for totals, part in ((samples, row.samples), (seconds, row.seconds), (shared, row.shared)):
            for name, value in part or ():
                totals[name] += value
        shares = shares or row.shared is not None
        fullest = max(fullest, row.buffer_max_samples)
        bytes_sent += row.bytes_sent
        if row.online_accuracy is not None:
            judged += row.samples.trained
            correct += row.samples.trained * row.online_accuracy
        if row.device in shown:
            kept.append(row)
    for one in away:
        bytes_sent += one.bytes_sent
        shares = shares or one.shared is not None
        for totals, part in ((samples, one.samples), (shared, one.shared)):
            for name, value in part or ():
                totals[name] += value
    of_accuracy = task.aim.metric == "accuracy"
    return Summary(
        method=config.method,
        clock=ending.clock,
        devices=devices,
        seed=config.seed,
        model=config.model,
        dataset=config.data.dataset,
        steps=learner.step_number,
        time_s=ending.time_s,
        wall_s=ending.wall_s,
        tested_on=config.tested_on,
        target_accuracy=task.aim.limit if of_accuracy else None,
        time_to_target_s=ending.time_to_target_s,
        final_accuracy=statistics.final if of_accuracy else None,
        best_accuracy=statistics.best if of_accuracy else None,
        measured=None if task.is_plain else _measured(task, statistics),
        samples=Samples(**samples),
        buffer_max_samples=fullest,
        seconds=Seconds(**{name: total / devices for name, total in seconds.items()}),
        bytes_sent=bytes_sent,
        bytes_counted_by=ending.bytes_counted_by,
        collectives_per_step=ending.collectives / max(1, statistics.steps),
        lr_scale_mean=statistics.lr_scale / max(1, statistics.steps),
        model_sha256=ending.model_sha256,
        ended_by=ending.reason,
        per_device=tuple(kept),
        per_label=tuple(statistics.per_label),
        own_accuracy_range=(statistics.spread[0], statistics.spread[1]) if statistics.spread and of_accuracy else None,
        online_accuracy=correct / judged if judged else None,
        shared=Shared(**shared) if shares else None,
        compressed=_compressed(config, learner),
        window=_window(learner),
        rate=_rate(learner),
        simulated=ending.simulated,
        insecure=ending.insecure,
        away=tuple(away),
        outliers=outliers(statistics.found, learner.step_number, config.aggregation.outliers),
        diverged=_diverged(learner),
    )


def _diverged(learner: Learner) -> Diverged | None:
    guard = learner.divergence
    if guard is None or not guard.tried:
        return None
    return Diverged(tried=guard.tried, went_back=guard.went_back, lr_factor=guard.factor)


def _measured(task: Task, statistics: RunStatistics) -> Measured:
    goal, spread = task.aim, statistics.spread
    return Measured(
        task=task.kind,
        metric=goal.metric,
        higher_is_better=goal.higher_is_better,
        target=goal.limit,
        final=_number(statistics.final),
        best=_number(statistics.best),
        metrics={name: number for name, value in statistics.metrics.items() if (number := _number(value)) is not None},
        own_range=(spread[0], spread[1]) if spread else None,
    )


def _number(value: float | None) -> float | None:
    """Return a finite number; a metric of a model that diverged is none."""
    return value if value is not None and math.isfinite(value) else None


def _compressed(config: RunConfig, learner: Learner) -> Compressed | None:
    if not isinstance(learner.exchange, CompressedExchange | ClusterExchange) or config.compression.ratio is None:
        return None
    compressor = learner.exchange.compressor
    return Compressed(
        ratio=config.compression.ratio,
        values=config.compression.values,
        reduction=compressor.reducer.name,
        reduction_why=compressor.reducer_why,
        cnc=compressor.cnc,
        kept_energy=compressor.kept_energy,
        decisions=dict(compressor.decisions),
        why=compressor.why,
        ratios=dict(compressor.ratios) if config.compression.ratio == "auto" else None,
    )


def _window(learner: Learner) -> ChosenWindow | None:
    measuring = learner.measuring
    if measuring is None or (window := measuring.window) is None:
        return None
    return ChosenWindow(
        window_s=window.seconds,
        first_s=window.first_s,
        changes=window.changes,
        why=window.why,
        **measuring.describe(),
    )


def _rate(learner: Learner) -> ChosenRate | None:
    measuring = learner.measuring
    if measuring is None or (rate := measuring.rate) is None:
        return None
    return ChosenRate(factor=rate.factor, changes=rate.changes, why=rate.why)


def write_results(
    summary: Summary,
    learner: Learner,
    preparation: Preparation,
    run_dir: Path,
    draw: Callable[[RunFolder], None] | None,
) -> None:
    """Write model, summary and, if wanted and where the extra for it is installed, a picture into the run folder.

    The model's file says in its metadata how its samples are prepared.

    Raises:
        RunError: the disk is full or cannot be written to.
    """
    model = learner.model
    weights = {name: own_copy(tensor) for name, tensor in model_tensors(model).items()}
    metadata = {KEY: _as_measured(preparation, learner).to_json()}
    if found := extra_state(model):
        metadata["extra_state"] = json.dumps(flatten(found, "extra state", weights))
    try:
        save_file(weights, run_dir / MODEL_FILE, metadata)
        summary.write(run_dir)
        if draw is not None:
            with suppress(MissingExtraError):
                _draw(draw, run_dir)
    except (OSError, SafetensorError) as error:
        message = f"cannot write the results into {run_dir}: {error}; {FREE_SPACE}"
        raise RunError(message) from None


def _as_measured(preparation: Preparation, learner: Learner) -> Preparation:
    statistics = learner.statistics
    return preparation if statistics is None else preparation.with_samples(statistics.preparation())


def _draw(draw: Callable[[RunFolder], None], run_dir: Path) -> None:
    try:
        draw(RunFolder(run_dir))
    except DataError as error:  # events that something else has harmed
        print_warning(f"no picture is drawn: {error}")


def _gather(device: ConnectedDevice, statistics: RunStatistics) -> list[dict[str, float]]:
    """Return the figures of every device, in the order of their numbers."""
    mine = {
        **Ledger(**device.intake.describe()).as_dict(),
        "rate_hz": device.intake.rate_hz,
        "wait": statistics.wait_s,
        "compute": statistics.compute_s,
        "sync": statistics.sync_s,
        "buffer_max_samples": statistics.max_waiting,
        "slowest_steps": statistics.slowest_steps,
        "non_finite_steps": device.non_finite_steps,
        "online_accuracy": statistics.correct / statistics.judged if statistics.judged else math.nan,
        **{f"{_SHARED}{name}": count for name, count in _shared_by(device).items()},
        "duplicates": device.intake.source.duplicates,
        "missing": device.intake.source.missing,
        "stray_targets": device.intake.source.stray_targets,
        "bytes_sent": statistics.bytes_sent,
        "time_s": device.clock.now(),
        "time_to_target_s": math.nan if statistics.time_to_target_s is None else statistics.time_to_target_s,
    }
    everybody = device.fabric.gather(torch.tensor(list(mine.values()), dtype=torch.float64), "summary")
    return [dict(zip(mine, row, strict=True)) for row in everybody.tolist()]


def _shared_by(device: ConnectedDevice) -> dict[str, int]:
    return device.sender.describe() if device.sender is not None else {}


def _of_device(number: int, figures: dict[str, float]) -> DeviceSummary:
    counts = {name: int(figures[name]) for name in Samples.model_fields}
    shared = {name.removeprefix(_SHARED): int(figures[name]) for name in figures if name.startswith(_SHARED)}
    rest = ["buffer_max_samples", "slowest_steps", "non_finite_steps", "bytes_sent"]
    rest += ["duplicates", "missing", "stray_targets"]
    return DeviceSummary(
        device=number,
        rate_hz=figures["rate_hz"],
        samples=Samples(**counts),
        seconds=Seconds(**{name: figures[name] for name in Seconds.model_fields}),
        shared=Shared(**shared) if shared else None,
        online_accuracy=None if math.isnan(figures["online_accuracy"]) else figures["online_accuracy"],
        **{name: int(figures[name]) for name in rest},
    )
