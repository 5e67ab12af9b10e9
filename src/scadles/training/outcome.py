"""What a run came to: devices put their figures together, device 0 writes them down."""

from __future__ import annotations

import math
from contextlib import suppress
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import nn

from scadles.buffer import Ledger
from scadles.config import RunConfig
from scadles.device import Device
from scadles.errors import MissingExtraError, RunError
from scadles.observe import DeviceSummary, RunFolder, Samples, Seconds, Summary, plot_run
from scadles.training.checkpoint import own_copy
from scadles.training.tally import Tally

MODEL_FILE = "model.safetensors"
PICTURE_FILE = "progress.png"


def summarise(
    device: Device, config: RunConfig, tally: Tally, *, ended_by: str, wall_s: float, model_sha256: str
) -> Summary:
    """Put the figures of all devices together; every device calls this and gets the same summary, but for wall_s."""
    figures = _gather(device, tally)
    rows = [_of_device(number, row) for number, row in enumerate(figures)]
    # clocks differ by a little: device 0's is everybody's
    time_s, time_to_target_s = figures[0]["time_s"], figures[0]["time_to_target_s"]
    return Summary(
        method=config.method,
        clock="wall",
        devices=device.fabric.size,
        seed=config.seed,
        model=config.model,
        dataset=config.data.dataset,
        steps=device.step_number,
        time_s=time_s,
        wall_s=wall_s,
        target_accuracy=config.target_accuracy,
        time_to_target_s=None if math.isnan(time_to_target_s) else time_to_target_s,
        final_accuracy=tally.final_accuracy,
        best_accuracy=tally.best_accuracy,
        samples=Samples(**{name: sum(getattr(row.samples, name) for row in rows) for name in Samples.model_fields}),
        buffer_max_samples=max(row.buffer_max_samples for row in rows),
        seconds=Seconds(
            **{name: sum(getattr(row.seconds, name) for row in rows) / len(rows) for name in Seconds.model_fields}
        ),
        bytes_sent=sum(row.bytes_sent for row in rows),
        bytes_counted_by=device.fabric.bytes_counted_by,
        collectives_per_step=(tally.collectives + device.fabric.collectives) / max(1, tally.steps),
        lr_scale_mean=tally.lr_scale / max(1, tally.steps),
        model_sha256=model_sha256,
        ended_by=ended_by,
        per_device=tuple(rows),
    )


def write_outcome(summary: Summary, model: nn.Module, run_dir: Path, *, picture: bool) -> None:
    """Write model, summary and, if wanted and where the extra for it is installed, the picture into the run folder.

    Raises:
        RunError: the disk is full or cannot be written to.
    """
    weights = {name: own_copy(tensor) for name, tensor in model.state_dict().items()}
    try:
        save_file(weights, run_dir / MODEL_FILE)
        summary.write(run_dir)
        if picture:
            with suppress(MissingExtraError):
                plot_run(RunFolder(run_dir), run_dir / PICTURE_FILE)
    except (OSError, SafetensorError) as error:
        message = f"cannot write the outcome into {run_dir}: {error}; free some space and use --resume"
        raise RunError(message) from None


def _gather(device: Device, tally: Tally) -> list[dict[str, float]]:
    """Return the figures of every device, in the order of their numbers."""
    mine = {
        **Ledger(**device.intake.describe()).as_dict(),
        "rate_hz": device.intake.rate_hz,
        "wait": tally.wait_s,
        "compute": tally.compute_s,
        "sync": tally.sync_s,
        "buffer_max_samples": max(tally.max_waiting, device.intake.max_waiting),
        "slowest_steps": tally.slowest_steps,
        "non_finite_steps": device.non_finite_steps,
        "bytes_sent": tally.bytes_sent + device.fabric.bytes_sent(),
        "time_s": device.clock.now(),
        "time_to_target_s": math.nan if tally.time_to_target_s is None else tally.time_to_target_s,
    }
    everybody = device.fabric.gather(torch.tensor(list(mine.values()), dtype=torch.float64), "summary")
    return [dict(zip(mine, row, strict=True)) for row in everybody.tolist()]


def _of_device(number: int, figures: dict[str, float]) -> DeviceSummary:
    counts = {name: int(figures[name]) for name in Samples.model_fields}
    rest = ("buffer_max_samples", "slowest_steps", "non_finite_steps", "bytes_sent")
    return DeviceSummary(
        device=number,
        rate_hz=figures["rate_hz"],
        samples=Samples(**counts),
        seconds=Seconds(**{name: figures[name] for name in Seconds.model_fields}),
        **{name: int(figures[name]) for name in rest},
    )
