"""Simulated device-steps per second, and memory a device, from 100 to 10,000 devices.

The digits network (64-64-10) on 10,000 devices whose streams bring 8 samples a second, 100 steps of a second; once with
one backward pass for all devices, once with a gradient of each. For comparison, in the same run: PyTorch alone on the
same batches, without streams, buffers, ledgers or clocks, as one fused batch and as a loop over devices.

    python benchmarks/simulation_speed.py [--devices 10000] [--steps 100] [--threads 1]

Each measurement is a process of its own. Where other work shares the cores, look at the column per CPU second. Memory
is the growth of its resident peak from before the cluster is built.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import time

import numpy as np
import torch
from torch.nn.functional import cross_entropy

from scadles import assembly
from scadles.config import load_config
from scadles.simulation.simulator import Simulator

RATE_HZ = 8
CHUNK_DEVICES = 128


def settings(devices: int, steps: int, gradients: str, threads: int):
    return load_config(
        {
            "devices": devices,
            "steps": steps,
            "model": "mlp",
            "data": {"partition": "shared"},
            "stream": {"rates": RATE_HZ},
            "simulation": {"gradients": gradients, "threads": threads},
        }
    )


def peak_bytes() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def simulated(devices: int, steps: int, gradients: str, threads: int) -> dict:
    """Return what one cluster takes; what is slow or large only the first time has happened before."""
    warm = settings(2 * CHUNK_DEVICES * 8, 2, gradients, threads)
    dataset = assembly.build_dataset(warm)
    Simulator(warm, dataset, assembly.build_network(warm, dataset)).run()
    config = settings(devices, steps, gradients, threads)
    before, start = peak_bytes(), time.perf_counter()
    simulator = Simulator(config, dataset, assembly.build_network(config, dataset))
    built, built_cpu = time.perf_counter(), time.process_time()
    summary = simulator.run()
    seconds, cpu_seconds = time.perf_counter() - built, time.process_time() - built_cpu
    return {
        "steps_hz": devices * summary.steps / seconds,
        "cpu_hz": devices * summary.steps / cpu_seconds,
        "build_us": (built - start) / devices * 1e6,
        "bytes": (peak_bytes() - before) / devices,
        "batch": summary.samples.trained / summary.steps / devices,
        "how": summary.simulated.gradients,
    }


def torch_alone(devices: int, steps: int, way: str, threads: int) -> dict:
    """Return what PyTorch takes for the same gradients and updates, with samples drawn per step for all devices."""
    torch.set_num_threads(threads)
    config = settings(2, 1, "fused", threads)
    dataset = assembly.build_dataset(config)
    model = assembly.build_network(config, dataset)
    optimizer = torch.optim.SGD(model.parameters(), 0.05, momentum=0.9)
    rng = np.random.default_rng(0)
    optimizer.zero_grad()
    start, start_cpu = time.perf_counter(), time.process_time()
    for _ in range(steps):
        optimizer.zero_grad()
        for first in range(0, devices, CHUNK_DEVICES if way == "fused" else 1):
            count = min(CHUNK_DEVICES, devices - first) if way == "fused" else 1
            x, y = dataset.samples(rng.integers(0, dataset.train_size, RATE_HZ * count))
            (cross_entropy(model(dataset.prepare(x)), y) * len(y)).backward()
        optimizer.step()
    count = devices * steps
    return {
        "steps_hz": count / (time.perf_counter() - start),
        "cpu_hz": count / (time.process_time() - start_cpu),
    }


def measure(*arguments: object) -> dict:
    """Run one measurement in a process of its own."""
    command = [sys.executable, __file__, "--measure", *map(str, arguments)]
    return json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def report(devices: int, steps: int, threads: int) -> None:
    sizes = [size for size in (100, 1000, 10_000) if size < devices] + [devices]
    print(f"{'':42}{'devices':>9}{'device-steps/s':>16}{'per CPU s':>11}{'bytes/device':>14}{'µs to build':>13}")
    for gradients in ("fused", "per-device"):
        rows = []
        for size in sizes:
            # small clusters make more steps, so that all measurements take about as long
            count = steps if size == devices else min(2000, steps * devices // size // 10)
            rows.append(measure("simulated", size, max(count, 20), gradients, threads))
            row = rows[-1]
            how = f"{row['how']}, batch {row['batch']:.1f}"
            print(
                f"{how:42}{size:9,}{row['steps_hz']:16,.0f}{row['cpu_hz']:11,.0f}{row['bytes']:14,.0f}{row['build_us']:13.0f}"
            )
        growth = rows[0]["cpu_hz"] / rows[-1]["cpu_hz"]
        print(f"{'':42}CPU time of a device-step at {devices:,} devices against {sizes[0]:,}: {growth:.2f}")
        alone = measure("alone", devices, max(1, steps // 10), gradients, threads)
        print(f"{'PyTorch alone, ' + ('fused' if gradients == 'fused' else 'a loop'):42}{devices:9,}", end="")
        print(f"{alone['steps_hz']:16,.0f}{alone['cpu_hz']:11,.0f}")
        print(f"{'':42}simulated against PyTorch alone: {rows[-1]['cpu_hz'] / alone['cpu_hz']:.2f}\n")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--devices", type=int, default=10_000)
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--measure", nargs=5, metavar="X", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.measure:
        kind, devices, steps, gradients, threads = options.measure
        way = simulated if kind == "simulated" else torch_alone
        print(json.dumps(way(int(devices), int(steps), gradients, int(threads))))
    else:
        report(options.devices, options.steps, options.threads)


if __name__ == "__main__":
    main()
