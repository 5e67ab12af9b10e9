"""Time to the target over the batch window, with and without compression, and what is chosen by measurement."""

from __future__ import annotations

import math
from collections.abc import Mapping
from functools import partial

import numpy as np

from scadles.config import RunConfig, load_config
from scadles.config.tree import merged
from scadles.observe.paper_plots import Curve, CurvePanel, plot_panels
from scadles.paper import learning
from scadles.paper.experiment import Experiment, Options, Outcome
from scadles.paper.learning import KEYS, Key, Learnt
from scadles.paper.published import NETWORKS
from scadles.paper.runs import Runs, key_of
from scadles.paper.settings import SEED
from scadles.paper.table import Cell, Quantity, Row, Table

WINDOWS_S = (0.1, 0.25, 0.5, 1.0, 2.0)
RATIOS = (None, 0.1, 0.01)
_LATEST = 1.5  # a fixed choice is given up after so many times what the published window takes without compression

_TIMES = tuple(Quantity(f"{window_s:g} s", "s", ".1f") for window_s in WINDOWS_S)
_CHOSEN = (
    Quantity("best fixed", "s", ".1f"),
    Quantity("at window", "s", "g"),
    Quantity("auto", "s", ".1f"),
    Quantity("auto's batch", "s"),
    Quantity("auto over best", ""),
)
_TITLE = "Stream time to the target over the batch window"
_STYLES = {None: ("scadles", "line"), 0.1: ("peak", "line"), 0.01: ("paper", "line")}

#: A cell, CR or None, and a window.
Setting = tuple[str, str, float | None, float]


def measure(options: Options, runs: Runs) -> Outcome:
    """Train with every window and CR in all eight cells until DDL's target is reached, and as chosen."""
    learnt = learning.learn(options, runs, ("ddl", "dense", "steps"))[SEED]
    aims = learning.targets(learnt["ddl"])
    configs = {
        key_of("window", *key, ratio, window_s): _config(
            options, key, ratio, window_s, aims[key[0]], learnt["dense"][key]
        )
        for key in KEYS
        for ratio in RATIOS
        for window_s in WINDOWS_S
    }
    weights = {name: learning.work(config, name[1], own=True) / name[-1] for name, config in configs.items()}
    folders = runs.get(configs, weights)
    times_s = {name[1:]: _reached(folder.summary.time_to_target_s) for name, folder in folders.items()}
    found = [_row(key, ratio, times_s) for key in KEYS for ratio in RATIOS]
    chosen = [_chosen_row(key, ratio, times_s, learnt["steps"][key], aims[key[0]]) for key in KEYS for ratio in RATIOS]
    heads = ("model", "set", "CR")
    remarks = (
        *learning.remarks(options, aims),
        f"One seed. Never: not within {_LATEST:g} times what one second without compression takes.",
    )
    tables = (
        Table(_TITLE, heads, _TIMES, found, remarks),
        Table(f"{_TITLE}: the best fixed one and the one chosen", heads, _CHOSEN, chosen, (_verdict(chosen),)),
    )
    panels = [_panel(key, times_s, learnt["ddl"][key], learnt["steps"][key], aims[key[0]]) for key in KEYS]
    return Outcome(tables, partial(plot_panels, _TITLE, panels, columns=4))


def _config(
    options: Options, key: Key, ratio: float | None, window_s: float, aim: float, published: Learnt
) -> RunConfig:
    config = learning.config_of(options, "dense", *key)
    until_s = min(config.duration_s or math.inf, _LATEST * published.time_to(aim))
    ends = {"duration_s": until_s, "target_accuracy": aim, "stop_at_target": True}
    compression = {} if ratio is None else {"compression": {"ratio": ratio, "gate": "always"}}
    fixed = {"batch": {"window_s": window_s}, **compression, **ends}
    return load_config(merged(config.model_dump(mode="json"), fixed))


def _reached(time_s: float | None) -> float:
    return math.inf if time_s is None else time_s


def _row(key: Key, ratio: float | None, times_s: Mapping[Setting, float]) -> Row:
    cells = [Cell(times_s[key_of(*key, ratio, window_s)]) for window_s in WINDOWS_S]
    return Row(_keys(key, ratio), tuple(cells))


def _chosen_row(key: Key, ratio: float | None, times_s: Mapping[Setting, float], auto: Learnt, aim: float) -> Row:
    best_s, window_s = min((times_s[key_of(*key, ratio, window_s)], window_s) for window_s in WINDOWS_S)
    auto_s = auto.time_to(aim)
    over = auto_s / best_s if math.isfinite(auto_s) and math.isfinite(best_s) else None
    at = window_s if math.isfinite(best_s) else None
    return Row(_keys(key, ratio), (Cell(best_s), Cell(at), Cell(auto_s), Cell(auto.window_s), Cell(over)))


def _keys(key: Key, ratio: float | None) -> tuple[str, str, str]:
    return NETWORKS[key[0]].title, key[1], "dense" if ratio is None else f"{ratio:g}"


def _verdict(rows: list[Row]) -> str:
    """Return by how much auto is later than the best of all fixed choices, cell by cell."""
    best_s: dict[tuple[str, ...], float] = {}
    auto_s: dict[tuple[str, ...], float] = {}
    for row in rows:
        cell = row.keys[:2]
        best_s[cell] = min(best_s.get(cell, math.inf), row.cells[0].ours or math.inf)
        auto_s[cell] = row.cells[2].ours or math.inf
    shares = ", ".join(
        f"{' '.join(cell)} {auto_s[cell] / best_s[cell]:.2f}" for cell in best_s if best_s[cell] < math.inf
    )
    return f"Auto over the best of all windows and ratios that were tried: {shares}."


def _panel(key: Key, times_s: Mapping[Setting, float], ddl: Learnt, auto: Learnt, aim: float) -> CurvePanel:
    ends_s = np.array([WINDOWS_S[0], WINDOWS_S[-1]])
    curves = [Curve("DDL", ends_s, np.full(2, ddl.time_to(aim)), "ddl", "dashed")]
    for ratio, (role, style) in _STYLES.items():
        reached = [(w, t) for w in WINDOWS_S if math.isfinite(t := times_s[key_of(*key, ratio, w)])]
        if reached:
            label = "dense" if ratio is None else f"CR {ratio:g}"
            windows_s, reached_s = np.array(reached).T
            curves.append(Curve(label, windows_s, reached_s, role, style))
    auto_s = auto.time_to(aim)
    if math.isfinite(auto_s):
        curves.append(Curve("chosen by measurement", np.array([auto.window_s]), np.array([auto_s]), "ours", "points"))
    title = f"{NETWORKS[key[0]].title}, {key[1]}"
    return CurvePanel(
        title=title, y_label="stream time to the target (s)", x_label="batch window (s)", curves=curves, log="xy"
    )


WINDOW_EXPERIMENT = Experiment(
    "window", "time to the target over the batch window, with the one chosen by measurement", measure, learns=True
)
