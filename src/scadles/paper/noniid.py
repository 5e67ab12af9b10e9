"""One label a device against all labels everywhere, by what is done about it (paper, sections II and V).

The paper trains with BatchNorm and lets every device keep its own running statistics. Beside that stand our default,
which averages them, the paper's data injection on each of the two, and GroupNorm, which moves no data.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from scadles.config import RunConfig, load_config
from scadles.config.tree import merged
from scadles.observe.paper_plots import Curve, CurvePanel, plot_panels
from scadles.paper import learning
from scadles.paper.experiment import Experiment, Options, Outcome
from scadles.paper.learning import Learnt
from scadles.paper.published import CONVERGENCE, NON_IID
from scadles.paper.runs import Runs
from scadles.paper.settings import label
from scadles.paper.table import Cell, Quantity, Row, Table

DEVICES = 10
BATCH = 16
SEEDS = (0, 1, 2)
SPLITS: Mapping[str, str] = {"iid": "all everywhere", "labels": "one a device"}
NETWORK = "resnet152"
_INJECTION = {"injection": {"alpha": 0.5, "beta": 0.5}}


@dataclass(frozen=True)
class Way:
    """What is done about labels that lie unequally.

    Attributes:
        title: in tables and pictures.
        settings: of its runs.
        base: the way whose accuracy with all labels everywhere it is measured against; itself by default.
        role: its colour.
        style: of its line.
    """

    title: str
    settings: Mapping[str, Any]
    role: str
    base: str | None = None
    style: str = "line"


_LOCAL = {"aggregation": {"batchnorm": "local"}}
WAYS: Mapping[str, Way] = {
    "own": Way("own statistics", _LOCAL, "ddl"),
    "averaged": Way("averaged", {}, "rule"),
    "own-injected": Way("own (.5, .5)", _LOCAL | _INJECTION, "ddl", "own", "dashed"),
    "averaged-injected": Way("averaged (.5, .5)", _INJECTION, "rule", "averaged", "dashed"),
    "group": Way("GroupNorm", {"normalization": "group"}, "ours"),
}
Key = tuple[str, str, int]
Results = Mapping[Key, Learnt]


@dataclass(frozen=True)
class Size:
    """How large the runs are: side of the pictures, test samples, steps, and tests spread over them."""

    side: int
    test_samples: int
    steps: int
    tests: int


FULL = Size(32, 1000, 600, 60)
QUICK = Size(16, 500, 300, 30)
_TITLE = "One label a device: what becomes of accuracy, and what helps"
_QUANTITIES = tuple(Quantity(way.title, "%", ".1f") for way in WAYS.values())
_CHANGES = tuple(Quantity(f"change: {way.title}", "points", "+.1f") for way in WAYS.values())
_KEYS = ("labels", "seed")


def measure(options: Options, runs: Runs) -> Outcome:
    """Train in every way with all labels everywhere and with one label a device, and compare."""
    size = QUICK if options.quick else FULL
    keys = [key for name in WAYS for split in SPLITS for seed in SEEDS if needed(key := (name, split, seed))]
    configs = {key: run_config(options, size, key) for key in keys}
    names = {key: label("noniid", *key) for key in keys}
    weights = {names[key]: 3.0 if configs[key].injection.on else 1.0 for key in keys}
    folders = runs.get({names[key]: config for key, config in configs.items()}, weights)
    results = {key: learning.learnt(folders[names[key]]) for key in keys}
    tables = (
        Table(f"{_TITLE}: final accuracy", _KEYS, _QUANTITIES, accuracy_rows(results), _remarks(options, size)),
        Table(f"{_TITLE}: against all labels everywhere", _KEYS, _CHANGES, change_rows(results), claims(results)),
    )
    panels = [_panel(results, split) for split in SPLITS]
    return Outcome(tables, partial(plot_panels, _TITLE, panels, columns=2))


def needed(key: Key) -> bool:
    """Whether there is such a run: where all labels are everywhere, nothing has to be injected."""
    name, split, _ = key
    return split != "iid" or WAYS[name].base is None


def run_config(options: Options, size: Size, key: Key) -> RunConfig:
    """Return the settings of one run."""
    name, split, seed = key
    pictures = {
        "dataset": "synthetic-images",
        "classes": DEVICES,
        "shape": [3, size.side, size.side],
        "test_samples": size.test_samples,
    }
    shared = {
        "seed": seed,
        "devices": DEVICES,
        "model": "cnn",
        "picture": False,
        "steps": size.steps,
        # labels come equally often, as in the test set, and every way gets the same rate whatever it trains on
        "stream": {"rates": BATCH},
        "lr": {"scaling": "none"},
        "data": {"partition": split} | ({"dataset": options.data} if options.data else pictures),
        "evaluation": {"every_s": size.steps / size.tests},
    }
    return load_config(merged(shared, WAYS[name].settings))


def accuracy_rows(results: Results) -> list[Row]:
    """Return the final accuracy of each way, with labels as they are, over all seeds and of each."""
    rows = []
    for split, title in SPLITS.items():
        mean = [Cell(_mean(results, name, split), _paper(name, split), note=_note(name, split)) for name in WAYS]
        of_seeds = [[Cell(_final(results, name, split, seed)) for name in WAYS] for seed in SEEDS]
        rows += _rows(title, [mean, *of_seeds])
    return rows


def change_rows(results: Results) -> list[Row]:
    """Return by how much each way with one label a device differs from its base with all of them."""
    paper = [_difference(_paper(name, "labels"), _paper(WAYS[name].base or name, "iid")) for name in WAYS]
    mean = [Cell(change(results, name), printed) for name, printed in zip(WAYS, paper, strict=True)]
    return _rows(SPLITS["labels"], [mean, *([Cell(change(results, name, seed)) for name in WAYS] for seed in SEEDS)])


def _rows(title: str, cells: Sequence[Sequence[Cell]]) -> list[Row]:
    """Return a row of the means over all seeds, and one for each seed."""
    return [Row((title, seed), tuple(row)) for seed, row in zip(("mean", *map(str, SEEDS)), cells, strict=True)]


def change(results: Results, name: str, seed: int | None = None) -> float:
    """Return the points that a way gains with one label a device, of one seed or on average; a loss is negative."""
    base = WAYS[name].base or name
    seeds = SEEDS if seed is None else (seed,)
    pairs = [(results[name, "labels", s].final, results[base, "iid", s].final) for s in seeds]
    return 100 * float(np.mean([there - here for there, here in pairs]))


def claims(results: Results) -> tuple[str, ...]:
    """Return what the numbers come to, whether they are as expected or not."""
    lost, lost_averaged = -change(results, "own"), -change(results, "averaged")
    injected = {name: -change(results, name) for name in ("own-injected", "averaged-injected")}
    won = [f"{1 - rest / lost:.0%} with {WAYS[name].title}" for name, rest in injected.items()] if lost > 0 else ["–"]
    return (
        f"As published (own statistics) one label a device costs {lost:.1f} points; with averaged statistics it costs "
        f"{lost_averaged:.1f}. Injection wins back of the published loss: {', '.join(won)}.",
        f"GroupNorm, which shares no sample, changes by {change(results, 'group'):+.1f} points.",
    )


def _remarks(options: Options, size: Size) -> tuple[str, ...]:
    what = options.data or f"synthetic images of {size.side} x {size.side}, 10 classes"
    return (
        "The paper trains ResNet152 on CIFAR10 with 10 devices of one label each and reports top-5 accuracy. We train "
        f"a network of three convolutions on {what}, with {DEVICES} devices, and report top-1.",
        f"{size.steps} steps of all, {BATCH} own samples a device in each; learning rate 0.05, momentum 0.9, no "
        "schedule, and not scaled where injection makes batches larger. Final: the mean of the last tenth of "
        f"{size.tests} tests; of own statistics, the mean of all devices' own models.",
        "Injection: (.5, .5), the most of the paper: in each step five devices send half their batch to all others, "
        "who train on it as well, so that steps with it are on 3.25 times as many samples.",
        "IID in the paper: the mean of DDL's final accuracies over the four sets of streams, 16 devices.",
    )


def _note(name: str, split: str) -> str:
    notes = {
        ("own", "labels"): "the text; the figure of injection gives 67.2 without it",
        ("own-injected", "labels"): "read off the figure of injection",
    }
    return notes.get((name, split), "")


def _paper(name: str, split: str) -> float | None:
    """Return the paper's accuracy in percent; it has no averaged statistics and no GroupNorm."""
    if split == "iid":
        finals = [CONVERGENCE[key][0].final for key in CONVERGENCE if key[0] == NETWORK]
        return sum(finals) / len(finals) if name == "own" else None
    return {"own": NON_IID[NETWORK].saturates, "own-injected": NON_IID[NETWORK].injected}.get(name)


def _difference(there: float | None, here: float | None) -> float | None:
    return None if there is None or here is None else there - here


def _final(results: Results, name: str, split: str, seed: int) -> float | None:
    key = (name, split, seed)
    return 100 * results[key].final if key in results else None


def _mean(results: Results, name: str, split: str) -> float | None:
    values = [value for seed in SEEDS if (value := _final(results, name, split, seed)) is not None]
    return float(np.mean(values)) if values else None


def _panel(results: Results, split: str) -> CurvePanel:
    curves = [_curve(name, [results[name, split, seed] for seed in SEEDS]) for name in WAYS if needed((name, split, 0))]
    return CurvePanel(
        title=f"labels: {SPLITS[split]}",
        y_label="top-1 accuracy (%)",
        x_label="step",
        curves=curves,
        y_range=(0, 102),
    )


def _curve(name: str, learnt: Sequence[Learnt]) -> Curve:
    tests = min(len(one.accuracy) for one in learnt)
    steps = np.searchsorted(learnt[0].step_time_s, learnt[0].time_s[:tests]) + 1
    mean = np.mean([100 * one.accuracy[:tests] for one in learnt], axis=0)
    return Curve(WAYS[name].title, steps, mean, WAYS[name].role, WAYS[name].style)


NONIID_EXPERIMENT = Experiment(
    "noniid", "accuracy with one label a device, and what helps: injection, GroupNorm", measure, learns=True
)
