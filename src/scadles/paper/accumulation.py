"""What piles up on a device that trains on 64 samples a step (paper, section II, table of accumulated data)."""

from __future__ import annotations

from functools import partial

import numpy as np

from scadles.observe import RunFolder
from scadles.observe.paper_plots import Curve, CurvePanel, plot_panels
from scadles.paper.experiment import Experiment, Options, Outcome
from scadles.paper.published import ACCUMULATED, BATCH, NETWORKS
from scadles.paper.rules import arrived_samples, gigabytes, waiting_samples
from scadles.paper.runs import Runs, key_of
from scadles.paper.settings import idle_run
from scadles.paper.table import Cell, Quantity, Row, Table, largest_deviation

_QUANTITIES = (Quantity("arrived", "GB", ".4g"), Quantity("waiting", "GB", ".4g"))
_TITLE = "Data on a device under DDL: S images per second, T steps of t seconds"
_QUICK_STEPS, _FULL_STEPS = 10_000, 100_000
_MISPRINT = "200.6 is probably a misprint of 206"


def measure(options: Options, runs: Runs) -> Outcome:
    """Let one device of each rate train for as many steps as the paper's table has, and count what waits."""
    longest = _QUICK_STEPS if options.quick else _FULL_STEPS
    settings = [key for key in ACCUMULATED if key[2] <= longest]
    pairs = list(dict.fromkeys(key[:2] for key in settings))
    configs = {
        ("accumulation", name, rate): idle_run(
            method="ddl",
            devices=1,
            steps=longest,
            stream={"rates": float(rate)},
            batch={"size": BATCH},
            cost={"profile": "free", "compute": {"step_s": NETWORKS[name].step_s()}},
        )
        for name, rate in pairs
    }
    folders = runs.get(configs)
    rows = [_row(*key, folders[key_of("accumulation", *key[:2])]) for key in settings]
    off = largest_deviation([cell for row in rows for cell in row.cells])
    remarks = (
        "Arrived: t S T. This is what the paper's table prints as accumulated, though DDL trains on 64 of them a step.",
        "Waiting: the paper's formula Q = (t S - b) T + S with b = 64, which its own table does not follow.",
        f"Ours is within {off:.2%} of the rule in every cell. An image has 3 KB; 1 GB is 2^30 bytes, as in the paper.",
    )
    table = Table(_TITLE, ("model", "t (s)", "S", "T"), _QUANTITIES, rows, remarks)
    panels = [_panel(name, rate, folders["accumulation", name, rate]) for name, rate in pairs]
    return Outcome((table,), partial(plot_panels, "Data that DDL leaves waiting on a device", panels, columns=2))


def _row(name: str, rate: int, steps: int, run: RunFolder) -> Row:
    step_s = NETWORKS[name].step_s()
    trained, waiting = _counts(run)
    printed = ACCUMULATED[name, rate, steps]
    arrived = Cell(
        gigabytes(trained[steps - 1] + waiting[steps - 1]),
        printed,
        gigabytes(arrived_samples(steps, step_s, rate)),
        _MISPRINT if printed == 200.6 else "",
    )
    rule = gigabytes(waiting_samples(steps, step_s, rate, BATCH))
    return Row(
        (NETWORKS[name].title, f"{step_s:g}", str(rate), f"{steps:,}"),
        (arrived, Cell(gigabytes(waiting[steps - 1]), rule=rule)),
    )


def _counts(run: RunFolder) -> tuple[np.ndarray, np.ndarray]:
    """Return samples trained on and samples waiting after each step, float64 ``[steps]`` both."""
    return run.column(0, "batch").cumsum(), run.column(0, "held") + run.column(0, "lag")


def _panel(name: str, rate: int, run: RunFolder) -> CurvePanel:
    network = NETWORKS[name]
    waiting = _counts(run)[1]
    # evenly spaced on the logarithmic axis
    steps = np.unique(np.geomspace(10, len(waiting), 60).astype(int))
    printed = np.array([(key[2], value) for key, value in ACCUMULATED.items() if key[:2] == (name, rate)])
    curves = (
        Curve("ours: waiting, with 64 a step trained on", steps, gigabytes(1) * waiting[steps - 1], "ours"),
        Curve("rule: arrived, t S T", steps, gigabytes(network.step_s() * rate) * steps, "rule", "dashed"),
        Curve("paper: printed", printed[:, 0], printed[:, 1], "paper", "points"),
    )
    title = f"{network.title}, {rate} images/s"
    return CurvePanel(title=title, y_label="GB", x_label="steps", curves=curves, log="xy")


ACCUMULATION = Experiment("accumulation", "GB that pile up under DDL after 1e3, 1e4 and 1e5 steps", measure)
