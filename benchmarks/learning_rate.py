"""Learning rates that are too high, streams that burst and labels that change: what ``lr.guard`` and ``adascale`` do.

    python benchmarks/learning_rate.py            # all of it: a quarter of an hour
    python benchmarks/learning_rate.py --quick    # one seed, fewer rates
    python benchmarks/learning_rate.py --part rates | bursts | drift | fast | residual

All of it is simulated: accuracies and times are the same on every machine, but for rounding.
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Sequence
from typing import Any
from unittest import mock

import torch

from scadles import assembly
from scadles.config import load_config
from scadles.config.tree import merged
from scadles.exchange.reduction import Compressor
from scadles.observe import Summary
from scadles.simulation.gradients import Lookup
from scadles.simulation.simulator import Simulator

CLUSTER: dict[str, Any] = {
    "devices": 8,
    "model": "mlp",
    "steps": 200,
    "picture": False,
    "evaluation": {"every_s": 10},
    "simulation": {"threads": 1},
}
BURSTS = {"profile": {"name": "bursts", "period_s": 40, "duty": 0.1}}
#: Fast streams, whose batches are some five times the base batch.
FAST: dict[str, Any] = {
    "devices": 16,
    "model": "mlp",
    "picture": False,
    "duration_s": 50,
    "target_accuracy": 0.9,
    "stop_at_target": False,
    "stream": {"rates": "S2"},
    "data": {"dataset": "synthetic-images", "shape": [1, 16, 16], "test_samples": 1000},
    "cost": {"profile": "k80-resnet152"},
    "evaluation": {"every_s": 1},
    "simulation": {"threads": 1},
}
GUARD, ADASCALE = {"lr": {"guard": True}}, {"lr": {"scaling": "adascale"}}
WAYS: dict[str, dict[str, Any]] = {"linear": {}, "linear, guard": GUARD, "adascale": ADASCALE}
COMPRESSED = {"compression": {"ratio": 0.1, "gate": "always"}}
DRIFT_AFTER = 60


def simulated(tree: dict[str, Any], seed: int, drift_after: int | None = None) -> Summary:
    """Return what came of a run, whose labels are others after a step."""
    config = load_config(merged(tree, {"seed": seed}))
    dataset = assembly.build_dataset(config)
    torch.manual_seed(seed)
    simulator = Simulator(config, dataset, assembly.build_network(config, dataset))
    look_up = Lookup.__call__

    def drifted(self: Lookup, *what: Any) -> Any:
        x, y = look_up(self, *what)
        has_changed = drift_after is not None and simulator.learner.step_number >= drift_after
        return x, (y + 1) % dataset.classes if has_changed else y

    with mock.patch.object(Lookup, "__call__", drifted):
        summary = simulator.run()
    if summary.ended_by == "stopped":
        raise KeyboardInterrupt
    return summary


def row(name: str, tree: dict[str, Any], seeds: Sequence[int], drift_after: int | None = None) -> None:
    """Print what came of runs with these seeds."""
    runs = [simulated(tree, seed, drift_after) for seed in seeds]
    accuracies = ", ".join(f"{run.final_accuracy:.3f}" for run in runs if run.final_accuracy is not None)
    times = [run.time_to_target_s for run in runs]
    reached = "" if runs[0].target_accuracy is None else f" | {', '.join(f'{t:.1f}' if t else 'never' for t in times)}"
    found = ", ".join("0" if r.diverged is None else f"{r.diverged.went_back} of {r.diverged.tried}" for r in runs)
    scale = statistics.mean(run.lr_scale_mean for run in runs)
    print(f"| {name} | {accuracies}{reached} | {found} | {scale:.2f} |", flush=True)


def rates(seeds: Sequence[int], *, quick: bool) -> None:
    """Base rates that are right, and far too high."""
    for lr in (0.05, 5.0) if quick else (0.05, 0.5, 5.0, 20.0, 50.0):
        for name in ("linear", "linear, guard"):
            row(f"rate {lr:g}, {name}", merged(merged(CLUSTER, WAYS[name]), {"optimizer": {"lr": lr}}), seeds)


def bursts(seeds: Sequence[int], *, quick: bool) -> None:
    """Streams that bring ten times as much in a tenth of the time."""
    for lr in (1.0,) if quick else (0.2, 0.5, 1.0):
        for name, way in WAYS.items():
            row(
                f"bursts, rate {lr:g}, {name}",
                merged(merged(CLUSTER, way), {"optimizer": {"lr": lr}, "stream": BURSTS}),
                seeds,
            )


def drift(seeds: Sequence[int], *, quick: bool) -> None:
    """Labels that change all at once are no divergence (accuracy is on the old ones)."""
    for lr in (0.05,) if quick else (0.05, 0.3, 1.0):
        tree = merged(merged(CLUSTER, GUARD), {"optimizer": {"lr": lr}})
        row(f"labels change after step {DRIFT_AFTER}, rate {lr:g}", tree, seeds, DRIFT_AFTER)


def fast(seeds: Sequence[int], *, quick: bool) -> None:
    """Streams that are always fast."""
    for lr in (1.0,) if quick else (0.5, 1.0, 2.0):
        for name, way in WAYS.items():
            row(f"S2, rate {lr:g}, {name}", merged(merged(FAST, way), {"optimizer": {"lr": lr}}), seeds)


def residual(seeds: Sequence[int], *, quick: bool) -> None:
    """What compression has kept back when training goes back: let go, or kept."""
    tree = merged(merged(CLUSTER, GUARD), {"optimizer": {"lr": 5.0}, **COMPRESSED})
    row("let go", tree, seeds)
    with mock.patch.object(Compressor, "forget", return_value=None):
        row("kept", tree, seeds)


PARTS = {"rates": rates, "bursts": bursts, "drift": drift, "fast": fast, "residual": residual}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--part", choices=PARTS)
    parser.add_argument("--quick", action="store_true")
    given = parser.parse_args()
    for name in [given.part] if given.part else PARTS:
        columns = "accuracy | seconds to 90 %" if name == "fast" else "accuracy"
        print(f"\n{name}\n\n| run | {columns} | back of tried | mean scale of the rate |")
        PARTS[name](range(1) if given.quick else range(3), quick=given.quick)


if __name__ == "__main__":
    main()
