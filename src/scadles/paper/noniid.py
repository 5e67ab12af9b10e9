"""Accuracy with few labels a device, by what is done about it: the tables (paper, sections II and V)."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import numpy as np

from scadles.observe.paper_plots import Curve, CurvePanel, plot_panels
from scadles.paper import learning
from scadles.paper.experiment import Experiment, Options, Outcome
from scadles.paper.published import CONVERGENCE, INJECTED_BEST, NETWORKS, NON_IID
from scadles.paper.runs import Runs, key_of
from scadles.paper.skewed import (
    BATCH,
    SETTINGS,
    SPLITS,
    WAYS,
    Key,
    Results,
    Size,
    keys_of,
    needed,
    run_config,
    samples_of,
    size_of,
)
from scadles.paper.table import Cell, Quantity, Row, Table

_TITLE = "Few labels a device: what becomes of accuracy, and what helps"
_QUANTITIES = tuple(Quantity(way.title, "%", ".1f") for way in WAYS.values())
_CHANGES = tuple(Quantity(f"change: {way.title}", "points", "+.1f") for way in WAYS.values())
_KEYS = ("model", "labels", "seed")


def measure(options: Options, runs: Runs) -> Outcome:
    """Train in every way with all labels everywhere and with few labels a device, and compare."""
    size = size_of(options)
    keys = keys_of(options, size)
    configs = {("noniid", *key): run_config(options, size, key) for key in keys}
    folders = runs.get(configs, {key: samples_of(config) for key, config in configs.items()})
    results = {key: learning.learnt(folders[key_of("noniid", *key)]) for key in keys}
    tables = (
        Table(f"{_TITLE}: final accuracy", _KEYS, _QUANTITIES, accuracy_rows(results), _remarks(options, size)),
        Table(f"{_TITLE}: against all labels everywhere", _KEYS, _CHANGES, change_rows(results), claims(results)),
    )
    panels = [_panel(results, network, split) for network in _networks(results) for split in SPLITS]
    return Outcome(tables, partial(plot_panels, _TITLE, panels, columns=2))


def accuracy_rows(results: Results) -> list[Row]:
    """Return the final accuracy of each way, with labels as they are, over all seeds and of each."""
    rows = []
    for network in _networks(results):
        for split in SPLITS:
            pair = (network, split)
            mean = [Cell(_mean(results, name, *pair), _paper(name, *pair), note=_note(name, *pair)) for name in WAYS]
            seeds = _seeds(results, network)
            of_seeds = [[Cell(_final(results, (network, name, split, seed))) for name in WAYS] for seed in seeds]
            rows += _rows(network, split, [mean, *of_seeds])
    return rows


def change_rows(results: Results) -> list[Row]:
    """Return by how much each way with few labels a device differs from its base with all of them."""
    rows = []
    for network in _networks(results):
        paper = [
            _difference(_paper(name, network, "labels"), _paper(way.base or name, network, "iid"))
            for name, way in WAYS.items()
        ]
        mean = [Cell(change(results, network, name), printed) for name, printed in zip(WAYS, paper, strict=True)]
        of_seeds = [[Cell(change(results, network, name, seed)) for name in WAYS] for seed in _seeds(results, network)]
        rows += _rows(network, "labels", [mean, *of_seeds])
    return rows


def _rows(network: str, split: str, cells: Sequence[Sequence[Cell]]) -> list[Row]:
    """Return a row of the means over all seeds, and one for each seed."""
    keys = NETWORKS[network].title, SETTINGS[network].title(split)
    seeds = ("mean", *map(str, range(len(cells) - 1)))
    return [Row((*keys, seed), tuple(row)) for seed, row in zip(seeds, cells, strict=True)]


def change(results: Results, network: str, name: str, seed: int | None = None) -> float:
    """Return the points that a way gains with few labels a device, of one seed or on average; a loss is negative."""
    base = WAYS[name].base or name
    seeds = _seeds(results, network) if seed is None else (seed,)
    pairs = [(results[network, name, "labels", s].final, results[network, base, "iid", s].final) for s in seeds]
    return 100 * float(np.mean([there - here for there, here in pairs]))


def claims(results: Results) -> tuple[str, ...]:
    """Return what the numbers come to, whether they are as expected or not."""
    return tuple(claim for network in _networks(results) for claim in _claims(results, network))


def _claims(results: Results, network: str) -> tuple[str, str]:
    lost, lost_averaged = -change(results, network, "own"), -change(results, network, "averaged")
    injected = {name: -change(results, network, name) for name in ("own-injected", "averaged-injected")}
    won = [f"{1 - rest / lost:.0%} with {WAYS[name].title}" for name, rest in injected.items()] if lost > 0 else ["–"]
    title, many = NETWORKS[network].title, SETTINGS[network].labels > 1
    few = f"{SETTINGS[network].few} label{'s' if many else ''} a device cost{'' if many else 's'}"
    return (
        f"{title}: as published (own statistics) {few} {lost:.1f} points; with averaged statistics "
        f"{lost_averaged:.1f}. Injection wins back of the published loss: {', '.join(won)}.",
        f"{title}: GroupNorm, which shares no sample, changes by {change(results, network, 'group'):+.1f} points.",
    )


def _remarks(options: Options, size: Size) -> tuple[str, ...]:
    what = options.data or f"synthetic images of {size.side} x {size.side}, 10 classes and 100"
    return (
        "The paper trains ResNet152 on CIFAR10 (10 devices of one label each) and VGG19 on CIFAR100 (25 devices of "
        f"four), and reports top-5 accuracy. We train a network of three convolutions on {what}, and report top-1.",
        f"{size.steps} steps of all, {BATCH} own samples a device in each; learning rate 0.05, momentum 0.9, no "
        "schedule, and not scaled where injection makes batches larger. Final: the mean of the last tenth of "
        f"{size.tests} tests; of own statistics, the mean of all devices' own models.",
        "Injection: (.5, .5), the most of the paper: in each step half of the devices send half their batch to all "
        "others, who train on it as well, so that steps with it are on 3.25 times as many samples (of 25 devices: 7).",
        "IID in the paper: the mean of DDL's final accuracies over the four sets of streams, 16 devices.",
        "Runs with 100 labels are short: accuracy still rises at their end, and jumps up and down by ten points.",
    )


def _note(name: str, network: str, split: str) -> str:
    if split != "labels":
        return ""
    none = INJECTED_BEST[network][-1]
    notes = {
        "own": f"the text; the figure of injection gives {none:g} without it",
        "own-injected": "read off the figure of injection",
    }
    return notes.get(name, "")


def _paper(name: str, network: str, split: str) -> float | None:
    """Return the paper's accuracy in percent; it has no averaged statistics and no GroupNorm."""
    if split == "iid":
        finals = [CONVERGENCE[key][0].final for key in CONVERGENCE if key[0] == network]
        return sum(finals) / len(finals) if name == "own" else None
    return {"own": NON_IID[network].saturates, "own-injected": NON_IID[network].injected}.get(name)


def _difference(there: float | None, here: float | None) -> float | None:
    return None if there is None or here is None else there - here


def _networks(results: Results) -> list[str]:
    return [network for network in SETTINGS if any(key[0] == network for key in results)]


def _seeds(results: Results, network: str) -> list[int]:
    return sorted({key[3] for key in results if key[0] == network})


def _final(results: Results, key: Key) -> float | None:
    return 100 * results[key].final if key in results else None


def _mean(results: Results, name: str, network: str, split: str) -> float | None:
    finals = [_final(results, (network, name, split, seed)) for seed in _seeds(results, network)]
    values = [value for value in finals if value is not None]
    return float(np.mean(values)) if values else None


def _panel(results: Results, network: str, split: str) -> CurvePanel:
    seeds = _seeds(results, network)
    curves = []
    for name, way in WAYS.items():
        if needed(name, split):
            runs = [results[network, name, split, seed] for seed in seeds]
            curves.append(Curve(way.title, *learning.mean_accuracy(runs), way.role, way.style))
    return learning.accuracy_panel(
        f"{NETWORKS[network].title}, labels: {SETTINGS[network].title(split)}", "step", curves
    )


NONIID_EXPERIMENT = Experiment(
    "noniid", "accuracy with few labels a device, and what helps: injection, GroupNorm", measure, learns=True
)
