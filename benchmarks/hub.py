"""A hub against gloo's ring on the same messages, in turns within one run, on this machine's loopback.

Every device is a process; the hub is one more. Prints each way's median time for a sum over all devices, and the ratio
of hub to gloo, turn by turn.

    python benchmarks/hub.py [--devices 4] [--parameters 11000000] [--turns 30]
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import time
from multiprocessing.connection import Connection

import shared
import torch
import torch.distributed as dist
from torch.multiprocessing import get_context

from scadles.fabric import TorchFabric
from scadles.fabric.hub import Hub, HubFabric
from scadles.testing.elastic import come_in

WARM_UP = 3
WAYS = {"gloo's ring": 0, "hub, plain sockets": 1}


def hub(devices: int, tell: Connection) -> None:
    """Serve until the benchmark ends."""
    serving = Hub("127.0.0.1", 0, devices, least=devices)
    serving.start()
    tell.send(serving.address)
    tell.recv()


def device(rank: int, options: argparse.Namespace, address: tuple[str, int]) -> None:
    """Sum up in turns; device 0 prints."""
    os.environ.update(
        RANK=str(rank), WORLD_SIZE=str(options.devices), MASTER_ADDR="127.0.0.1", MASTER_PORT=str(options.port)
    )
    torch.set_num_threads(1)
    ring = TorchFabric("gloo", 120.0, torch.device("cpu"), time.sleep)
    through_hub = HubFabric(*address, name=f"device-{rank}")
    come_in(through_hub, 0)
    bucket = torch.randn(options.parameters)
    times: dict[str, list[float]] = {name: [] for name in WAYS}
    for turn in range(options.turns + WARM_UP):
        for name, fabric in zip(WAYS, (ring, through_hub), strict=True):
            bucket.fill_(float(turn + rank))
            dist.barrier()
            start = time.perf_counter()
            fabric.reduce(bucket, "benchmark").wait()
            dist.barrier()
            if turn >= WARM_UP:
                times[name].append(time.perf_counter() - start)
            expected = sum(float(turn + other) for other in range(options.devices))
            if not bool((bucket == expected).all()):
                raise AssertionError(f"{name}: a sum is {bucket[0]}, not {expected}")
    if rank == 0:
        report(times, options)
    through_hub.close()
    ring.close()


def report(times: dict[str, list[float]], options: argparse.Namespace) -> None:
    """Print medians and the ratio."""
    megabytes = options.parameters * 4 / 1e6
    print(f"{options.devices} devices, {megabytes:.3g} MB each, {options.turns} turns, {os.cpu_count()} cores")
    ring, hub_times = times.values()
    for name, taken in times.items():
        print(f"{name:22}{statistics.median(taken) * 1e3:10.2f} ms")
    ratio = statistics.median(mine / other for mine, other in zip(hub_times, ring, strict=True))
    print(f"ratio, turn by turn   {ratio:10.2f}")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--devices", type=int, default=4)
    parser.add_argument("--parameters", type=int, default=11_000_000)
    parser.add_argument("--turns", type=int, default=30)
    parser.add_argument("--port", type=int, default=29573)
    options = parser.parse_args()
    ours, theirs = get_context("spawn").Pipe()
    serving = get_context("spawn").Process(target=hub, args=(options.devices, theirs))
    serving.start()
    try:
        return shared.in_processes(device, options.devices, options, ours.recv())
    finally:
        ours.send("done")
        serving.join()


if __name__ == "__main__":
    sys.exit(main())
