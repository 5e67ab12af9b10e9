"""Stream time to the target over thin links: dense, compressed, and by what buys most, measured and predicted.

Four device processes, each in a network namespace of its own, on one bridge; every link is shaped in both directions by
the kernel's token bucket. They exchange with each other (gloo) or through a hub at the bridge, whose own end is not
shaped. The simulator predicts the same runs from the rates of the links and from what was measured beforehand:

- *Bandwidth.* A bucket counts whole frames: 1448 of 1514 bytes are payload, and for every two frames that come in, an
  acknowledgement of 66 bytes goes out through the bucket of the other direction. Frames that a full bucket drops are
  sent again; that is not charged (3 to 6 % of the bytes at 20 Mbit/s, next to nothing at 100).
- *Latency.* A ring has 2 (N - 1) rounds, an all-gather N - 1, and each waits for a frame to pass two buckets and for
  processes to wake up, of which there are more than cores. Measured: a sum of 40 kB over the shaped links, a round of
  it less its time on the wire. The same is charged for each way to the hub and back.
- *Compute.* What a step takes on free links from the moment at which the last device has its batch, all devices
  computing at once on the cores there are. It holds everything that is no waiting for links: forward and backward pass,
  selection and coding, the exchange's own work, the optimizer.

MB sent, as the kernel counts it, also holds the initial model and what was sent again. Through a hub, what it sends is
counted in the predicted ones only. Needs root and iproute2, and about 15 minutes for all rows of gloo, 8 of a hub;
where they are missing it says so and does nothing. ``--quick`` only predicts, with nominal links and no costs but
theirs, on any machine.

    python benchmarks/shaped_links.py [--rates 100 20] [--only dense auto] [--backend gloo hub] [--out DIR] [--quick]
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import yaml
from links import DEVICES, NAMES, PAYLOAD, START_S, Fleet, Namespaces, busy_s, environment

# what is put over the settings below; the simulator is given the same, and costs
VARIANTS = {
    "dense": [],
    "compressed": ["compression.ratio=0.01", "compression.gate=always"],
    "a tenth": ["compression.ratio=0.1", "compression.gate=always"],
    "auto": ["compression.ratio=auto"],
    "method auto": ["method=auto"],
}
SETTINGS: dict[str, Any] = {
    "devices": DEVICES,
    "model": "shaped_links:network",
    "target_accuracy": 0.93,
    "duration_s": 240,
    "picture": False,
    "stream": {"rates": [200, 152, 48, 328]},
    "batch": {"window_s": 0.25},
    # all runs learn from the same samples in the same order, so that nothing but the links differs
    "buffer": {"policy": "persistence"},
    "evaluation": {"every_s": 0.25},
    "checkpoint": {"every_steps": 1_000_000},
}
CALIBRATION_STEPS = 40
PROBE_VALUES = 10_000


def network(shape, classes):
    """A fully connected network of 1.08 million parameters on the digits."""
    from torch import nn

    inputs = shape[0] * shape[1] * shape[2]
    hidden = [nn.Linear(inputs, 1000), nn.ReLU(), nn.Linear(1000, 1000), nn.ReLU()]
    return nn.Sequential(nn.Flatten(), *hidden, nn.Linear(1000, classes))


def train(links: Namespaces, variant: str, backend: str, out: Path, settings: list[str]) -> dict[str, Any]:
    """Run the devices and return the summary."""
    given = VARIANTS[variant] + settings
    if backend == "hub":
        with Fleet(links, out, [*given, f"fabric.min_devices={DEVICES}"], SETTINGS["model"]) as fleet:
            fleet.wait()
        return json.loads((out / NAMES[0] / "summary.json").read_text())
    # tests take wall time in which the stream stands still
    timeout_s = START_S + 2 * SETTINGS["duration_s"]
    arguments = ["-m", "scadles", "train", str(out.parent / "run.yaml"), "--out", str(out), "--quiet"]
    arguments += [word for setting in given for word in ("--set", setting)]
    links.run(arguments, timeout_s, out.with_suffix(".log"))
    return json.loads((out / "summary.json").read_text())


def predict(variant: str, backend: str, out: Path, costs: dict[str, float]) -> dict[str, Any]:
    """Simulate the same and return the summary."""
    given = [*VARIANTS[variant], *(f"cost.{name}={value!r}" for name, value in costs.items())]
    given += ["fabric.backend=hub"] if backend == "hub" else []
    arguments = ["-m", "scadles", "simulate", str(out.parent / "run.yaml"), "--out", str(out), "--quiet"]
    arguments += [word for setting in given for word in ("--set", setting)]
    subprocess.run([sys.executable, *arguments], env=environment(), timeout=600, check=True)
    return json.loads((out / "summary.json").read_text())


def latency_s(links: Namespaces, mbit: float, log: Path) -> float:
    """Return what a round of a small sum takes beside its bytes on the wire."""
    links.run([__file__, "--probe"], START_S, log)
    taken_s = float(log.read_text().split()[-1])
    wire_s = 8 * 4 * PROBE_VALUES / DEVICES / (mbit * 1e6 * PAYLOAD)
    return max(0.0, taken_s / (2 * (DEVICES - 1)) - wire_s)


def probe() -> None:
    """Print the median time of a sum of 40 kB over all devices."""
    import torch
    import torch.distributed as dist

    dist.init_process_group("gloo")
    values, taken_s = torch.zeros(PROBE_VALUES), []
    for _ in range(50):
        dist.barrier()
        start = time.perf_counter()
        dist.all_reduce(values)
        taken_s.append(time.perf_counter() - start)
    print(statistics.median(taken_s))
    dist.destroy_process_group()


def compare(links: Namespaces, rates: list[float], variants: list[str], backend: str, out: Path) -> None:
    """Measure and predict everything, and print it line by line."""
    compute_s = {}
    print("through a hub at the bridge\n" if backend == "hub" else "devices with each other\n")
    for variant in dict.fromkeys(["dense", "compressed", *variants]):
        run = out / f"free-{variant}"
        train(links, variant, backend, run, [f"steps={CALIBRATION_STEPS}", "target_accuracy=null"])
        compute_s[variant] = busy_s(run)
        print(f"a step of {variant} on free links: {compute_s[variant] * 1e3:.0f} ms")
    print("\nmeasured / predicted")
    print(f"{'Mbit/s':>7} {'':12}{'steps':>12}{'s per step':>16}{'MB sent':>16}{'s to the target':>18}{'ratio':>8}")
    for mbit in rates:
        links.shape(mbit)
        bps, delay_s = mbit * 1e6 * PAYLOAD, latency_s(links, mbit, out / f"{mbit:g}-probe.log")
        costs = {"link.up_bps": bps, "link.down_bps": bps, "link.latency_s": delay_s}
        times: dict[str, tuple[float, float]] = {}
        for variant in variants:
            run = out / f"{mbit:g}-{variant}"
            real = train(links, variant, backend, run, [])
            step_s = {"compute.step_s": compute_s[variant]}
            if "auto" in variant:  # its steps are of both kinds
                coding_s = max(0.0, compute_s["compressed"] - compute_s["dense"])
                step_s = {"compute.step_s": compute_s["dense"], "compute.coding_s": coding_s}
            guess = predict(variant, backend, run.with_name(f"{run.name}-predicted"), costs | step_s)
            times[variant] = _to_target(real), _to_target(guess)
            print(_row(mbit, variant, real, guess), flush=True)
        print(f"{'':7} {bps / 1e6:.1f} Mbit/s of payload, latency {delay_s * 1e3:.1f} ms")
        for variant in times.keys() - {"dense"} if "dense" in times else ():
            real_gain, guessed_gain = (
                dense / other for dense, other in zip(times["dense"], times[variant], strict=True)
            )
            print(f"{'':7} {variant} {real_gain:.1f} times sooner than dense, predicted {guessed_gain:.1f}")
        print()


def predict_all(rates: list[float], variants: list[str], backend: str, out: Path) -> None:
    """Print what the simulator says of nominal links, line by line."""
    print(f"{'Mbit/s':>7} {'':12}{'steps':>7}{'s per step':>12}{'MB sent':>9}{'s to the target':>17}  steps by ratio")
    for mbit in rates:
        for variant in variants:
            bps = mbit * 1e6 * PAYLOAD
            guess = predict(variant, backend, out / f"{mbit:g}-{variant}", {"link.up_bps": bps, "link.down_bps": bps})
            each, ratios = guess["time_s"] / guess["steps"], (guess["compressed"] or {}).get("ratios") or {}
            print(
                f"{mbit:7g} {variant:12}{guess['steps']:7}{each:12.3f}{guess['bytes_sent'] / 1e6:9.1f}"
                f"{_to_target(guess):17.1f}  {', '.join(f'{ratio}: {steps}' for ratio, steps in ratios.items())}",
                flush=True,
            )


def _row(mbit: float, variant: str, real: dict[str, Any], guess: dict[str, Any]) -> str:
    pair = (real, guess)
    steps = " / ".join(str(summary["steps"]) for summary in pair)
    each = " / ".join(f"{summary['time_s'] / summary['steps']:.3f}" for summary in pair)
    sent = " / ".join(f"{summary['bytes_sent'] / 1e6:.1f}" for summary in pair)
    times = f"{_to_target(real):.1f} / {_to_target(guess):.1f}"
    ratio = _to_target(guess) / _to_target(real)
    windows_s = [summary["window"]["window_s"] for summary in pair if "window" in summary]
    chosen = f"  window {' / '.join(f'{window_s:.3g}' for window_s in windows_s)} s" if windows_s else ""
    return f"{mbit:7g} {variant:12}{steps:>12}{each:>16}{sent:>16}{times:>18}{ratio:>8.3f}{chosen}"


def _to_target(summary: dict[str, Any]) -> float:
    time_s = summary["time_to_target_s"]
    return float("nan") if time_s is None else float(time_s)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rates", type=float, nargs="+", default=[100, 20], help="Mbit/s of the links")
    parser.add_argument("--only", choices=VARIANTS, nargs="+", default=list(VARIANTS), help="leave the others out")
    parser.add_argument("--backend", choices=("gloo", "hub"), nargs="+", default=["gloo"], help="how they exchange")
    parser.add_argument("--quick", action="store_true", help="predict only")
    parser.add_argument("--out", type=Path, help="keep the run folders here")
    parser.add_argument("--probe", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.probe:
        probe()
        return 0
    if options.quick:
        with tempfile.TemporaryDirectory() as folder:
            for backend in options.backend:
                out = _prepared((options.out or Path(folder)) / backend)
                predict_all(options.rates, options.only, backend, out)
        return 0
    if os.geteuid() != 0 or not (shutil.which("ip") and shutil.which("tc")):
        print("shaped links need root and iproute2 (apt-get install iproute2): nothing was measured")
        return 0
    # more processes than cores, as scadles train --local does; the device processes inherit it
    os.sched_setscheduler(0, os.SCHED_BATCH, os.sched_param(0))
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    with tempfile.TemporaryDirectory() as folder:
        for backend in options.backend:
            out = _prepared((options.out or Path(folder)) / backend)
            with Namespaces() as links:
                compare(links, options.rates, options.only, backend, out)
    return 0


def _prepared(out: Path) -> Path:
    """Return the folder with the settings in it."""
    out.mkdir(parents=True, exist_ok=True)
    (out / "run.yaml").write_text(yaml.safe_dump(SETTINGS))
    return out


if __name__ == "__main__":
    sys.exit(main())
