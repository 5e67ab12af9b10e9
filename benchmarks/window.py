"""Stream time to the target over the window, fixed and chosen, simulated; and where rates and links change tenfold.

Sixteen devices, one hidden layer, synthetic images of 16 x 16, dense gradients unless other ratios are asked for. A
cell is a cost profile and a set of rates. Beside the fixed ones are the window that is chosen, with other ratios window
and ratio, and both with the learning rate. In the runs that change, rates and links are ten times what they were from a
moment on (``up``), or a tenth (``down``). A run that does not reach the target in time counts as ``never``. Time
is virtual: other work on the machine changes nothing. With ``--out`` also a figure: time to the target over the window,
the chosen one marked.

    python benchmarks/window.py [--cells k80-resnet152:S1 ...] [--windows 0.1 0.25 0.5 1 2] [--ratios none 0.1 0.01]
                                [--seeds 3] [--jobs 2] [--change up down] [--settings FILE.yaml] [--out DIR] [--quick]
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple
from unittest import mock

import numpy as np
import torch
import yaml

from scadles.config import load_config
from scadles.config.tree import merged
from scadles.paper.learning import AUTO, STEPS
from scadles.simulation import simulate
from scadles.streams.profile import RateProfile

CELLS = ("k80-resnet152:S1", "k80-resnet152:S2", "k80-vgg19:S1", "k80-vgg19:S2")
#: What is chosen in the place of a fixed window and ratio.
CHOSEN: dict[str, dict[str, Any]] = {
    "window": {"batch": {"window": "auto"}},
    "and ratio": {**STEPS},
    "and rate": {**AUTO},
}
FOREVER_S = 1e6
TENFOLD = 10.0
#: Of each direction: what rates and links are multiplied by before and after, and the moment between.
CHANGES = {"up": (1.0, TENFOLD, 100.0), "down": (TENFOLD, 1.0, 12.0)}

SOONER = 0.25  # the moment of runs that are quick


class Run(NamedTuple):
    """What a run came to: stream seconds to the target, None where it was not reached; and the window at the end."""

    time_s: float | None
    window_s: float


def names(options: argparse.Namespace) -> list[str]:
    """Return what is compared: fixed windows with each ratio, and what is chosen."""
    fixed = [f"{window} s, {ratio}" for ratio in options.ratios for window in options.windows]
    return [*fixed, *(["window"] if options.ratios == ["none"] else ["and ratio"]), "and rate"]


def compared(name: str) -> dict[str, Any]:
    """Return the settings of what is compared."""
    if name in CHOSEN:
        return CHOSEN[name]
    window, ratio = name.split(" s, ")
    compression = {} if ratio == "none" else {"compression": {"ratio": float(ratio), "gate": "always"}}
    return {"batch": {"window_s": float(window)}, **compression}


def settings(cell: str, name: str, seed: int, options: argparse.Namespace) -> dict[str, Any]:
    """Return the settings of one run."""
    profile, rates = cell.split(":")
    common = {
        "devices": 16,
        "seed": seed,
        "model": "mlp",
        "picture": False,
        "stream": {"rates": rates},
        "cost": {"profile": profile},
        "data": {"dataset": "synthetic-images", "shape": [1, 16, 16], "classes": 10, "test_samples": 1000},
        "target_accuracy": options.target,
        "duration_s": options.until,
        "evaluation": {"every_s": 0.25},
    }
    return merged(merged(common, compared(name)), options.settings)


def change(tree: dict[str, Any], before: float, after: float, at_s: float) -> dict[str, Any]:
    """Return settings whose links are multiplied by two factors, one until a moment and one from then on."""
    link = load_config(tree).cost.link
    varied = {"times_s": [0, at_s], "factors": [before, after]}
    ends = {end: {"value": getattr(link, end), **varied} for end in ("up_bps", "down_bps")}
    return merged(tree, {"cost": {"link": ends}})


def run(options: argparse.Namespace, cell: str, name: str, seed: int, direction: str | None = None) -> Run:
    """Simulate one run."""
    torch.set_num_threads(1)
    tree, constant = settings(cell, name, seed, options), RateProfile.constant
    if direction is not None:
        before, after, at_s = CHANGES[direction]
        at_s *= SOONER if options.quick else 1.0
        tree = change(tree, before, after, at_s)

        def constant(rate_hz: float) -> RateProfile:
            return RateProfile(np.array([at_s, FOREVER_S]), rate_hz * np.array([before, after]))

    with tempfile.TemporaryDirectory() as folder, mock.patch.object(RateProfile, "constant", constant):
        summary = simulate(tree, out=Path(folder) / "run", quiet=True)
    window_s = summary.window.window_s if summary.window is not None else tree["batch"]["window_s"]
    return Run(summary.time_to_target_s, window_s)


def told(runs: list[Run]) -> str:
    """Return mean and spread of the times to the target."""
    times = [one.time_s for one in runs if one.time_s is not None]
    if len(times) < len(runs):
        return "never" if not times else f"{len(runs) - len(times)} of {len(runs)} never"
    spread = f" ± {statistics.stdev(times):.1f}" if len(times) > 1 else ""
    return f"{statistics.mean(times):.1f}{spread}"


def table(title: str, found: dict[str, list[Run]]) -> None:
    """Print one cell."""
    reached = {name: statistics.mean(run.time_s for run in runs) for name, runs in found.items() if all_reached(runs)}
    fixed = {name: time_s for name, time_s in reached.items() if name not in CHOSEN}
    best = min(fixed, key=fixed.__getitem__, default=None)
    print(f"\n{title}")
    for name, runs in found.items():
        chosen = f"  at {statistics.mean(run.window_s for run in runs):.3g} s in the end" if name in CHOSEN else ""
        print(f"  {name:>12}  {told(runs):>16} s{chosen}")
    for name in CHOSEN.keys() & reached.keys() if best is not None else ():
        print(f"  {name}: {reached[name] / fixed[best]:.2f} times what the best fixed one takes ({best})", flush=True)


def all_reached(runs: list[Run]) -> bool:
    """Whether all runs reached the target."""
    return all(run.time_s is not None for run in runs)


def draw(cells: dict[str, dict[str, list[Run]]], until_s: float, path: Path) -> None:
    """Draw time to the target over the window, a panel for each cell."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    columns = min(2, len(cells))
    rows = -(-len(cells) // columns)
    figure, axes = plt.subplots(rows, columns, figsize=(6 * columns, 3.6 * rows), squeeze=False, layout="constrained")
    for panel, (title, found) in zip(axes.flat, cells.items(), strict=False):
        for name, runs in found.items():
            colour, marker = ("#e8590c", "*") if name in CHOSEN else ("#0b6bcb", "o")
            for one in runs:
                reached = one.time_s is not None
                at = (one.window_s, one.time_s if one.time_s is not None else until_s)
                panel.plot(*at, marker if reached else "x", color=colour, ms=10 if name in CHOSEN else 6)
        for runs in (runs for name, runs in found.items() if name in CHOSEN and all_reached(runs)):
            panel.axhline(statistics.mean(run.time_s or 0 for run in runs), color="#e8590c", lw=0.8, ls=":")
        panel.set(title=title, xscale="log", xlabel="window, seconds", ylabel="stream seconds to the target", ylim=0)
    figure.suptitle("fixed windows (dots), the chosen ones (stars) and what was never reached (cross)", fontsize=10)
    figure.savefig(path, dpi=100)
    print(f"\npicture: {path}")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cells", nargs="+", default=list(CELLS), help="PROFILE:RATES")
    parser.add_argument("--windows", nargs="+", default=["0.1", "0.25", "0.5", "1", "2"], help="fixed ones, seconds")
    parser.add_argument("--ratios", nargs="+", default=["none"], help="of compression, beside each window")
    parser.add_argument("--change", nargs="*", default=list(CHANGES), choices=list(CHANGES), help="tenfold, first cell")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--jobs", type=int, default=1, help="processes")
    parser.add_argument("--target", type=float, default=0.9, help="accuracy")
    parser.add_argument("--until", type=float, default=400.0, help="stream seconds after which a run never reaches it")
    parser.add_argument("--settings", type=lambda path: yaml.safe_load(Path(path).read_text()), default={})
    parser.add_argument("--out", type=Path, help="folder for the figure")
    parser.add_argument("--quick", action="store_true", help="one cell, one seed, two windows, an easy target")
    options = parser.parse_args()
    if options.quick:
        options.cells, options.windows, options.seeds = options.cells[:1], ["0.5", "1"], 1
        options.target, options.change = min(options.target, 0.4), options.change[:1]
    wanted = [(cell, None) for cell in options.cells]
    wanted += [(options.cells[0], direction) for direction in options.change]
    cells: dict[str, dict[str, list[Run]]] = {}
    with ProcessPoolExecutor(options.jobs) as pool:
        for cell, direction in wanted:
            tasks = [(name, seed) for name in names(options) for seed in range(options.seeds)]
            work = partial(run, options, cell, direction=direction)
            runs = list(pool.map(work, *zip(*tasks, strict=True)))
            title = cell.replace(":", " ") + (f", tenfold {direction}" if direction else "")
            cells[title] = {
                name: [one for one, (other, _) in zip(runs, tasks, strict=True) if other == name]
                for name in names(options)
            }
            table(title, cells[title])
    if options.out is not None:
        options.out.mkdir(parents=True, exist_ok=True)
        draw(cells, options.until, options.out / "window.png")
    return 0


if __name__ == "__main__":
    sys.exit(main())
