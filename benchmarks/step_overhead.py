"""Our dense step against PyTorch's DistributedDataParallel on the same work, in turns within one run.

Four gloo processes on this machine, a network of 11 million parameters, batches of 38 (the mean of stream set S1).
Prints each way's median step time, the ratio to DDP step by step, and the collectives in a step.

    python benchmarks/step_overhead.py [--steps 40] [--processes 4]
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import time
from collections.abc import Callable

import shared
import torch
import torch.distributed as dist
from torch.nn.functional import cross_entropy
from torch.nn.parallel import DistributedDataParallel

from scadles.exchange.aggregation import GradientExchange, Report
from scadles.fabric import TorchFabric

BATCH = 38
WARM_UP = 4


def ddp_step(x: torch.Tensor, y: torch.Tensor) -> Callable[[], None]:
    """One step as PyTorch users write it."""
    model = DistributedDataParallel(shared.network())
    optimizer = torch.optim.SGD(model.parameters(), 0.01, momentum=0.9)

    def step() -> None:
        optimizer.zero_grad()
        cross_entropy(model(x), y).backward()
        optimizer.step()

    return step


def our_step(fabric: TorchFabric, x: torch.Tensor, y: torch.Tensor, bucket_bytes: int | None) -> Callable[[], None]:
    """The same step with weighted aggregation, each device's batch size inside the message."""
    model = shared.network()
    optimizer = torch.optim.SGD(model.parameters(), 0.01, momentum=0.9)
    exchange = GradientExchange(model.parameters(), fabric.reduce, fabric.rank, fabric.size, bucket_bytes)

    def step() -> None:
        optimizer.zero_grad()
        exchange.begin(BATCH, "benchmark")
        (cross_entropy(model(x), y) * BATCH).backward()
        exchange.finish(Report(batch=BATCH, weight=BATCH))
        optimizer.step()

    return step


def device(rank: int, processes: int, port: int, steps: int) -> None:
    """Run all ways in turns; device 0 prints."""
    os.environ.update(RANK=str(rank), WORLD_SIZE=str(processes), MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port))
    torch.set_num_threads(max(1, (os.cpu_count() or 1) // processes))
    fabric = TorchFabric("gloo", 120.0, torch.device("cpu"), time.sleep)
    x, y = torch.randn(BATCH, 3, 32, 32), torch.randint(0, 10, (BATCH,))
    ways = {
        "PyTorch DDP": ddp_step(x, y),
        "ours, one message": our_step(fabric, x, y, None),
        "ours, overlapped, 25 MB buckets": our_step(fabric, x, y, 25 * 2**20),
    }
    times: dict[str, list[float]] = {name: [] for name in ways}
    collectives = dict.fromkeys(ways, 0)
    for turn in range(steps + WARM_UP):
        for name, step in ways.items():
            dist.barrier()
            before = fabric.collectives
            start = time.perf_counter()
            step()
            dist.barrier()
            if turn >= WARM_UP:
                times[name].append(time.perf_counter() - start)
            collectives[name] = fabric.collectives - before
    if rank == 0:
        report(times, collectives, sum(p.numel() for p in shared.network().parameters()), processes)
    fabric.close()


def report(times: dict[str, list[float]], collectives: dict[str, int], parameters: int, processes: int) -> None:
    """Print medians and ratios."""
    print(f"{processes} processes, {parameters / 1e6:.1f} M parameters, batch {BATCH}, {os.cpu_count()} cores")
    print(f"{'':34}{'median ms':>10}{'ratio to DDP':>15}{'collectives':>13}")
    base = times["PyTorch DDP"]
    for name, taken in times.items():
        ratio = statistics.median(mine / ddp for mine, ddp in zip(taken, base, strict=True))
        count = f"{collectives[name]}" if collectives[name] else "DDP's own"
        print(f"{name:34}{statistics.median(taken) * 1e3:10.1f}{ratio:15.3f}{count:>13}")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=40)
    parser.add_argument("--processes", type=int, default=4)
    parser.add_argument("--port", type=int, default=29571)
    options = parser.parse_args()
    return shared.in_processes(device, options.processes, options.processes, options.port, options.steps)


if __name__ == "__main__":
    sys.exit(main())
