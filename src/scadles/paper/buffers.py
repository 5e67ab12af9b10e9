"""What buffers hold under persistence and under truncation (paper, section V, table of buffered samples)."""

from __future__ import annotations

import math
from collections.abc import Mapping
from functools import partial
from typing import NamedTuple

import numpy as np

from scadles.config import RunConfig
from scadles.errors import RunError
from scadles.observe import RunFolder
from scadles.observe.paper_plots import Curve, CurvePanel, Level, plot_panels
from scadles.paper.experiment import Experiment, Options, Outcome
from scadles.paper.published import DEVICES, HELD, NETWORKS
from scadles.paper.rules import scadles_step_s, waiting_samples
from scadles.paper.runs import Runs, key_of
from scadles.paper.settings import SEED, idle_run
from scadles.paper.table import Cell, Quantity, Row, Table
from scadles.streams import draw_rates

Key = tuple[str, str]

_QUANTITIES = (
    Quantity("time", "h", ".2f"),
    Quantity("persistence", "", ",.0f"),
    Quantity("truncated", "", ",.0f"),
    Quantity("peak", "", ",.0f"),
    Quantity("reduction", "", ",.0f"),
    Quantity("by peak", "", ",.0f"),
)
_TITLE = "Samples waiting on the fullest of 16 devices"
_REMARKS = (
    "The paper does not say after how many steps it counted. Ours runs persistence until the fullest device holds what "
    "the paper reports, and truncation for the same stream time. So persistence agrees by construction, and the "
    "reduction tests what truncation keeps.",
    "Truncated: what waits after the last step. Peak: the most that ever waited before a truncation, when a step's "
    "arrivals came on top; the batch in training is not counted. The paper does not tell which of the two it counted.",
    "Rule: (t S - S) T + S. Time: of the stream. Nothing is learnt in these runs, costs are charged.",
)
_MARGIN = 1.02
_ATTEMPTS = 3
_POINTS = 400


class Waiting(NamedTuple):
    """What waited on one device after each step, and before the policy dropped what it does not keep."""

    time_s: np.ndarray
    after: np.ndarray
    before: np.ndarray


def measure(_: Options, runs: Runs) -> Outcome:
    """Run persistence until the paper's number is held, truncation for as long, in all eight cells."""
    held = _persistence(runs)
    kept = _simulated({key: {"duration_s": float(held[key].time_s[-1])} for key in HELD}, "truncation", runs)
    rows = [_row(key, held[key], kept[key]) for key in HELD]
    table = Table(_TITLE, ("model", "set"), _QUANTITIES, rows, _REMARKS)
    panels = [_panel(key, held[key], kept[key]) for key in HELD]
    return Outcome((table,), partial(plot_panels, _TITLE, panels, columns=4))


def waiting(run: RunFolder, device: int = 0) -> Waiting:
    """Return how many samples waited on a device, in its buffer and at its source, at the end of each step."""
    after = run.column(device, "held") + run.column(device, "lag")
    dropped = np.diff(run.column(device, "dropped"), prepend=0.0)
    return Waiting(run.column(device, "time_s"), after, after + dropped)


def _persistence(runs: Runs) -> dict[Key, Waiting]:
    """Return for each cell what waited, up to the first step that left as much as the paper reports."""
    found: dict[Key, Waiting] = {}
    steps = {key: math.ceil(_MARGIN * HELD[key].persistence / _growth(key)) for key in HELD}
    for _ in range(_ATTEMPTS):
        limits = {key: {"steps": steps[key]} for key in HELD if key not in found}
        for key, result in _simulated(limits, "persistence", runs).items():
            enough = np.flatnonzero(result.after >= HELD[key].persistence)
            if len(enough):
                found[key] = Waiting(*(column[: enough[0] + 1] for column in result))
            else:
                steps[key] = math.ceil(steps[key] * _MARGIN * HELD[key].persistence / result.after[-1])
        if len(found) == len(HELD):
            return found
    raise RunError(f"buffers grow more slowly than the rule (t S - S) T + S says in {sorted(set(HELD) - set(found))}")


def _simulated(limits: Mapping[Key, Mapping[str, float]], policy: str, runs: Runs) -> dict[Key, Waiting]:
    """Return what waited on the fullest device in each of some cells, which run for so many steps or seconds."""
    configs = {("buffers", *key, policy): _config(key, policy, limit) for key, limit in limits.items()}
    weights = {("buffers", *key, policy): HELD[key].persistence / _growth(key) for key in limits}
    folders = runs.get(configs, weights)
    return {key: waiting(folders[key_of("buffers", *key, policy)]) for key in limits}


def _config(key: Key, policy: str, limit: Mapping[str, float]) -> RunConfig:
    return idle_run(
        method="scadles",
        seed=SEED,
        devices=DEVICES,
        stream={"rates": _rates(key)},
        buffer={"policy": policy},
        cost={"profile": NETWORKS[key[0]].cost_profile},
        simulation={"recorded_devices": 1},
        **limit,
    )


def _rates(key: Key) -> tuple[float, ...]:
    """Return the drawn rates, fastest first, so that the events of device 0 alone tell of the fullest buffer."""
    return tuple(sorted(draw_rates(key[1], DEVICES, SEED), reverse=True))


def _growth(key: Key) -> float:
    """Return by how many samples a step grows the fullest buffer, by the rule."""
    rates = _rates(key)
    return rates[0] * (scadles_step_s(rates, NETWORKS[key[0]]) - 1)


def _row(key: Key, persistence: Waiting, truncation: Waiting) -> Row:
    network, paper, rates = NETWORKS[key[0]], HELD[key], _rates(key)
    held, kept, peak = persistence.after[-1], truncation.after[-1], truncation.before.max()
    rule = waiting_samples(len(persistence.after), scadles_step_s(rates, network), rates[0], rates[0])
    return Row(
        (network.title, key[1]),
        (
            Cell(float(persistence.time_s[-1]) / 3600),
            Cell(float(held), paper.persistence, rule),
            Cell(float(kept), paper.truncation),
            Cell(float(peak)),
            Cell(float(held / kept), paper.reduction),
            Cell(float(held / peak)),
        ),
    )


def _panel(key: Key, persistence: Waiting, truncation: Waiting) -> CurvePanel:
    curves = []
    for name, role, time_s, samples in (
        ("persistence", "persistence", persistence.time_s, persistence.after),
        ("truncation: peak in a step", "peak", truncation.time_s, truncation.before),
        ("truncation: after the step", "truncation", truncation.time_s, truncation.after),
    ):
        some = np.unique(np.linspace(0, len(samples) - 1, _POINTS).astype(int))
        curves.append(Curve(name, time_s[some] / 3600, samples[some], role))
    paper = HELD[key]
    above_peak = 15 if truncation.before.max() > paper.truncation else 3
    levels = [
        Level(paper.persistence, f"paper: {paper.persistence:,.0f}", "paper"),
        Level(paper.truncation, f"paper: {paper.truncation:,.0f}", "paper", rise=above_peak),
    ]
    title = f"{NETWORKS[key[0]].title}, {key[1]}"
    return CurvePanel(
        title=title, y_label="samples waiting", x_label="stream time (h)", curves=curves, levels=levels, log="y"
    )


BUFFERS = Experiment("buffers", "samples held at convergence under persistence and truncation", measure)
