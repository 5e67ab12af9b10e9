"""Run folders as a run would leave them, made from the event classes alone."""

import math
from pathlib import Path

import pytest

from scadles.observe import (
    DeviceSummary,
    Evaluation,
    EventLog,
    Finished,
    Header,
    Samples,
    Seconds,
    Step,
    Summary,
    events_path,
)


def make_header(device=0, devices=2, method="scadles", seed=0):
    return Header(
        step=0,
        time_s=0.0,
        device=device,
        devices=devices,
        method=method,
        seed=seed,
        clock="wall",
        started_at="2024-01-01T00:00:00Z",
        versions={"scadles": "0.1.0"},
    )


def make_step(step, device=0, devices=2, method="scadles", **changes):
    rate_hz = 16.0 * (device + 1)
    scadles = method == "scadles"
    batch = round(rate_hz * (1 + 0.2 * math.sin(step / 3 + device))) if scadles else 64
    took_s = 1.2 if scadles else 64 / 16
    wait_s = 1.0 if scadles else 64 / rate_hz
    fields = {
        "time_s": step * took_s,
        "batch": batch,
        "total_batch": batch * devices,
        "offsets": (step * batch, step * batch + batch - 1),
        "rate_hz": rate_hz,
        "wait_s": wait_s,
        "compute_s": 0.1,
        "sync_s": took_s - wait_s - 0.1,
        "slowest": 0,
        "slowest_s": 0.25,
        "loss": 2.3 * math.exp(-step / 30),
        "lr": 0.05,
        "lr_scale": 1.5,
        "held": 5 * device if scadles else int(step * took_s * rate_hz - 64 * step) + 64,
        "lag": 0,
        "dropped": 3 * step if scadles else 0,
    }
    return Step(step=step, **{**fields, **changes})


def make_run(root: Path, name="run", *, method="scadles", devices=2, steps=60, target=0.9, config="", **changes):
    """Write a run folder; ``changes`` go into its summary."""
    folder = root / name
    folder.mkdir()
    reached_s, accuracy, last = None, 0.1, None
    for device in range(devices):
        with EventLog(events_path(folder, device), make_header(device, devices, method), append=False) as log:
            for step in range(1, steps + 1):
                last = make_step(step, device, devices, method)
                log.write(last)
                if step % 3 == 0:
                    wobble = 0.01 * math.sin(step)
                    accuracy = 0.97 - 0.87 * math.exp(-last.step / 20) + wobble
                    log.write(
                        Evaluation(step=step, time_s=last.time_s, accuracy=accuracy, loss=0.3, samples_trained=step)
                    )
                    if reached_s is None and target and accuracy >= target:
                        reached_s = last.time_s
            log.write(Finished(step=steps, time_s=last.time_s, reason="steps"))
    samples = Samples(received=1000, trained=800, dropped=150, held=40, rejected=10)
    share = 1.0 if method == "scadles" else 2.6
    seconds = Seconds(wait=steps * share, compute=steps * 0.1, sync=steps * (0.1 if method == "scadles" else 1.3))
    fields = {
        "method": method,
        "clock": "wall",
        "devices": devices,
        "seed": 0,
        "model": "mlp",
        "dataset": "digits",
        "steps": steps,
        "time_s": last.time_s,
        "wall_s": last.time_s / 20,
        "target_accuracy": target,
        "time_to_target_s": reached_s,
        "final_accuracy": accuracy,
        "best_accuracy": accuracy,
        "samples": samples,
        "buffer_max_samples": 123,
        "seconds": seconds,
        "bytes_sent": 1_530_000,
        "bytes_counted_by": "kernel",
        "collectives_per_step": 1.0,
        "lr_scale_mean": 1.5,
        "model_sha256": "0123456789abcdef" * 4,
        "ended_by": "steps",
        "per_device": tuple(
            DeviceSummary(
                device=device,
                rate_hz=16.0 * (device + 1),
                samples=samples,
                seconds=seconds,
                buffer_max_samples=123,
                bytes_sent=1000,
                slowest_steps=3,
                non_finite_steps=0,
            )
            for device in range(devices)
        ),
    }
    Summary(**{**fields, **changes}).write(folder)
    (folder / "config.yaml").write_text(config or f"method: {method}\nstream:\n  rates: 50.0\n")
    return folder


@pytest.fixture
def new_run(tmp_path):
    """Make a run folder under the test's own folder."""

    def build(name="run", **settings):
        return make_run(tmp_path, name, **settings)

    return build


@pytest.fixture(name="make_header")
def _make_header():
    """The maker of headers, with a part of its fields given."""
    return make_header


@pytest.fixture(name="make_step")
def _make_step():
    """The maker of steps, with a part of their fields given."""
    return make_step
