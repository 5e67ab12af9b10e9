"""Bytes that a device sends in a compressed step, against a dense ring all-reduce, and against what gloo really sends.

Vectors have layers of unequal scale and heavy tails, as gradients have; residuals are kept. For 4 and 16 devices, each
a thread, the messages are made, counted and read; for 64 and 256 their sizes are computed, as the simulator does. Then
4 gloo processes do the same steps, and the kernel's counters of their sockets are read.

    python benchmarks/compressed_bytes.py [--parameters 1000000] [--steps 4] [--values int8]
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import shared
import torch
from torch import Tensor

from scadles.exchange.compression import SampledTopK
from scadles.exchange.reduction import (
    SCALARS,
    Collectives,
    GatherReducer,
    SparseReducer,
    SplitReducer,
    choose_reducer,
    dense_volume,
    gather_volume,
    split_volume,
)
from scadles.fabric import Fabric, LocalFabric, TorchFabric
from scadles.seeding import numpy_generator

RATIOS = (0.1, 0.01, 0.001)
MADE, COMPUTED = (4, 16), (64, 256)
GLOO_DEVICES = 4
REDUCERS = {"gather": GatherReducer, "split": SplitReducer}
VOLUMES = {"gather": gather_volume, "split": split_volume}


class Counting(LocalFabric):
    """Counts what would leave this device."""

    sent = 0

    def gather(self, values: Tensor, phase: str) -> Tensor:
        self.sent += (self.size - 1) * values.nbytes
        return super().gather(values, phase)

    def swap(self, rows: Tensor, phase: str) -> Tensor:
        self.sent += (self.size - 1) * rows.shape[1]
        return super().swap(rows, phase)


def scales(n: int) -> np.ndarray:
    """Return the scale of each parameter: 50 layers of unequal size, some ten times larger than others."""
    rng = numpy_generator(0, "layers")
    ends = np.sort(rng.integers(1, n, 49))
    sizes = np.diff(np.concatenate([[0], ends, [n]]))
    return np.repeat(np.exp(rng.normal(0.0, 1.0, 50)), sizes).astype(np.float32)


def gradient(scale: np.ndarray, device: int, step: int) -> Tensor:
    """Return something like a gradient: partly the same on all devices, with heavy tails."""
    common = numpy_generator(0, "common", step).standard_normal(len(scale), dtype=np.float32)
    own = numpy_generator(0, device, "own", step).standard_normal(len(scale), dtype=np.float32)
    mixed = 0.5 * common + own
    return torch.from_numpy(mixed * np.abs(mixed) * scale)


def learn(
    fabric: Collectives, reducer: SparseReducer, scale: np.ndarray, steps: int, sent: Callable[[], int]
) -> tuple[list[int], int]:
    """Return the bytes sent in each step, and the entries of the last total."""
    residual, counts, entries = torch.zeros(len(scale)), [], 0
    for step in range(steps):
        v = residual + gradient(scale, fabric.rank, step)
        before = sent()
        reduction = reducer.reduce(v, [1.0] * SCALARS, step, f"step {step}")
        counts.append(sent() - before)
        residual = v - torch.zeros(len(scale)).index_copy_(0, *reduction.taken)
        entries = int(torch.count_nonzero(reduction.total))
    return counts, entries


def in_threads(name: str, size: int, k: int, scale: np.ndarray, options: argparse.Namespace) -> tuple[int, float]:
    """Return the bytes that each device sent in the last step, and the entries of the total over k."""

    def device(fabric: Counting) -> tuple[list[int], int]:
        reducer = REDUCERS[name](fabric, SampledTopK(k, seed=0, rank=fabric.rank), len(scale), options.values)
        return learn(fabric, reducer, scale, options.steps, lambda: fabric.sent)

    with ThreadPoolExecutor(size) as pool:
        outcomes = list(pool.map(device, Counting.create(size, deadline_s=300.0)))
    counts = {counts[-1] for counts, _ in outcomes}
    assert len(counts) == 1, "devices sent messages of unequal sizes"
    return counts.pop(), outcomes[0][1] / k


def sizes(options: argparse.Namespace) -> None:
    """Print the bytes of both ways for all ratios and numbers of devices."""
    n, scale = options.parameters, scales(options.parameters)
    print(f"kB per device and step, {n} parameters, values as {options.values}, {SCALARS} numbers of each device")
    print(f"{'CR':>6}{'N':>5}{'dense':>10}{'gather':>10}{'split':>10}{'split/dense':>13}{'total/k':>9}  cheapest")
    for ratio in RATIOS:
        k = round(n * ratio)
        for size in (*MADE, *COMPUTED):
            told = {name: way(n, k, size, options.values, SCALARS).bytes_sent for name, way in VOLUMES.items()}
            filled = ""
            if size in MADE:
                made = {name: in_threads(name, size, k, scale, options) for name in REDUCERS}
                assert {name: nbytes for name, (nbytes, _) in made.items()} == told, "messages are not as computed"
                filled = f"{made['split'][1]:.2f}"
            dense = dense_volume(n, size).bytes_sent
            kilobytes = "".join(f"{nbytes / 1e3:10.1f}" for nbytes in (dense, told["gather"], told["split"]))
            part, name = dense / told["split"], choose_reducer(n, k, size, options.values, SCALARS).name
            how = "made" if size in MADE else "computed"
            print(f"{ratio:6}{size:5}{kilobytes}{f'1/{part:.1f}':>13}{filled:>9}  {name}; {how}", flush=True)


def targets(options: argparse.Namespace) -> None:
    """Print what is wanted and what there is."""
    for n in sorted({options.parameters, 60_000_000}):
        few, many = (split_volume(n, round(n * 0.01), size, options.values, SCALARS) for size in (16, 256))
        dense = dense_volume(n, 16).bytes_sent
        at_a_tenth = split_volume(n, round(n * 0.1), 16, options.values, SCALARS).bytes_sent
        print(f"{n} parameters")
        print(f"  N = 16, CR 0.1: 1/{dense / at_a_tenth:.1f} of the dense ring (wanted: 1/12 at most)")
        print(f"  N = 16, CR 0.01: 1/{dense / few.bytes_sent:.1f} of the dense ring (wanted: 1/100 at most)")
        growth, on_gloo = many.bytes_sent / few.bytes_sent, many.gloo_bytes / few.gloo_bytes
        print(f"  CR 0.01: N = 256 sends {growth:.3f} times what N = 16 sends (wanted: 1.5 at most)")
        print(f"  with the bytes that gloo adds to each message: {on_gloo:.3f} times")


def gloo_device(rank: int, options: argparse.Namespace) -> None:
    """Do the steps of one process; device 0 prints."""
    os.environ.update(
        RANK=str(rank), WORLD_SIZE=str(GLOO_DEVICES), MASTER_ADDR="127.0.0.1", MASTER_PORT=str(options.port)
    )
    torch.set_num_threads(max(1, (os.cpu_count() or 1) // GLOO_DEVICES))
    fabric = TorchFabric("gloo", 300.0, torch.device("cpu"), time.sleep)
    n, scale = options.parameters, scales(options.parameters)

    def sent() -> int:
        # what is still under way has not left yet; once everybody meets again it has arrived
        fabric.gather(torch.zeros(1), "meeting")
        return fabric.bytes_sent()

    meeting = -sent() + sent()
    rows = [("dense", "", dense_volume(n, GLOO_DEVICES), [dense_step(fabric, n, sent) for _ in range(options.steps)])]
    for ratio in RATIOS:
        for name, kind in REDUCERS.items():
            reducer = kind(fabric, SampledTopK(round(n * ratio), seed=0, rank=rank), n, options.values)
            counts, _ = learn(fabric, reducer, scale, options.steps, sent)
            rows.append((name, f"{ratio}", reducer.volume(SCALARS), counts))
    if rank == 0:
        print(f"\n{GLOO_DEVICES} gloo processes: bytes per device and step, {fabric.bytes_counted_by}")
        print(f"{'CR':>6}  {'':8}{'computed':>10}{'sent':>10}{'more':>8}{'a message':>11}{'with gloo':>11}")
        for name, ratio, volume, counts in rows:
            # the median: a step in which TCP had to send again is not the rule
            real = statistics.median(counts) - meeting
            more = real - volume.bytes_sent
            percent = f"{100 * more / volume.bytes_sent:.1f} %"
            expected = f"{100 * (real / volume.gloo_bytes - 1):+.1f} %"
            sent_bytes = f"{volume.bytes_sent:10}{real:10.0f}{percent:>8}{more / volume.messages:11.0f}"
            print(f"{ratio:>6}  {name:8}{sent_bytes}{expected:>11}")
    fabric.gather(torch.zeros(1), "leaving together")
    fabric.close()


def dense_step(fabric: Fabric, n: int, sent: Callable[[], int]) -> int:
    """Return the bytes of a ring all-reduce."""
    before = sent()
    fabric.reduce(torch.ones(n), "dense").wait()
    return sent() - before


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--parameters", type=int, default=1_000_000)
    parser.add_argument("--steps", type=int, default=4)
    parser.add_argument("--values", default="int8", choices=["float32", "bfloat16", "float16", "int8"])
    parser.add_argument("--port", type=int, default=29573)
    options = parser.parse_args()
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # each device is a thread
    sizes(options)
    targets(options)
    torch.set_num_threads(threads)
    return shared.in_processes(gloo_device, GLOO_DEVICES, options)


if __name__ == "__main__":
    sys.exit(main())
