"""Pictures that put the paper's numbers and ours side by side: panels of curves, bars and ranges."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from scadles.observe.drawing import INK, METHOD_SHADES, SPINE, dress, finish, new_figure, write

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_ROLES = {
    "paper": "#7b8794",
    "ours": "#0b6bcb",
    "rule": INK,
    "ddl": METHOD_SHADES["ddl"][0],
    "scadles": METHOD_SHADES["scadles"][0],
    "persistence": METHOD_SHADES["ddl"][0],
    "truncation": METHOD_SHADES["scadles"][0],
    "peak": METHOD_SHADES["scadles"][3],
}
_STYLES: dict[str, dict[str, Any]] = {
    "line": {"lw": 2.0},
    "dashed": {"lw": 1.2, "ls": (0, (4, 3))},
    "points": {"ls": "", "marker": "o", "ms": 7, "mec": "white", "mew": 1.0, "zorder": 4},
}
_NUMBER_SIZE = 8.5


@dataclass(frozen=True, kw_only=True)
class Panel(ABC):
    """One pair of axes; ``span`` of the columns wide."""

    title: str
    y_label: str
    x_label: str = ""
    span: int = 1

    @abstractmethod
    def draw(self, axes: Axes) -> None:
        """Draw what there is to see."""

    @abstractmethod
    def frame(self, axes: Axes) -> None:
        """Set scales, limits and ticks."""


@dataclass(frozen=True)
class Curve:
    """A line, or points.

    Attributes:
        label: in the legend; curves of the same label share an entry.
        role: decides the colour: paper, ours, rule, ddl, scadles, persistence, truncation or peak.
        style: ``line``, ``dashed`` or ``points``.
    """

    label: str
    x: np.ndarray
    y: np.ndarray
    role: str
    style: str = "line"


@dataclass(frozen=True)
class Level:
    """A horizontal line, with a few words on it or none, ``rise`` dots above it."""

    y: float
    text: str
    role: str
    rise: int = 3


@dataclass(frozen=True, kw_only=True)
class CurvePanel(Panel):
    """Curves over one x axis; ``log`` names the axes that are logarithmic, for example ``"xy"``."""

    curves: Sequence[Curve]
    levels: Sequence[Level] = ()
    log: str = ""
    y_range: tuple[float, float] | None = None

    def draw(self, axes: Axes) -> None:
        for curve in self.curves:
            axes.plot(curve.x, curve.y, color=_ROLES[curve.role], label=curve.label, **_STYLES[curve.style])
        for level in self.levels:
            colour = _ROLES[level.role]
            axes.axhline(level.y, color=colour, lw=1, ls=(0, (2, 2)))
            at = {"xycoords": ("axes fraction", "data"), "ha": "right", "fontsize": _NUMBER_SIZE}
            write(axes, level.text, (1, level.y), (-1, level.rise), colour, **at)

    def frame(self, axes: Axes) -> None:
        x = np.concatenate([curve.x for curve in self.curves])
        if "x" in self.log:
            axes.set_xscale("log")
            axes.set_xlim(x.min() / 1.2, x.max() * 1.5)
        else:
            axes.set_xlim(0, x.max() * 1.03)
        if "y" in self.log:
            axes.set_yscale("log")
        if self.y_range:
            axes.set_ylim(*self.y_range)


@dataclass(frozen=True, kw_only=True)
class BarPanel(Panel):
    """Groups of bars with their numbers on them; in the place of a NaN stands ``gap``.

    Attributes:
        groups: what stands below the groups.
        series: the height of each group's bar, by role, which is also its name in the legend.
        form: how a number is written.
    """

    groups: Sequence[str]
    series: Mapping[str, Sequence[float]]
    form: str = ".2f"
    gap: str = "never"

    def draw(self, axes: Axes) -> None:
        width = 0.8 / len(self.series)
        for number, (role, heights) in enumerate(self.series.items()):
            x = np.arange(len(heights)) + (number - (len(self.series) - 1) / 2) * width
            values = np.asarray(heights, dtype=np.float64)
            axes.bar(x, np.nan_to_num(values), 0.92 * width, color=_ROLES[role], label=role)
            for place, value in zip(x, values, strict=True):
                self._number(axes, float(place), float(value), _ROLES[role])
        axes.axhline(0, color=SPINE, lw=1)

    def _number(self, axes: Axes, place: float, value: float, colour: str) -> None:
        if np.isnan(value):
            write(axes, self.gap, (place, 0), (0, 3), colour, ha="center", fontsize=_NUMBER_SIZE, rotation=90)
            return
        below = value < 0
        at = {"ha": "center", "va": "top" if below else "bottom", "fontsize": _NUMBER_SIZE}
        write(axes, format(value, self.form), (place, value), (0, -3 if below else 2), colour, **at)

    def frame(self, axes: Axes) -> None:
        _frame_groups(axes, self.groups, [value for heights in self.series.values() for value in heights])


@dataclass(frozen=True, kw_only=True)
class SpreadPanel(Panel):
    """Ranges from a lowest to a highest number, by role, in groups."""

    groups: Sequence[str]
    series: Mapping[str, Sequence[tuple[float, float]]]

    def draw(self, axes: Axes) -> None:
        for number, (role, ranges) in enumerate(self.series.items()):
            colour = _ROLES[role]
            x = np.arange(len(ranges)) + (number - (len(self.series) - 1) / 2) * 0.36
            low, high = np.array(ranges).T
            axes.bar(x, high - low, 0.14, low, color=colour, label=role)
            for place, (bottom, top) in zip(x, ranges, strict=True):
                at: dict[str, Any] = {"ha": "center", "fontsize": _NUMBER_SIZE}
                write(axes, f"{top:.3g}", (place, top), (0, 3), colour, va="bottom", **at)
                write(axes, f"{bottom:.3g}", (place, bottom), (0, -4), colour, va="top", **at)
        axes.axhline(0, color=SPINE, lw=1)

    def frame(self, axes: Axes) -> None:
        ends = [end for ranges in self.series.values() for pair in ranges for end in pair]
        _frame_groups(axes, self.groups, ends, below=True)


def plot_panels(title: str, panels: Sequence[Panel], out: Path, *, columns: int) -> None:
    """Draw panels row by row under one title and one legend.

    Args:
        title: of the whole picture.
        panels: at least one.
        out: the file; its suffix decides the format.
        columns: panels of span 1 in a row.

    Raises:
        MissingExtraError: matplotlib is not installed.
        RunError: ``out`` cannot be written.
    """
    rows = -(-sum(panel.span for panel in panels) // columns)
    figure = new_figure(1.0 + 3.1 * rows)
    grid = figure.add_gridspec(rows, columns)
    place = 0
    for panel in panels:
        row, column = divmod(place, columns)
        axes = figure.add_subplot(grid[row, column : column + panel.span])
        panel.draw(axes)
        dress(axes, panel.title, panel.y_label, panel.x_label)
        panel.frame(axes)
        place += panel.span
    _name_all(figure)
    finish(figure, title, out)


def _frame_groups(axes: Axes, groups: Sequence[str], values: Sequence[float], *, below: bool = False) -> None:
    """Leave room for the numbers above, and below where some stand there, and name the groups."""
    low, high = min(0.0, np.nanmin(values)), max(0.0, np.nanmax(values))
    room = 0.14 * (high - low) or 1.0
    axes.set_ylim(low - room if low < 0 or below else 0.0, high + room)
    axes.set_xlim(-0.6, len(groups) - 0.4)
    axes.set_xticks(range(len(groups)), groups)


def _name_all(figure: Figure) -> None:
    """Put one legend below all panels, with each label once."""
    entries: dict[str, Any] = {}
    for axes in figure.axes:
        for handle, label in zip(*axes.get_legend_handles_labels(), strict=True):
            entries.setdefault(label, handle)
    figure.legend(
        list(entries.values()),
        list(entries),
        loc="outside lower center",
        ncols=len(entries),
        frameon=False,
        fontsize=10.5,
        labelcolor=INK,
    )
