"""What several benchmarks share: a network, and device processes on this machine.

Import it before torch: it sets how the processes share the cores, and how names are looked up.
"""

from __future__ import annotations

import os
from collections.abc import Callable

if hasattr(os, "SCHED_BATCH"):
    os.sched_setscheduler(0, os.SCHED_BATCH, os.sched_param(0))
os.environ.setdefault("RES_OPTIONS", "timeout:1 attempts:1")

import torch
from torch import nn
from torch.multiprocessing import get_context


def network() -> nn.Module:
    """A convolutional network of 10.9 million parameters."""
    torch.manual_seed(0)
    layers: list[nn.Module] = []
    for inputs, outputs in ((3, 32), (32, 64), (64, 128), (128, 256)):
        layers += [nn.Conv2d(inputs, outputs, 3, 2, 1, bias=False), nn.GroupNorm(8, outputs), nn.ReLU()]
    layers.append(nn.Flatten())
    for inputs in (1024, 2048, 2048):
        layers += [nn.Linear(inputs, 2048), nn.ReLU()]
    return nn.Sequential(*layers, nn.Linear(2048, 10))


def in_processes(target: Callable[..., None], count: int, *arguments: object) -> int:
    """Run ``target(rank, *arguments)`` in ``count`` processes; return the worst exit code."""
    context = get_context("spawn")
    workers = [context.Process(target=target, args=(rank, *arguments)) for rank in range(count)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    return max(abs(worker.exitcode or 0) for worker in workers)
