"""ScaDLES as a whole against DDL (paper, section V, table of overall results)."""

from __future__ import annotations

from functools import partial

from scadles.observe.paper_plots import BarPanel, plot_panels
from scadles.paper import learning
from scadles.paper.convergence import speed_up_bars
from scadles.paper.experiment import Experiment, Options, Outcome
from scadles.paper.learning import KEYS, Key, Learnt
from scadles.paper.published import BATCH, CONVERGENCE, NETWORKS, OVERALL, SETS
from scadles.paper.rules import ddl_step_s, gigabytes, throughput_ratio, waiting_samples
from scadles.paper.runs import Runs
from scadles.paper.table import Cell, Quantity, Row, Table

_QUANTITIES = (
    Quantity("change", "points", "+.2f"),
    Quantity("saved", "GB", ".3g"),
    Quantity("per hour", "GB/h", ".3g"),
    Quantity("speed-up", "times"),
)
_TITLE = "ScaDLES (truncation, weighted, learning-rate scaling, without compression) against DDL"
_REMARKS = (
    "The paper's ScaDLES also compresses (CR 0.1, delta 0.3). Ours does not yet: it is charged for dense gradients.",
    "Change: of the final accuracy. Saved: what waits on the fullest device when the target is reached, DDL less "
    "ScaDLES; an image has 3 KB, 1 GB is 2^30 bytes. Rule: (t S - b) T.",
    "Our small network reaches its target much sooner than the paper's, so less has piled up: compare the saving per "
    "stream hour (the paper's by the hours of DDL in its convergence figure).",
)


def measure(options: Options, runs: Runs) -> Outcome:
    """Train with DDL and with ScaDLES in all eight cells, and compare."""
    learnt = learning.learn(options, runs, ("ddl", "scadles"))
    aims = learning.targets(learnt["ddl"])
    rows = [_row(key, learnt["ddl"][key], learnt["scadles"][key], aims[key[0]], options) for key in KEYS]
    table = Table(_TITLE, ("model", "set"), _QUANTITIES, rows, (*learning.remarks(options, aims), *_REMARKS))
    pictured = {"change": "accuracy change", "per hour": "buffer saved per stream hour"}
    panels = [_bars(network, table, *pair) for pair in pictured.items() for network in NETWORKS]
    panels += [speed_up_bars(network, rows, span=1) for network in NETWORKS]
    return Outcome((table,), partial(plot_panels, "ScaDLES (without compression) against DDL", panels, columns=2))


def _row(key: Key, ddl: Learnt, scadles: Learnt, aim: float, options: Options) -> Row:
    network, paper, rates = NETWORKS[key[0]], OVERALL[key], learning.rates(options, key)
    ddl_s, scadles_s = ddl.time_to(aim), scadles.time_to(aim)
    saved_gb = gigabytes(ddl.held_at(ddl_s) - scadles.held_at(scadles_s))
    step_s = ddl_step_s(rates, network)
    expected = waiting_samples(ddl_s / step_s, step_s, max(rates), BATCH) - max(rates)
    paper_hours = CONVERGENCE[key][0].hours
    return Row(
        (network.title, key[1]),
        (
            Cell(100 * (scadles.final - ddl.final), paper.points),
            Cell(saved_gb, paper.saved_gb, gigabytes(expected)),
            Cell(3600 * saved_gb / ddl_s, paper.saved_gb / paper_hours),
            Cell(learning.speed_up(ddl_s, scadles_s), paper.speed_up, throughput_ratio(rates, network)),
        ),
    )


def _bars(network: str, table: Table, name: str, title: str) -> BarPanel:
    """Return the paper's numbers of one quantity beside ours."""
    index = [quantity.name for quantity in table.quantities].index(name)
    cells = [row.cells[index] for row in table.rows if row.keys[0] == NETWORKS[network].title]
    series = {source: [getattr(cell, source) for cell in cells] for source in ("paper", "ours")}
    quantity = table.quantities[index]
    return BarPanel(
        title=f"{title}, {NETWORKS[network].title}",
        y_label=quantity.unit,
        groups=SETS,
        series=series,
        form=quantity.form,
    )


SPEEDUP = Experiment("speedup", "accuracy, buffer and time: ScaDLES as a whole against DDL", measure, learns=True)
