"""ScaDLES as a whole against DDL (paper, section V, table of overall results)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial

from scadles.observe.paper_plots import plot_panels
from scadles.paper import learning
from scadles.paper.convergence import SOONER, bars
from scadles.paper.experiment import Experiment, Options, Outcome
from scadles.paper.learning import KEYS, Key, Learnt
from scadles.paper.published import BATCH, CONVERGENCE, NETWORKS, OVERALL
from scadles.paper.rules import ddl_step_s, gigabytes, throughput_ratio, waiting_samples
from scadles.paper.runs import Runs
from scadles.paper.table import Cell, Quantity, Row, Table

_VARIANTS = ("ddl", "scadles", "norm", "cost")
_QUANTITIES = (
    Quantity("change", "points", "+.2f"),
    Quantity("saved", "GB", ".3g"),
    Quantity("per hour", "GB/h", ".3g"),
    Quantity("speed-up", "times"),
)
_WAYS = (
    Quantity("change: cost", "points", "+.2f"),
    Quantity("speed-up: cost", "times"),
    Quantity("change: dense", "points", "+.2f"),
    Quantity("speed-up: dense", "times"),
    Quantity("CNC: norm", ""),
    Quantity("CNC: cost", ""),
    Quantity("bytes: norm", "%", ".1f"),
    Quantity("bytes: cost", "%", ".1f"),
)
_TITLE = "ScaDLES with everything on (truncation, weighted, scaled learning rate, compression) against DDL"
_WAYS_TITLE = "ScaDLES against DDL, by what compression does"
_REMARKS = (
    "Compression as in the paper's final evaluation: CR 0.1, delta 0.3, the gate by norm, which compresses all steps "
    "there. The largest tenth of our small network's gradient holds less, so fewer steps are compressed (next table).",
    "Change: of the final accuracy. Saved: what waits on the fullest device when the target is reached, DDL less "
    "ScaDLES; an image has 3 KB, 1 GB is 2^30 bytes. Rule: (t S - b) T.",
    "Our small network reaches its target much sooner than the paper's, so less has piled up: compare the saving per "
    "stream hour (the paper's by the hours of DDL in its convergence figure).",
)
_WAYS_REMARKS = (
    "Paper: the same numbers as above. Norm: as above. Cost: CR 0.1 whenever it saves time, whatever stays behind, and "
    "momentum before selection (Deep Gradient Compression). Dense: no compression at all.",
    "CNC: compressed over all steps. Bytes: sent in a step, as a share of a dense one.",
    "A step of ScaDLES cannot be shorter than the second of stream that is its batch: compression saves at most what "
    "a dense step takes beyond that.",
)


def measure(options: Options, runs: Runs) -> Outcome:
    """Train with DDL, and with ScaDLES with and without compression, in all eight cells, and compare."""
    learnt = learning.learn(options, runs, _VARIANTS)
    aims = learning.targets(learnt["ddl"])
    cells = {key: {name: learnt[name][key] for name in _VARIANTS} for key in KEYS}
    rows = [_row(key, cells[key]["ddl"], cells[key]["norm"], aims[key[0]], options) for key in KEYS]
    ways = [_way_row(key, cells[key], aims[key[0]]) for key in KEYS]
    heads = ("model", "set")
    tables = (
        Table(_TITLE, heads, _QUANTITIES, rows, (*learning.remarks(options, aims), *_REMARKS, _worse(rows, "norm"))),
        Table(_WAYS_TITLE, heads, _WAYS, ways, (*_WAYS_REMARKS, _worse(ways, "cost"))),
    )
    pictured = (
        ("change", "accuracy change"),
        ("per hour", "buffer saved per stream hour"),
        ("speed-up", "speed-up", SOONER),
    )
    panels = [bars(network, tables[0], *which) for which in pictured for network in NETWORKS]
    return Outcome(tables, partial(plot_panels, "ScaDLES with everything on against DDL", panels, columns=2))


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


def _way_row(key: Key, found: Mapping[str, Learnt], aim: float) -> Row:
    ddl, dense, norm, cost = (found[name] for name in _VARIANTS)
    paper, ddl_s = OVERALL[key], ddl.time_to(aim)
    return Row(
        (NETWORKS[key[0]].title, key[1]),
        (
            Cell(100 * (cost.final - ddl.final), paper.points),
            Cell(learning.speed_up(ddl_s, cost.time_to(aim)), paper.speed_up),
            Cell(100 * (dense.final - ddl.final)),
            Cell(learning.speed_up(ddl_s, dense.time_to(aim))),
            Cell(norm.cnc),
            Cell(cost.cnc),
            Cell(100 * norm.bytes_per_step / dense.bytes_per_step),
            Cell(100 * cost.bytes_per_step / dense.bytes_per_step),
        ),
    )


def _worse(rows: Sequence[Row], gate: str) -> str:
    """Return where ours is worse than the paper; the first quantity is a change, the last with a paper's a speed-up."""
    names = {row.keys: [cell for cell in row.cells if cell.paper is not None] for row in rows}
    lost = [" ".join(keys) for keys, cells in names.items() if (cells[0].ours or 0.0) < (cells[0].paper or 0.0)]
    late = [" ".join(keys) for keys, cells in names.items() if (cells[-1].ours or 0.0) < (cells[-1].paper or 0.0)]
    return (
        f"Worse than the paper with the gate by {gate}: accuracy in {', '.join(lost) or 'no cell'}; "
        f"speed-up in {', '.join(late) or 'no cell'}."
    )


SPEEDUP = Experiment("speedup", "accuracy, buffer and time: ScaDLES as a whole against DDL", measure, learns=True)
