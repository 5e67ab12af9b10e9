"""ScaDLES as a whole against DDL (paper, section V, table of overall results), and what else could be had."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

from scadles.observe.paper_plots import plot_panels
from scadles.paper import learning
from scadles.paper.convergence import SOONER, bars
from scadles.paper.experiment import Experiment, Options, Outcome
from scadles.paper.learning import KEYS, Key, Learnt
from scadles.paper.limits import Case, stream_limits
from scadles.paper.published import BATCH, CONVERGENCE, NETWORKS, OVERALL
from scadles.paper.rules import ddl_step_s, gigabytes, throughput_ratio, waiting_samples
from scadles.paper.runs import Runs, key_of
from scadles.paper.table import Cell, Quantity, Row, Table

_VARIANTS = ("ddl", "dense", "norm", "auto")
_SCADLES = _VARIANTS[1:]
_QUANTITIES = (
    Quantity("change", "points", "+.2f"),
    Quantity("saved", "GB", ".3g"),
    Quantity("per hour", "GB/h", ".3g"),
    Quantity("speed-up", "times"),
)
_TIMES = (
    Quantity("speed-up: dense", "times"),
    Quantity("speed-up: auto", "times"),
    Quantity("speed-up: limit", "times"),
    Quantity("share: dense", ""),
    Quantity("share: norm", ""),
    Quantity("share: auto", ""),
)
_WAYS = (
    Quantity("change: dense", "points", "+.2f"),
    Quantity("change: auto", "points", "+.2f"),
    Quantity("CNC: norm", ""),
    Quantity("CNC: auto", ""),
    Quantity("bytes: norm", "%", ".1f"),
    Quantity("bytes: auto", "%", ".1f"),
    Quantity("batch: auto", "s"),
)
_TITLE = "ScaDLES as published (truncation, weighted, scaled learning rate, compression) against DDL"
_TIMES_TITLE = "How many times sooner than DDL at the target: as published, chosen by measurement, and the limit"
_WAYS_TITLE = "Accuracy against DDL, and what is sent"
_REMARKS = (
    "Compression as in the paper's final evaluation: CR 0.1, delta 0.3, the gate by norm, which compresses all steps "
    "there. The largest tenth of our small network's gradient holds less, so fewer steps are compressed (last table).",
    "Change: of the final accuracy. Saved: what waits on the fullest device when the target is reached, DDL less "
    "ScaDLES; an image has 3 KB, 1 GB is 2^30 bytes. Rule: (t S - b) T.",
    "Our small network reaches its target much sooner than the paper's, so less has piled up: compare the saving per "
    "stream hour (the paper's by the hours of DDL in its convergence figure).",
)
_TIMES_REMARKS = (
    "Paper: the same numbers as above. Dense: as published without compression. Norm: as above. Auto: window, ratio "
    "and learning rate as ScaDLES chooses them by what it measures (method: auto).",
    "Limit: the earliest of all these and of runs with free links and free compute at the rate that is given, which "
    "train on every sample once, in batches of a few windows (as in scadles simulate --limit). Share: of that limit.",
)
_WAYS_REMARKS = (
    "CNC: compressed over all steps. Bytes: sent in a second of stream, as a share of what dense sends. Batch: stream "
    "seconds that a step is trained on, the median.",
)
_WELL = 0.9

#: Of one seed, by cell.
Found = Mapping[str, Mapping[Key, Learnt]]


def measure(options: Options, runs: Runs) -> Outcome:
    """Train with DDL and with ScaDLES, as published and as it chooses itself, in all eight cells, and compare."""
    seeds = learning.scale(options).seeds
    learnt = learning.learn(options, runs, _VARIANTS, seeds)
    aims = {seed: learning.targets(learnt[seed]["ddl"]) for seed in seeds}
    limits = stream_limits(runs, _cases(options, learnt, aims))
    overall = [_row(key, learnt, aims, options) for key in KEYS]
    times = [_time_row(key, learnt, aims, {seed: limits[key_of(*key, seed)] for seed in seeds}) for key in KEYS]
    ways = [_way_row(key, learnt) for key in KEYS]
    heads = ("model", "set")
    remarks = (*learning.remarks(options, _means(aims)), _seeds(seeds), *_REMARKS, _worse(overall))
    tables = (
        Table(_TITLE, heads, _QUANTITIES, overall, remarks),
        Table(_TIMES_TITLE, heads, _TIMES, times, (*_TIMES_REMARKS, *_below(times, overall))),
        Table(_WAYS_TITLE, heads, _WAYS, ways, (*_WAYS_REMARKS, _less_accurate(ways))),
    )
    pictured = (
        (tables[0], "change", "accuracy change as published"),
        (tables[0], "per hour", "buffer saved per stream hour"),
        (tables[0], "speed-up", "speed-up as published", SOONER),
        (tables[1], "speed-up: auto", "speed-up as chosen", SOONER),
    )
    panels = [bars(network, *which) for which in pictured for network in NETWORKS]
    return Outcome(tables, partial(plot_panels, "ScaDLES with everything on against DDL", panels, columns=2))


def _cases(
    options: Options, learnt: Mapping[int, Found], aims: Mapping[int, Mapping[str, float]]
) -> dict[tuple[Any, ...], Case]:
    cases = {}
    for seed, found in learnt.items():
        for key in KEYS:
            aim = aims[seed][key[0]]
            known_s = min(found[name][key].time_to(aim) for name in _VARIANTS)
            cases[key_of(*key, seed)] = Case(learning.config_of(options, "dense", *key, seed), aim, known_s)
    return cases


def _row(key: Key, learnt: Mapping[int, Found], aims: Mapping[int, Mapping[str, float]], options: Options) -> Row:
    network, paper = NETWORKS[key[0]], OVERALL[key]
    changes, saved, expected, speed_ups, ratios, hourly = [], [], [], [], [], []
    for seed, found in learnt.items():
        ddl, scadles = found["ddl"][key], found["norm"][key]
        aim, rates = aims[seed][key[0]], learning.rates(options, key, seed)
        ddl_s, scadles_s = ddl.time_to(aim), scadles.time_to(aim)
        step_s = ddl_step_s(rates, network)
        changes.append(100 * (scadles.final - ddl.final))
        saved.append(gigabytes(ddl.held_at(ddl_s) - scadles.held_at(scadles_s)))
        expected.append(gigabytes(waiting_samples(ddl_s / step_s, step_s, max(rates), BATCH) - max(rates)))
        hourly.append(3600 * saved[-1] / ddl_s)
        speed_ups.append(learning.speed_up(ddl_s, scadles_s))
        ratios.append(throughput_ratio(rates, network))
    return Row(
        (network.title, key[1]),
        (
            Cell.of_seeds(changes, paper.points),
            Cell.of_seeds(saved, paper.saved_gb, _mean(expected)),
            Cell.of_seeds(hourly, paper.saved_gb / CONVERGENCE[key][0].hours),
            Cell.of_seeds(speed_ups, paper.speed_up, _mean(ratios)),
        ),
    )


def _time_row(
    key: Key, learnt: Mapping[int, Found], aims: Mapping[int, Mapping[str, float]], limits_s: Mapping[int, float]
) -> Row:
    times_s = {
        name: {seed: found[name][key].time_to(aims[seed][key[0]]) for seed, found in learnt.items()}
        for name in _VARIANTS
    }
    ddl_s = times_s["ddl"]

    def sooner(than_s: Mapping[int, float]) -> list[float | None]:
        return [learning.speed_up(ddl_s[seed], than_s[seed]) for seed in learnt]

    def shares(name: str) -> list[float | None]:
        return [learning.speed_up(limits_s[seed], times_s[name][seed]) for seed in learnt]

    return Row(
        (NETWORKS[key[0]].title, key[1]),
        (
            Cell.of_seeds(sooner(times_s["dense"])),
            Cell.of_seeds(sooner(times_s["auto"]), OVERALL[key].speed_up),
            Cell.of_seeds(sooner(limits_s)),
            *(Cell.of_seeds(shares(name)) for name in _SCADLES),
        ),
    )


def _way_row(key: Key, learnt: Mapping[int, Found]) -> Row:
    cells = [{name: found[name][key] for name in _VARIANTS} for found in learnt.values()]
    return Row(
        (NETWORKS[key[0]].title, key[1]),
        (
            *(Cell.of_seeds([100 * (c[name].final - c["ddl"].final) for c in cells]) for name in ("dense", "auto")),
            *(Cell.of_seeds([c[name].cnc for c in cells]) for name in ("norm", "auto")),
            *(
                Cell.of_seeds([100 * c[name].bytes_per_second / c["dense"].bytes_per_second for c in cells])
                for name in ("norm", "auto")
            ),
            Cell.of_seeds([c["auto"].window_s for c in cells]),
        ),
    )


def _mean(values: Sequence[float]) -> float:
    return math.fsum(values) / len(values)


def _means(aims: Mapping[int, Mapping[str, float]]) -> dict[str, float]:
    return {network: _mean([of_seed[network] for of_seed in aims.values()]) for network in NETWORKS}


def _seeds(seeds: Sequence[int]) -> str:
    return (
        "One seed."
        if len(seeds) == 1
        else f"Mean and standard deviation over {len(seeds)} seeds, each with a target of its own."
    )


def _worse(rows: Sequence[Row]) -> str:
    """Return where ours is worse than the paper; the first quantity is a change, the last one a speed-up."""
    lost = [row for row in rows if (row.cells[0].ours or 0.0) < (row.cells[0].paper or 0.0)]
    late = [row for row in rows if (row.cells[-1].ours or 0.0) < (row.cells[-1].paper or 0.0)]
    return f"Worse than the paper with the gate by norm: accuracy in {_names(lost)}; speed-up in {_names(late)}."


def _below(rows: Sequence[Row], overall: Sequence[Row]) -> tuple[str, str, str]:
    """Return where auto falls short of the paper's best speed-up, of what is published, and of the limit."""
    best = max(run.speed_up for run in OVERALL.values())
    ours = {name: [row.cells[place].ours or 0.0 for row in rows] for place, name in enumerate(("dense", "auto"))}
    norm = [row.cells[-1].ours or 0.0 for row in overall]
    slow = [row for row, auto in zip(rows, ours["auto"], strict=True) if auto < best]
    later = [
        row for row, *all_of in zip(rows, ours["auto"], ours["dense"], norm, strict=True) if all_of[0] < max(all_of[1:])
    ]
    far = [row for row in rows if (row.cells[-1].ours or 0.0) < _WELL]
    return (
        f"Auto is below {best:g} times DDL, the paper's best, in {_names(slow)}.",
        f"Auto is later than the better of dense and norm in {_names(later)}.",
        f"Auto is below {_WELL:g} of the limit in {_names(far)}.",
    )


def _less_accurate(rows: Sequence[Row]) -> str:
    names = {"dense": 0, "auto": 1}
    lost = {name: _names([row for row in rows if (row.cells[place].ours or 0.0) < 0]) for name, place in names.items()}
    return "Less accurate than DDL in the end: " + "; ".join(f"{name} in {where}" for name, where in lost.items()) + "."


def _names(rows: Sequence[Row]) -> str:
    return ", ".join(" ".join(row.keys) for row in rows) or "no cell"


SPEEDUP = Experiment("speedup", "accuracy, buffer and time: ScaDLES as a whole against DDL", measure, learns=True)
