"""What a run came to: devices put their figures together, device 0 writes them down."""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors.torch import save_file

from scadles.buffer import Ledger
from scadles.config import RunConfig
from scadles.device import Device
from scadles.errors import MissingExtraError
from scadles.observe import DeviceSummary, RunFolder, Samples, Seconds, Summary, plot_run
from scadles.training.checkpoint import own_copy
from scadles.training.tally import Tally

MODEL_FILE = "model.safetensors"
PICTURE_FILE = "progress.png"


def write_outcome(
    device: Device,
    config: RunConfig,
    tally: Tally,
    run_dir: Path,
    *,
    ended_by: str,
    wall_s: float,
    model_sha256: str,
) -> Summary:
    """Gather the figures of all devices; device 0 writes summary, model and picture. All return the same summary."""
    rows = _gather(device, tally)
    summary = Summary(
        method=config.method,
        clock="wall",
        devices=device.fabric.size,
        seed=config.seed,
        model=config.model,
        dataset=config.data.dataset,
        steps=device.step_number,
        time_s=device.clock.now(),
        wall_s=wall_s,
        target_accuracy=config.target_accuracy,
        time_to_target_s=tally.time_to_target_s,
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
    if device.fabric.rank == 0:
        summary.write(run_dir)
        weights = device.learner.model.state_dict()
        save_file({name: own_copy(tensor) for name, tensor in weights.items()}, run_dir / MODEL_FILE)
    return summary


def draw(run_dir: Path) -> Path | None:
    """Draw the picture of a finished run; return None where the extra for it is missing."""
    try:
        plot_run(RunFolder(run_dir), run_dir / PICTURE_FILE)
    except MissingExtraError:
        return None
    return run_dir / PICTURE_FILE


def _gather(device: Device, tally: Tally) -> list[DeviceSummary]:
    ledger = Ledger(**device.intake.describe())
    names = list(Samples.model_fields)
    mine = [
        *(getattr(ledger, name) for name in names),
        device.intake.rate_hz,
        tally.wait_s,
        tally.compute_s,
        tally.sync_s,
        max(tally.max_waiting, device.intake.max_waiting),
        tally.slowest_steps,
        device.non_finite_steps,
        tally.bytes_sent + device.fabric.bytes_sent(),
    ]
    everybody = device.fabric.gather(torch.tensor(mine, dtype=torch.float64), "summary")
    rows = []
    for number, row in enumerate(everybody.tolist()):
        counts, rest = row[: len(names)], row[len(names) :]
        rate_hz, wait_s, compute_s, sync_s, max_waiting, slowest, non_finite, sent = rest
        rows.append(
            DeviceSummary(
                device=number,
                rate_hz=rate_hz,
                samples=Samples(**{name: int(count) for name, count in zip(names, counts, strict=True)}),
                seconds=Seconds(wait=wait_s, compute=compute_s, sync=sync_s),
                buffer_max_samples=int(max_waiting),
                bytes_sent=int(sent),
                slowest_steps=int(slowest),
                non_finite_steps=int(non_finite),
            )
        )
    return rows
