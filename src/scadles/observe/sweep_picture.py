"""The picture of a sweep: time to target and final metric over the first of the swept settings."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from scadles.observe.drawing import COLOURS, FAINT, GRID, INK, METHOD_SHADES, caption, dress, finish, new_figure, write
from scadles.observe.sweep_table import Spread, SweepResult, SweepRow, as_yaml

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_LOG_FROM = 20.0
_CLOSEST = 0.07
_DODGE = 0.5
_MARKERS = "osD^vP"


@dataclass(frozen=True)
class _Axis:
    """Where the values of the first setting stand.

    Attributes:
        scale: ``linear`` or ``log`` for numbers, ``categories`` for anything else.
        places: where each value stands, by what is written there.
    """

    scale: str
    places: dict[str, float]


def plot_sweep(result: SweepResult, out: Path) -> None:
    """Draw median and range over seeds, over the first swept setting; each combination of the others has its colour.

    Runs that did not reach the target stand on a line of their own above all others. Combinations that failed are
    left out, and where nothing is left no picture is written.

    Raises:
        MissingExtraError: matplotlib is not installed.
        RunError: ``out`` cannot be written.
    """
    rows = [row for row in result.rows() if row.runs]
    if not rows:
        return
    first, others = result.keys[0], result.keys[1:]
    groups: dict[str, list[SweepRow]] = {}
    for row in rows:
        groups.setdefault("  ".join(f"{key} = {as_yaml(row.settings[key])}" for key in others), []).append(row)
    axis = _axis([row.settings[first] for row in rows])
    panels = [_draw_time] * any(row.time_to_target_s for row in rows)
    panels += [_draw_final] * any(row.final for row in rows)
    figure = new_figure(5.0 + 0.28 * math.ceil(len(groups) / 3))
    for place, draw in enumerate(panels):
        axes = figure.add_subplot(1, len(panels), place + 1)
        draw(axes, result, groups, axis)
        _dress_x(axes, axis, first)
    if others:
        handles, labels = figure.axes[0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside lower center", ncols=3, frameon=False, fontsize=10, labelcolor=INK)
    seeds = max(row.runs for row in rows)
    over = f": median and range over {seeds} seeds" if seeds > 1 else ""
    finish(figure, f"Sweep of {', '.join(result.keys)}{over}", out)


def _axis(values: Sequence[Any]) -> _Axis:
    """Place numbers as they are, or by their logarithms where they span or crowd much; anything else evenly."""
    texts = {as_yaml(value): value for value in values}
    numbers = [float(v) for v in texts.values() if isinstance(v, int | float) and not isinstance(v, bool)]
    if len(numbers) == len(texts) > 1:
        logs = [math.log(number) for number in numbers] if min(numbers) > 0 else []
        wide = bool(logs) and max(numbers) / min(numbers) > _LOG_FROM
        for scale, where in (("linear", [] if wide else numbers), ("log", logs)):
            if where and _room(where) >= _CLOSEST:
                return _Axis(scale, dict(zip(texts, numbers, strict=True)))
    return _Axis("categories", {text: float(place) for place, text in enumerate(texts)})


def _room(where: Sequence[float]) -> float:
    """Return the smallest distance between neighbours, as a share of the whole width."""
    return float(np.diff(np.sort(where)).min() / np.ptp(where))


def _draw_time(axes: Axes, result: SweepResult, groups: dict[str, list[SweepRow]], axis: _Axis) -> None:
    spreads = [row.time_to_target_s for rows in groups.values() for row in rows if row.time_to_target_s]
    finite = [value for spread in spreads for value in (spread.median, spread.high, spread.low) if math.isfinite(value)]
    top = 1.12 * max(finite, default=1.0)
    _draw(
        axes, result, {name: [(row, row.time_to_target_s) for row in rows] for name, rows in groups.items()}, axis, top
    )
    dress(axes, "Time to target", "stream seconds", "")
    axes.yaxis.set_major_formatter("{x:,g}")
    if not finite:
        axes.set_yticks([])
    if any(math.isinf(spread.high) for spread in spreads):
        axes.axhline(top, color=FAINT, lw=1, ls=(0, (1, 2)), zorder=1)
        write(axes, "not reached", (0, top), (4, 7), FAINT, xycoords=("axes fraction", "data"))
        axes.set_ylim(0, 1.18 * top)
    else:
        axes.set_ylim(0, top)


def _draw_final(axes: Axes, result: SweepResult, groups: dict[str, list[SweepRow]], axis: _Axis) -> None:
    shown = {name: [(row, row.final) for row in rows] for name, rows in groups.items()}
    _draw(axes, result, shown, axis, math.inf)
    dress(axes, f"Final {result.metric}", f"{result.metric} on the test set", "")
    aims = (run.summary.outcome.target for run in result.runs if run.summary)
    targets = {target for target in aims if target is not None}
    for target in targets if len(targets) == 1 else ():
        axes.axhline(target, color=FAINT, lw=1, ls=(0, (4, 3)), zorder=1)
        # below the line, because runs that stop at the target end just above it
        write(axes, f"target {target:g}", (0, target), (4, -13), FAINT, xycoords=("axes fraction", "data"), zorder=1)
    axes.margins(y=0.15)


def _draw(
    axes: Axes,
    result: SweepResult,
    groups: dict[str, list[tuple[SweepRow, Spread | None]]],
    axis: _Axis,
    top: float,
) -> None:
    """Draw each group's medians and ranges; what is infinite is drawn hollow at ``top``."""
    colours = _colours(result, groups)
    for index, (name, rows) in enumerate(groups.items()):
        known = [(axis.places[as_yaml(row.settings[result.keys[0]])], spread) for row, spread in rows if spread]
        if not known:
            continue
        known.sort(key=lambda pair: pair[0])
        x = np.array([place for place, _ in known])
        low, median, high = (
            np.array([min(getattr(spread, part), top) for _, spread in known]) for part in ("low", "median", "high")
        )
        if axis.scale == "categories":
            x = x + _DODGE * ((index + 0.5) / len(groups) - 0.5)
        line = "" if axis.scale == "categories" else "-"
        style: dict[str, Any] = {"color": colours[index], "marker": _MARKERS[index // len(COLOURS) % len(_MARKERS)]}
        axes.vlines(x, low, high, color=colours[index], lw=3.5, alpha=0.35, zorder=2, capstyle="round")
        never = np.array([math.isinf(spread.median) for _, spread in known])
        reached = np.where(never, np.nan, median)
        axes.plot(x, reached, ls=line, lw=2, ms=8, mec="white", mew=1.2, zorder=3, label=caption(name), **style)
        axes.plot(x[never], median[never], ls="", ms=8, mfc="white", mec=colours[index], mew=1.6, zorder=4, **style)


def _colours(result: SweepResult, groups: dict[str, Any]) -> list[str]:
    """Return a colour for each group, a method's own where nothing but the method tells groups apart."""
    if result.keys[1:] == ("method",):
        methods = [name.rpartition(" ")[2] for name in groups]
        return [METHOD_SHADES.get(method, COLOURS)[0] for method in methods]
    return [COLOURS[index % len(COLOURS)] for index in range(len(groups))]


def _dress_x(axes: Axes, axis: _Axis, key: str) -> None:
    places = list(axis.places.values())
    axes.set_xlabel(key, fontsize=10.5, color=FAINT)
    axes.grid(axis="x", color=GRID, lw=0.8)
    if axis.scale == "log":
        axes.set_xscale("log")
        axes.minorticks_off()
        axes.set_xlim(min(places) / 1.25, max(places) * 1.25)
    else:
        space = 0.5 if axis.scale == "categories" else 0.06 * (max(places) - min(places))
        axes.set_xlim(min(places) - space, max(places) + space)
    tilted = sum(map(len, axis.places)) > 60
    axes.set_xticks(
        places, list(map(caption, axis.places)), rotation=30 if tilted else 0, ha="right" if tilted else "center"
    )
