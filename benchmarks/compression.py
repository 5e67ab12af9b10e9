"""Selection, coding and decoding of gradients against torch.topk and a plain copy, in turns within one run; and bits.

Two vectors of random numbers take turns as a device's updates, so that a threshold kept from the last step meets a new
vector. A copy is measured twice: into new memory, as `gradient.clone()` does, and into memory that is there already,
which is as fast as this machine's memory gets. The last column compares CPU time, which other work on the machine
disturbs less. Bits are measured on random positions and on those of a real gradient.

    python benchmarks/compression.py [--turns 7] [--parameters 60000000 1000000] [--ratios 0.1 0.01 0.001]
"""

from __future__ import annotations

import argparse
import math
import os
import statistics
import sys
import time
from collections.abc import Callable
from typing import NamedTuple

import shared
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from scadles.exchange.compression import ExactTopK, SampledTopK, Sparse, add_message, budget_bytes, decode, encode

_WARM_UP = 2  # what is kept from step to step alternates between two pieces of memory
NAIVE_BITS = 96  # a 32-bit value and a 64-bit position for each kept entry


class Taken(NamedTuple):
    """Seconds of one way in each turn: by the clock, and of all cores."""

    wall: list[float]
    cpu: list[float]


def take_turns(ways: dict[str, Callable[[int], object]], turns: int) -> dict[str, Taken]:
    """Return the seconds of each way in each turn; the first two turns warm up."""
    times = {name: Taken([], []) for name in ways}
    for turn in range(turns + _WARM_UP):
        for name, way in ways.items():
            start, cpu_start = time.perf_counter(), time.process_time()
            way(turn)
            if turn >= _WARM_UP:
                times[name].wall.append(time.perf_counter() - start)
                times[name].cpu.append(time.process_time() - cpu_start)
    return times


def ratio(mine: list[float], theirs: list[float]) -> float:
    """Return the median over turns of one way's time over another's in the same turn."""
    return statistics.median(a / b for a, b in zip(mine, theirs, strict=True))


def entropy_bits(share: float) -> float:
    """Return the bits that a kept entry's position needs at least, where positions are random."""
    return -(share * math.log2(share) + (1 - share) * math.log2(1 - share)) / share


def speed(n: int, share: float, turns: int) -> None:
    """Print how long selection, coding and decoding take, and how that compares."""
    k = int(n * share)
    generator = torch.Generator().manual_seed(0)
    updates = [torch.randn(n, generator=generator) for _ in range(2)]
    room, total = torch.empty(n), torch.zeros(n)
    selector, anew = SampledTopK(k, seed=0), [SampledTopK(k, seed=turn) for turn in range(turns + _WARM_UP)]
    made: dict[str, Sparse | Tensor] = {}
    size = budget_bytes(n, k, "int8")

    def select(turn: int) -> None:
        made["sparse"] = selector.pick(updates[turn % 2], turn)

    def code(_: int) -> None:
        made["message"] = encode(made["sparse"], n, value_type="int8", budget_bytes=size).message

    times = take_turns(
        {
            "copy into new memory": lambda turn: updates[turn % 2].clone(),
            "copy into used memory": lambda turn: room.copy_(updates[turn % 2]),
            "torch.topk of magnitudes": lambda turn: torch.topk(updates[turn % 2].abs(), k),
            "torch.topk, sorted=False": lambda turn: torch.topk(updates[turn % 2].abs(), k, sorted=False),
            "select": select,
            "select, first step": lambda turn: anew[turn].pick(updates[turn % 2], turn),
            "encode, int8": code,
            "decode": lambda _: decode(made["message"], n),
            "decode and add": lambda _: add_message(made["message"], total),
        },
        turns,
    )
    both = [zip(*pair, strict=True) for pair in zip(times["select"], times["encode, int8"], strict=True)]
    times["select + encode"] = Taken(*([sum(pair) for pair in kind] for kind in both))
    print(f"\n{n / 1e6:g} M parameters, CR {share:g}: kept {made['sparse'].entries / k:.3f} of k")
    columns = f"{'new copies':>12}{'used copies':>13}{'topk / it':>11}{'unsorted / it':>15}{'of CPU':>9}"
    print(f"{'':28}{'median ms':>10}{columns}")
    used = times["copy into used memory"]
    for name, (wall, cpu) in times.items():
        copies = [ratio(wall, times[f"copy into {which} memory"].wall) for which in ("new", "used")]
        topk = [ratio(times[which].wall, wall) for which in ("torch.topk of magnitudes", "torch.topk, sorted=False")]
        row = f"{name:28}{statistics.median(wall) * 1e3:10.1f}{copies[0]:12.2f}{copies[1]:13.2f}"
        print(f"{row}{topk[0]:11.1f}{topk[1]:15.1f}{ratio(cpu, used.cpu):9.2f}")


def real_gradient() -> Tensor:
    """Return the gradient of a convolutional network of 10.9 million parameters after some steps."""
    model = shared.network()
    optimizer = torch.optim.SGD(model.parameters(), 0.01, momentum=0.9)
    classes = torch.randn(10, 3, 32, 32)
    for _ in range(10):
        y = torch.randint(0, 10, (32,))
        optimizer.zero_grad()
        cross_entropy(model(classes[y] + torch.randn(32, 3, 32, 32)), y).backward()
        optimizer.step()
    return torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None])


def bits(shares: list[float]) -> None:
    """Print the bits of a kept entry, on random positions and on those of a real gradient."""
    gradient = real_gradient()
    n = len(gradient)
    noise = torch.randn(n, generator=torch.Generator().manual_seed(0))
    print(f"\nbits of a kept entry, {n / 1e6:.1f} M parameters; entropy: H(CR) / CR, the least for random positions")
    columns = ("entropy", "index", "/ entropy", "int8", "bfloat16", "float32", "int8 budget", f"{NAIVE_BITS} / int8")
    print(f"{'CR':>6}  {'positions':14}" + "".join(f"{column:>12}" for column in columns))
    for share in shares:
        k = int(n * share)
        for name, values in (("random", noise), ("real gradient", gradient)):
            sparse = ExactTopK(k).pick(values)
            coded = {kind: encode(sparse, n, value_type=kind) for kind in ("int8", "bfloat16", "float32")}
            whole = {kind: 8 * message.message.numel() / k for kind, message in coded.items()}
            index, least = 8 * coded["int8"].index_bytes / k, entropy_bits(share)
            budget = 8 * budget_bytes(n, k, "int8") / k
            row = (least, index, index / least, *whole.values(), budget, NAIVE_BITS / whole["int8"])
            print(f"{share:6g}  {name:14}" + "".join(f"{number:12.3f}" for number in row))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--turns", type=int, default=7)
    parser.add_argument("--parameters", type=int, nargs="+", default=[60_000_000, 1_000_000])
    parser.add_argument("--ratios", type=float, nargs="+", default=[0.1, 0.01, 0.001])
    options = parser.parse_args()
    print(f"{os.cpu_count()} cores, {torch.get_num_threads()} threads, torch {torch.__version__}")
    bits(options.ratios)
    for n in options.parameters:
        for share in options.ratios:
            speed(n, share, options.turns)
    return 0


if __name__ == "__main__":
    sys.exit(main())
