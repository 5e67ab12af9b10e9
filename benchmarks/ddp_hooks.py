"""Communication hooks of torch's DistributedDataParallel beside each other, on the same work, in turns within one run.

Four gloo processes on this machine. Prints each hook's median step time, the ratio to DDP without a hook step by step,
and the bytes that one device really sends in a step, as the kernel counts them. On loopback bytes cost next to nothing,
so the times say what compression costs; ``shaped_links.py`` says what it saves.

    python benchmarks/ddp_hooks.py [--steps 20] [--processes 4] [--model small|large]
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import time
from collections.abc import Callable

import shaped_links
import shared
import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.algorithms.ddp_comm_hooks.default_hooks import fp16_compress_hook
from torch.distributed.algorithms.ddp_comm_hooks.powerSGD_hook import PowerSGDState, powerSGD_hook
from torch.nn.functional import cross_entropy
from torch.nn.parallel import DistributedDataParallel

from scadles.exchange.ddp_hook import HookState, ddp_hook
from scadles.fabric.byte_counters import SocketCounter

BATCH = 38
WARM_UP = 4
PLAIN = "no hook"
# of one bucket: with several, PowerSGD aborts on gloo
WHOLE_MB = 1000


def small() -> nn.Module:
    """A fully connected network of 1.1 million parameters."""
    torch.manual_seed(0)
    return shaped_links.network((1, 8, 8), 10)


MODELS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "small": (small, (1, 8, 8)),
    "large": (shared.network, (3, 32, 32)),
}


def wrapped(model: nn.Module, name: str) -> DistributedDataParallel:
    """Return the model with one of the hooks."""
    parallel = DistributedDataParallel(model, bucket_cap_mb=WHOLE_MB if name.startswith("PowerSGD") else 25)
    if name.startswith("ours"):
        parallel.register_comm_hook(HookState(float(name.split()[-1])), ddp_hook)
    elif name.startswith("PowerSGD"):
        parallel.register_comm_hook(PowerSGDState(None, 1, start_powerSGD_iter=2), powerSGD_hook)
    elif name == "fp16":
        parallel.register_comm_hook(None, fp16_compress_hook)
    return parallel


def step_of(model: nn.Module, x: torch.Tensor, y: torch.Tensor) -> Callable[[], None]:
    """One step as PyTorch users write it."""
    optimizer = torch.optim.SGD(model.parameters(), 0.01, momentum=0.9)

    def step() -> None:
        optimizer.zero_grad()
        cross_entropy(model(x), y).backward()
        optimizer.step()

    return step


def device(rank: int, processes: int, port: int, steps: int, size: str) -> None:
    """Run all ways in turns; device 0 prints."""
    os.environ.update(RANK=str(rank), WORLD_SIZE=str(processes), MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port))
    torch.set_num_threads(max(1, (os.cpu_count() or 1) // processes))
    counter = SocketCounter()
    counter.start()
    dist.init_process_group("gloo")
    dist.all_reduce(torch.zeros(1))
    counter.watch()
    make, shape = MODELS[size]
    x, y = torch.randn(BATCH, *shape), torch.randint(0, 10, (BATCH,))
    names = [PLAIN, "ours, CR 0.01", "ours, CR 0.1", "fp16", "PowerSGD, rank 1"]
    ways = {name: step_of(wrapped(make(), name), x, y) for name in names}
    times: dict[str, list[float]] = {name: [] for name in ways}
    sent: dict[str, list[int]] = {name: [] for name in ways}
    for turn in range(steps + WARM_UP):
        for name, step in ways.items():
            dist.barrier()
            before, start = counter.bytes_sent(), time.perf_counter()
            step()
            dist.barrier()  # what others have received has been counted
            if turn >= WARM_UP:
                times[name].append(time.perf_counter() - start)
                sent[name].append(counter.bytes_sent() - before)
    if rank == 0:
        report(times, sent, sum(p.numel() for p in make().parameters()), processes)
    dist.destroy_process_group()


def report(times: dict[str, list[float]], sent: dict[str, list[int]], parameters: int, processes: int) -> None:
    """Print medians and ratios."""
    print(f"{processes} processes, {parameters / 1e6:.1f} M parameters, batch {BATCH}, {os.cpu_count()} cores")
    print(f"{'':20}{'median ms':>10}{'ratio to DDP':>15}{'kB a step':>12}{'of DDP':>9}")
    base = times[PLAIN]
    for name, taken in times.items():
        ratio = statistics.median(mine / plain for mine, plain in zip(taken, base, strict=True))
        kilobytes = statistics.median(sent[name]) / 1e3
        share = kilobytes / (statistics.median(sent[PLAIN]) / 1e3)
        print(f"{name:20}{statistics.median(taken) * 1e3:10.1f}{ratio:15.3f}{kilobytes:12.1f}{share:9.4f}")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--processes", type=int, default=4)
    parser.add_argument("--port", type=int, default=29573)
    parser.add_argument("--model", choices=MODELS, default="large")
    options = parser.parse_args()
    return shared.in_processes(device, options.processes, options.processes, options.port, options.steps, options.model)


if __name__ == "__main__":
    sys.exit(main())
