"""What sharing samples costs in bytes and buys in accuracy (paper, section V, data injection)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np

from scadles.config import RunConfig, load_config
from scadles.observe import RunFolder
from scadles.observe.paper_plots import Curve, CurvePanel, plot_panels
from scadles.paper import skewed
from scadles.paper.experiment import Experiment, Options, Outcome
from scadles.paper.learning import Learnt, accuracy_panel, learnt, mean_accuracy
from scadles.paper.published import INJECTED_BEST, INJECTED_KB, SAMPLE_BYTES, SETS
from scadles.paper.rules import shared_kilobytes
from scadles.paper.runs import Runs
from scadles.paper.settings import SEED, idle_run, rates_of
from scadles.paper.table import Cell, Quantity, Row, Table

Pair = tuple[float, float]

DEVICES = 10
PAIRS: tuple[Pair, ...] = ((0.5, 0.5), (0.25, 0.25), (0.1, 0.1), (0.05, 0.05))
NONE: Pair = (0.0, 0.0)
# the rates of ten devices are known of two sets; the others are drawn
SPECS: Mapping[str, str] = {name: f"{name}:known" if name.endswith("'") else name for name in SETS}
QUICK_STEPS, FULL_STEPS = 300, 2000
QUICK_SEEDS, FULL_SEEDS = (0,), (0, 1, 2)
_KB = 1024
# samples a second: the smallest batch of which 5 % is a sample
BATCH = 20
_KEYS = ("streams", "(alpha, beta)")
_TRAFFIC = (
    Quantity("a step", "KB", ".1f"),
    Quantity("least", "KB", ".0f"),
    Quantity("most", "KB", ".0f"),
    Quantity("really sent", "KB", ".0f"),
)
_ACCURACY = (Quantity("best", "%", ".1f"), Quantity("final", "%", ".1f"))


@dataclass(frozen=True)
class Traffic:
    """What was shared in each step of a run.

    Attributes:
        counted_once: 3 KB for each sample that a device shared, KB ``[steps]``.
        sent: messages with labels and headers, one to each receiver, KB ``[steps]``.
    """

    counted_once: np.ndarray
    sent: np.ndarray


def measure(options: Options, runs: Runs) -> Outcome:
    """Count what is shared for each set of streams and pair, and learn with one label a device for each pair."""
    size, seeds = skewed.size_of(options), QUICK_SEEDS if options.quick else FULL_SEEDS
    steps = QUICK_STEPS if options.quick else FULL_STEPS
    cells = [(name, pair) for name in SETS for pair in PAIRS]
    moved = {("injection", name, f"{pair[0]:g}"): traffic_run(steps, name, pair) for name, pair in cells}
    taught = {
        ("injection", "labels", f"{pair[0]:g}", seed): learning_run(options, size, pair, seed)
        for pair in (*PAIRS, NONE)
        for seed in seeds
    }
    weights = {name: 1 + 9 * config.injection.alpha for name, config in taught.items()} | dict.fromkeys(moved, 0.05)
    folders = runs.get(moved | taught, weights)
    traffic = {(name, pair): traffic_of(folders["injection", name, f"{pair[0]:g}"]) for name, pair in cells}
    results = {
        pair: [learnt(folders["injection", "labels", f"{pair[0]:g}", seed]) for seed in seeds]
        for pair in (*PAIRS, NONE)
    }
    tables = (
        Table("Samples shared, KB a step", _KEYS, _TRAFFIC, traffic_rows(traffic), traffic_remarks(traffic)),
        Table(
            "One label a device, by what is shared", _KEYS, _ACCURACY, accuracy_rows(results), _remarks(options, size)
        ),
    )
    panels = [_accuracy_panel(results), *(_traffic_panel(name, traffic) for name in SETS)]
    return Outcome(tables, partial(plot_panels, "Data injection: what it moves and what it buys", panels, columns=3))


def traffic_run(steps: int, name: str, pair: Pair) -> RunConfig:
    """Return the settings of a run that learns nothing and shares images of 3 KB."""
    return idle_run(
        method="scadles",
        devices=DEVICES,
        seed=SEED,
        steps=steps,
        stream={"rates": SPECS[name]},
        data={"dataset": "synthetic-images", "shape": [3, 32, 32]},
        batch={"min": 1},
        injection={"alpha": pair[0], "beta": pair[1]},
    )


def learning_run(options: Options, size: skewed.Size, pair: Pair, seed: int) -> RunConfig:
    """Return the settings of a run in which every device has one label and its own running statistics."""
    config = skewed.run_config(options, size, ("resnet152", "own", "labels", seed))
    given = {"stream.rates": BATCH, "injection.alpha": pair[0], "injection.beta": pair[1]}
    return load_config(config, [f"{name}={value}" for name, value in given.items()])


def traffic_of(run: RunFolder) -> Traffic:
    """Return what a run shared; the first step, before rates are known, is left out."""
    shared = sum(run.column(device, "shared")[1:] for device in run.devices)
    payload = sum(run.column(device, "shared_bytes")[1:] for device in run.devices)
    receivers = len(run.devices) - 1
    return Traffic(np.asarray(shared) * SAMPLE_BYTES / _KB, np.asarray(payload) * receivers / _KB)


def traffic_rows(traffic: Mapping[tuple[str, Pair], Traffic]) -> list[Row]:
    """Return a row of each cell: mean, least and most of a step, beside the paper's range."""
    rows = []
    for (name, pair), moved in traffic.items():
        low, high = INJECTED_KB[name][PAIRS.index(pair)]
        rates_hz = rates_of(traffic_run(1, name, pair))
        mean_rule, low_rule, high_rule = shared_kilobytes(rates_hz, *pair)
        counted = moved.counted_once
        cells = (
            Cell(float(counted.mean()), rule=mean_rule),
            Cell(float(counted.min()), low, low_rule),
            Cell(float(counted.max()), high, high_rule),
            Cell(float(moved.sent.mean())),
        )
        rows.append(Row((SPECS[name], _named(pair)), cells))
    return rows


def inside(traffic: Mapping[tuple[str, Pair], Traffic]) -> tuple[list[str], list[str]]:
    """Return the cells whose mean lies in the paper's range, and those of which every single step does."""
    means, spans = [], []
    for (name, pair), moved in traffic.items():
        low, high = INJECTED_KB[name][PAIRS.index(pair)]
        counted = moved.counted_once
        if low <= counted.mean() <= high:
            means.append(f"{name} {_named(pair)}")
        if low <= counted.min() and counted.max() <= high:
            spans.append(f"{name} {_named(pair)}")
    return means, spans


def traffic_remarks(traffic: Mapping[tuple[str, Pair], Traffic]) -> tuple[str, ...]:
    """Return what was counted, and how many cells agree with the paper."""
    means, spans = inside(traffic)
    missed = [f"{name} {_named(pair)}" for name, pair in traffic if f"{name} {_named(pair)}" not in means]
    return (
        f"{DEVICES} devices; each sample counted once, at its sender: 3 KB times the sum over ceil(alpha N) senders of "
        "int(beta S). Really sent: messages with labels and headers, one to each of the nine receivers.",
        f"The mean of a step lies in the paper's range in {len(means)} of {len(traffic)} cells"
        + (f"; not in {', '.join(missed)}." if missed else "."),
        f"Every single step does so in {len(spans)}: {', '.join(spans) or 'none'}. The rule's least and most are "
        "those of the smallest and the largest senders. The paper gives the rates of ten devices for S1' and S2' only; "
        "ranges wider than the rule's, such as 675 KB for S1' (.5, .5), cannot come from these, and narrower ones "
        "leave out senders that are seldom drawn.",
    )


def accuracy_rows(results: Mapping[Pair, Sequence[Learnt]]) -> list[Row]:
    """Return a row of each pair, with means over seeds."""
    rows = []
    for pair, runs in results.items():
        best = 100 * float(np.mean([run.best for run in runs]))
        final = 100 * float(np.mean([run.final for run in runs]))
        paper = INJECTED_BEST["resnet152"][(*PAIRS, NONE).index(pair)]
        rows.append(Row((f"{BATCH} a second each", _named(pair)), (Cell(best, paper), Cell(final))))
    return rows


def _remarks(options: Options, size: skewed.Size) -> tuple[str, ...]:
    what = options.data or f"synthetic images of {size.side} x {size.side}, 10 classes"
    return (
        "The paper trains ResNet152 on CIFAR10, one label a device, and reports the best top-5 accuracy. We train a "
        f"network of three convolutions on {what} for {size.steps} steps and report top-1; BatchNorm keeps each "
        "device's own running statistics, as published. Ten labels make top-5 far easier than top-1.",
        "The paper's VGG19 on CIFAR100 (25 devices of four labels each) comes to "
        f"{', '.join(f'{value:g}' for value in INJECTED_BEST['vgg19'])} % with the same pairs; `noniid` has the first "
        "and the last of these.",
    )


def _named(pair: Pair) -> str:
    return "none" if pair == NONE else f"({pair[0]:g}, {pair[1]:g})".replace("0.", ".")


def _accuracy_panel(results: Mapping[Pair, Sequence[Learnt]]) -> CurvePanel:
    curves = []
    roles = ("ours", "ours", "rule", "rule", "ddl")
    for (pair, runs), role, style in zip(
        results.items(), roles, ("line", "dashed", "line", "dashed", "line"), strict=True
    ):
        curves.append(Curve(_named(pair), *mean_accuracy(runs), role, style))
    return accuracy_panel("one label a device", "step", curves)


def _traffic_panel(name: str, traffic: Mapping[tuple[str, Pair], Traffic]) -> CurvePanel:
    shares = np.array([pair[0] for pair in PAIRS])
    counted = [traffic[name, pair].counted_once for pair in PAIRS]
    paper = np.array(INJECTED_KB[name])
    curves = (
        Curve("counted once", shares, np.array([c.mean() for c in counted]), "ours"),
        Curve("really sent", shares, np.array([traffic[name, p].sent.mean() for p in PAIRS]), "ddl", "dashed"),
        Curve("paper's range", np.tile(shares, 2), paper.T.ravel(), "paper", "points"),
    )
    return CurvePanel(title=name, y_label="KB a step", x_label="alpha = beta", curves=curves, log="y")


INJECTION_EXPERIMENT = Experiment(
    "injection", "KB a step that data injection shares, and the accuracy that it buys", measure, learns=True
)
