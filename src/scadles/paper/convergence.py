"""Weighted aggregation against DDL: accuracy over time (paper, section V, figure of convergence)."""

from __future__ import annotations

import math
from functools import partial

import numpy as np

from scadles.observe.paper_plots import BarPanel, Curve, CurvePanel, Panel, plot_panels
from scadles.paper import learning
from scadles.paper.experiment import Experiment, Options, Outcome
from scadles.paper.learning import KEYS, TARGET_SHARE, Key, Learnt
from scadles.paper.published import CONVERGENCE, NETWORKS, PRINTED_SPEED_UP, SETS, TARGET_TOP5
from scadles.paper.rules import throughput_ratio
from scadles.paper.runs import Runs
from scadles.paper.settings import SEED
from scadles.paper.table import Cell, Quantity, Row, Table

_TIMES = (
    Quantity("target", "%", ".1f"),
    Quantity("DDL", "h", ".3g"),
    Quantity("ScaDLES", "h", ".3g"),
    Quantity("speed-up", "times"),
)
_ACCURACIES = (
    Quantity("DDL final", "%", ".1f"),
    Quantity("ScaDLES final", "%", ".1f"),
    Quantity("change", "points", "+.1f"),
    Quantity("DDL best", "%", ".1f"),
    Quantity("ScaDLES best", "%", ".1f"),
)
_TITLE = "Weighted aggregation (ScaDLES, persistence) against DDL"
SOONER = "times sooner at the target"


def measure(options: Options, runs: Runs) -> Outcome:
    """Train with DDL and with weighted aggregation in all eight cells, and compare."""
    learnt = learning.learn(options, runs, ("ddl", "weighted"))[SEED]
    ddl, weighted = learnt["ddl"], learnt["weighted"]
    aims = learning.targets(ddl)
    remarks = learning.remarks(options, aims)
    times = [_time_row(key, ddl[key], weighted[key], aims[key[0]], options) for key in KEYS]
    accuracies = [_accuracy_row(key, ddl[key], weighted[key]) for key in KEYS]
    tables = (
        Table(f"{_TITLE}: stream time to the target", ("model", "set"), _TIMES, times, remarks),
        Table(f"{_TITLE}: accuracy, paper top-5, ours top-1", ("model", "set"), _ACCURACIES, accuracies),
    )
    panels: list[Panel] = [_curves(key, ddl[key], weighted[key], aims[key[0]]) for key in KEYS]
    panels += [bars(network, tables[0], "speed-up", "speed-up", SOONER, span=2) for network in NETWORKS]
    return Outcome(tables, partial(plot_panels, _TITLE, panels, columns=4))


def bars(network: str, table: Table, name: str, title: str, y_label: str = "", span: int = 1) -> BarPanel:
    """Return the paper's numbers of one quantity beside ours; the y axis says the quantity's unit by default."""
    quantity = next(quantity for quantity in table.quantities if quantity.name == name)
    index = table.quantities.index(quantity)
    cells = [row.cells[index] for row in table.rows if row.keys[0] == NETWORKS[network].title]
    return BarPanel(
        title=f"{title}, {NETWORKS[network].title}",
        y_label=y_label or quantity.unit,
        groups=SETS,
        series={
            source: [math.nan if (value := getattr(cell, source)) is None else value for cell in cells]
            for source in ("paper", "ours")
        },
        form=quantity.form,
        span=span,
    )


def _time_row(key: Key, ddl: Learnt, weighted: Learnt, aim: float, options: Options) -> Row:
    network = NETWORKS[key[0]]
    paper_ddl, paper_scadles = CONVERGENCE[key]
    ddl_s, scadles_s = ddl.time_to(aim), weighted.time_to(aim)
    printed = PRINTED_SPEED_UP.get(key)
    note = f"read off the figure; the text prints {printed:g}" if printed else ""
    if math.isinf(paper_scadles.hours):
        note = f"in the paper ScaDLES never gets to {TARGET_TOP5[key[0]]} % here"
    return Row(
        (network.title, key[1]),
        (
            Cell(100 * aim, TARGET_TOP5[key[0]]),
            Cell(ddl_s / 3600, paper_ddl.hours),
            Cell(scadles_s / 3600, paper_scadles.hours),
            Cell(
                learning.speed_up(ddl_s, scadles_s),
                learning.speed_up(paper_ddl.hours, paper_scadles.hours),
                throughput_ratio(learning.rates(options, key), network),
                note,
            ),
        ),
    )


def _accuracy_row(key: Key, ddl: Learnt, weighted: Learnt) -> Row:
    paper_ddl, paper_scadles = CONVERGENCE[key]
    return Row(
        (NETWORKS[key[0]].title, key[1]),
        (
            Cell(100 * ddl.final, paper_ddl.final),
            Cell(100 * weighted.final, paper_scadles.final),
            Cell(100 * (weighted.final - ddl.final), paper_scadles.final - paper_ddl.final),
            Cell(100 * ddl.best),
            Cell(100 * weighted.best),
        ),
    )


def _curves(key: Key, ddl: Learnt, weighted: Learnt, aim: float) -> CurvePanel:
    curves = [
        Curve(name, result.time_s / 3600, 100 * result.accuracy, role)
        for name, role, result in (("DDL", "ddl", ddl), ("ScaDLES, persistence", "scadles", weighted))
    ]
    ends_h = np.array([0.0, ddl.time_s[-1] / 3600])
    goal = f"target, {TARGET_SHARE:.0%} of DDL's best"
    curves.append(Curve(goal, ends_h, np.full(2, 100 * aim), "rule", "dashed"))
    return learning.accuracy_panel(f"{NETWORKS[key[0]].title}, {key[1]}", "stream time (h)", curves)


CONVERGENCE_EXPERIMENT = Experiment(
    "convergence", "time to a target and accuracy: weighted aggregation against DDL", measure, learns=True
)
