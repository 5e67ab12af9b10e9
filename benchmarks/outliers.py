"""What ``aggregation.outliers: reject`` costs honest fleets, and what it saves where one device of eight lies.

    python benchmarks/outliers.py            # all of it: some minutes
    python benchmarks/outliers.py --part honest | attacks | cost

``honest`` and ``attacks`` are simulated: steps and accuracies are the same on every machine. ``cost`` is timed.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from scadles import assembly
from scadles.assembly.exchange import build_tail_check
from scadles.config import load_config
from scadles.fabric.hub.collectives import problem_of
from scadles.fabric.hub.frames import PIECE_BYTES
from scadles.observe import Summary
from scadles.simulation.simulator import Simulator

SEEDS = range(3)
LIAR, DEVICES, TARGET = 5, 8, 0.93
STEPS, TARGET_STEPS, BATCH = 200, 400, 16
GRADIENT_BYTES = 44_000_000
PARTITIONS: dict[str, dict[str, Any]] = {
    "shared (IID)": {"partition": "shared"},
    "Dirichlet 0.1": {"partition": "dirichlet", "alpha": 0.1},
    "fewest labels a device": {"partition": "labels"},
}
COMPRESSION = {"ratio": 0.1, "gate": "always", "values": "float32", "reduction": "gather"}


def settings(devices: int, seed: int, outliers: str, **more: Any) -> dict[str, Any]:
    """Return a fleet with equal streams, so that a step is a batch of each."""
    return {
        "method": "ddl",
        "model": "mlp",
        "devices": devices,
        "seed": seed,
        "picture": False,
        "stream": {"rates": [BATCH] * devices},
        "batch": {"size": BATCH, "max_wait_s": 60},
        "evaluation": {"every_s": 1.0},
        "aggregation": {"outliers": outliers},
        **more,
    }


def simulated(tree: dict[str, Any], spoil: Callable[[Tensor], object] | None = None, liar: int = LIAR) -> Summary:
    """Return what came of a run in which one device spoils what it sends after all of its own checks."""
    config = load_config(tree)
    dataset = assembly.build_dataset(config)
    simulator = Simulator(config, dataset, assembly.build_network(config, dataset))
    if spoil is not None:
        lie(simulator.learner.exchange, spoil, liar)
    summary = simulator.run()
    if summary.ended_by == "stopped":
        raise KeyboardInterrupt
    return summary


def lie(exchange: Any, spoil: Callable[[Tensor], object], liar: int) -> None:
    """Let one device's gradients be spoilt on their way."""
    compressors = getattr(exchange, "compressors", None)
    if compressors is not None:  # what is compressed is spoilt behind its selection and residual
        reducer = compressors[liar].reducer
        message = reducer.message

        def lie_in(*about: Any) -> Tensor:
            honest = reducer._picked
            spoil(reducer)
            sent: Tensor = message(*about)
            reducer._picked = honest
            return sent

        reducer.message = lie_in
        return
    take = exchange.take_update

    def take_and_lie(device: int) -> None:
        take(device)
        if device == liar:
            spoil(exchange.updates[device])

    exchange.take_update = take_and_lie


def garbage(reducer: Any) -> None:
    """Put values to other places, drawn anew in each step."""
    places = torch.randperm(reducer.n)[: reducer._picked.entries].sort().values
    reducer._picked = reducer._picked._replace(indices=places)


def of_values(change: Callable[[Tensor], object]) -> Callable[[Any], None]:
    """Return what changes the values that a compressed message is made of."""

    def spoil(reducer: Any) -> None:
        values = reducer._picked.values.clone()
        change(values)
        reducer._picked = reducer._picked._replace(values=values)

    return spoil


def thousandfold(values: Tensor) -> object:
    return values.mul_(1000.0)


def backwards(values: Tensor) -> object:
    return values.neg_()


def no_number(values: Tensor) -> object:
    return values.fill_(float("nan"))


ATTACKS: dict[str, tuple[bool, Callable[[Any], object]]] = {
    "times 1000": (False, thousandfold),
    "backwards": (False, backwards),
    "NaN": (False, no_number),
    "times 1000, compressed": (True, of_values(thousandfold)),
    "backwards, compressed": (True, of_values(backwards)),
    "garbage positions, compressed": (True, garbage),
}


def honest() -> None:
    """Print accuracies of honest fleets, and how many gradients were set aside, over seeds."""
    print("| labels | devices | accept | reject | set aside of all gradients |\n|---|---|---|---|---|")
    for name, data in PARTITIONS.items():
        for devices in (8, 16):
            cells, aside = [], 0
            for outliers in ("accept", "reject"):
                found = []
                for seed in SEEDS:
                    # ten digits: one for each of 16 devices, two for each of 8, so that each is somewhere
                    fewest = {"labels_per_device": 1 if devices >= 10 else 2} if data["partition"] == "labels" else {}
                    more = {"data": data | fewest, "steps": STEPS, "stop_at_target": False}
                    summary = simulated(settings(devices, seed, outliers, **more))
                    found.append(100 * float(summary.final_accuracy or 0.0))
                    aside += sum(outlier.steps for outlier in summary.outliers)
                cells.append(f"{statistics.mean(found):.1f} ± {statistics.stdev(found):.1f}")
            print(f"| {name} | {devices} | {cells[0]} | {cells[1]} | {aside} of {len(SEEDS) * STEPS * devices} |")


def attacks() -> None:
    """Print steps to the target of seven honest devices, and of these and a liar."""
    print("| attack | seven alone | with the liar, reject | ratio | set aside |\n|---|---|---|---|---|")
    for name, (compressed, spoil) in ATTACKS.items():
        compression = {"compression": COMPRESSION, "optimizer": {"momentum": 0.0}} if compressed else {}
        more = {"steps": TARGET_STEPS, "target_accuracy": TARGET, "stop_at_target": True, **compression}
        alone, rejected, aside = [], [], 0
        for seed in SEEDS:
            alone.append(simulated(settings(DEVICES - 1, seed, "accept", **more)).steps)
            summary = simulated(settings(DEVICES, seed, "reject", **more), spoil)
            rejected.append(summary.steps if summary.ended_by == "target" else TARGET_STEPS)
            aside += sum(outlier.steps for outlier in summary.outliers)
        ratio = sum(rejected) / sum(alone)
        print(f"| {name} | {alone} | {rejected} | {ratio:.2f} | {aside} of {sum(rejected)} |")


def cost() -> None:
    """Print what the always-on checks of a hub cost beside adding up, for a gradient of 44 MB."""
    check = build_tail_check(load_config({"steps": 1, "devices": DEVICES, "fabric": {"backend": "hub"}}))
    values = PIECE_BYTES // 4
    pieces = GRADIENT_BYTES // PIECE_BYTES
    other, piece = (np.random.default_rng(seed).normal(size=values).astype(np.float32) for seed in (0, 1))

    def timed(work: Callable[[int], object]) -> float:
        seconds = []
        for _ in range(21):
            began_s = time.perf_counter()
            for number in range(pieces):
                work(number)
            seconds.append(time.perf_counter() - began_s)
        return 1e3 * statistics.median(seconds)

    sums = timed(lambda _: np.add(piece, other, out=other))
    finite = timed(lambda _: problem_of(piece))
    tails = timed(lambda number: check.problem(0, piece, (pieces - 1 - number) * values + values))
    print(
        f"44 MB in pieces of 1 MiB: adding {sums:.2f} ms, finiteness {finite:.2f} ms, reports {tails:.3f} ms a device"
    )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--part", choices=("honest", "attacks", "cost"))
    part = parser.parse_args().part
    torch.set_num_threads(1)
    for name, work in {"attacks": attacks, "honest": honest, "cost": cost}.items():
        if part in (None, name):
            work()
