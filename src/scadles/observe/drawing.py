"""What all pictures share: palette, dress, legends, and the metric of runs over stream time."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from scadles.errors import DataError, MissingExtraError, RunError
from scadles.observe.console import plain_line
from scadles.observe.rundir import RunFolder

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

INK, FAINT, GRID, SPINE = "#24292f", "#6e7781", "#e6e8eb", "#c4c9cf"
COLOURS = ("#0b6bcb", "#e8590c", "#2b8a3e", "#9c36b5", "#c92a2a", "#0c8599", "#a6761d", "#5c5f66")
METHOD_SHADES = {
    "scadles": ("#0b6bcb", "#0c8599", "#6741d9", "#4dabf7"),
    "ddl": ("#e8590c", "#c92a2a", "#f2a30f", "#a6761d"),
    "auto": ("#2b8a3e", "#5c940d", "#087f5b", "#94d82d"),
}
PHASES = (
    ("wait_s", "waiting for samples", "#f2b134"),
    ("compute_s", "computing", "#2b8a3e"),
    ("sync_s", "synchronising", "#8c9eb5"),
)
MAX_DEVICES = 64
STRETCHES = 240
_CROWDED = 0.94
_LONGEST_LABEL = 150


def new_figure(height_in: float = 7.2) -> Figure:
    """Return an empty picture, 12 inches wide at 100 dots an inch.

    Raises:
        MissingExtraError: matplotlib is not installed.
    """
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
        from matplotlib.layout_engine import ConstrainedLayoutEngine
    except ImportError:
        raise MissingExtraError("drawing a picture", "plots") from None
    layout = ConstrainedLayoutEngine(w_pad=0.12, h_pad=0.12, wspace=0.03, hspace=0.03)
    figure = Figure(figsize=(12, height_in), dpi=100, layout=layout, facecolor="white")
    FigureCanvasAgg(figure)
    return figure


def caption(text: str) -> str:
    r"""Return text that may come from elsewhere as a picture shows it: no formulas, no control characters.

    >>> print(caption("$x$"))
    \$x\$
    """
    return plain_line(text)[:_LONGEST_LABEL].replace("$", r"\$")


def finish(figure: Figure, title: str, out: Path) -> None:
    """Give a picture its title, if any, and write it.

    Raises:
        RunError: ``out`` cannot be written.
    """
    if title:
        figure.suptitle(caption(title), fontsize=14, fontweight="bold", color=INK, x=0.01, ha="left")
    try:
        with warnings.catch_warnings():
            # signs that the font does not have, panels that extreme numbers leave no room for
            warnings.simplefilter("ignore", UserWarning)
            figure.savefig(out)
    except (OSError, ValueError) as error:
        raise RunError(f"cannot write the picture {out}: {error}") from error


def dress(axes: Axes, title: str, y_label: str, x_label: str = "stream time (s)", *, title_pad: float = 6.0) -> None:
    """Give a panel its title, labels and a quiet frame, with stream time from 0 on."""
    axes.set_title(title, loc="left", fontsize=12, fontweight="bold", color=INK, pad=title_pad)
    axes.set_xlabel(x_label, fontsize=10.5, color=FAINT)
    axes.set_ylabel(y_label, fontsize=10.5, color=FAINT)
    axes.tick_params(which="both", labelsize=10, colors=FAINT, length=0)
    axes.grid(axis="y", color=GRID, lw=0.8)
    axes.set_axisbelow(True)
    axes.set_xlim(left=0)
    for side in ("top", "right", "left"):
        axes.spines[side].set_visible(False)
    axes.spines["bottom"].set_color(SPINE)


def scale_counts(axes: Axes, top: float, **ticks: Any) -> None:
    """Let the y axis go from 0 to ``top`` in whole numbers."""
    axes.set_ylim(0, top)
    axes.yaxis.set_major_formatter("{x:,.0f}")
    axes.locator_params(axis="y", integer=True, **ticks)


def write(axes: Axes, text: str, at: tuple[float, float], offset: tuple[int, int], colour: str, **more: Any) -> None:
    """Write beside a point, ``offset`` dots away from it."""
    axes.annotate(text, at, offset, textcoords="offset points", color=colour, **{"fontsize": 10.5, **more})


def draw_legend(axes: Axes, **more: Any) -> None:
    """Name what is drawn, in the upper right corner unless told otherwise."""
    settings = {"loc": "upper right", "ncols": 4, "frameon": False, "fontsize": 9.5, "columnspacing": 1.2}
    axes.legend(labelcolor=INK, **{**settings, **more})


def shown_devices(folder: RunFolder) -> list[int]:
    """Return the devices that stand for all: at most :data:`MAX_DEVICES` of those with events, evenly chosen.

    Raises:
        DataError: no device left events.
    """
    devices = folder.devices
    if not devices:
        raise DataError(f"{folder.path} has no events of any device: nothing to draw")
    return [devices[index] for index in evenly(len(devices), MAX_DEVICES)]


def evenly(count: int, most: int) -> list[int]:
    """Return at most ``most`` of the numbers below ``count``, evenly chosen, first and last among them.

    >>> evenly(3, 5), evenly(9, 3)
    ([0, 1, 2], [0, 4, 8])
    """
    chosen = np.linspace(0, count - 1, min(most, count)).round().astype(int)
    return [int(index) for index in chosen]


def run_colours(folders: Sequence[RunFolder]) -> list[str]:
    """Return a colour for each run: a method has its own family, runs of one method have shades of it."""
    colours = []
    for place, folder in enumerate(folders):
        method = folder.summary.method
        shades = METHOD_SHADES.get(method, COLOURS)
        colours.append(shades[sum(other.summary.method == method for other in folders[:place]) % len(shades)])
    return colours


def draw_metric(axes: Axes, folders: Sequence[RunFolder], colours: Sequence[str]) -> None:
    """Draw the metric of each run over stream time, its target, and when it got there."""
    metrics = list(dict.fromkeys(folder.summary.outcome.metric for folder in folders))
    targets = {folder.summary.outcome.target for folder in folders if folder.summary.outcome.target is not None}
    shares = all(metric.endswith("accuracy") for metric in metrics)
    end_s = max(folder.summary.time_s for folder in folders)
    name = ", ".join(metrics)
    title = "Accuracy" if metrics == ["accuracy"] else name
    dress(axes, f"{title} of the common model on the test set", name)
    for aim in sorted(targets):
        axes.axhline(aim, color=FAINT, lw=1, ls=(0, (4, 3)))
        beside = (4, 4) if not shares or aim <= _CROWDED else (4, -13)
        write(axes, f"target {aim:g}", (0, aim), beside, FAINT, xycoords=("axes fraction", "data"))
    for folder, colour in zip(folders, colours, strict=True):
        times, values = folder.tests()
        reached_s, target = folder.summary.time_to_target_s, folder.summary.outcome.target
        name = caption(folder.name) + (" (target not reached)" if target is not None and reached_s is None else "")
        alone = "o" if len(times) == 1 else None
        axes.plot(times, values, color=colour, lw=2.2, marker=alone, label=name, solid_capstyle="round")
        if reached_s is not None and target is not None:
            axes.vlines(reached_s, 0, target, color=colour, lw=1, ls=(0, (1, 2)))
            axes.plot(reached_s, target, "o", color=colour, ms=8, mec="white", mew=1.5, zorder=4)
            side: dict[str, Any] = {"ha": "right"} if reached_s > 0.85 * end_s else {}
            beside = (-6, -26) if side else (7, -15)
            write(axes, f"{reached_s:,.1f} s", (reached_s, target), beside, colour, fontweight="bold", **side)
    if shares:
        axes.set_ylim(0, 1.02)
    elif _all_above_zero(folders):
        axes.set_ylim(bottom=0)
    axes.set_xlim(0, 1.01 * end_s)
    axes.xaxis.set_major_formatter("{x:,g}")
    if len(folders) > 1 or "not reached" in str(axes.get_lines()[-1].get_label()):
        legend = axes.legend(loc="lower right", fontsize=10.5, labelcolor=INK, framealpha=0.9, edgecolor="none")
        legend.set_zorder(5)


def _all_above_zero(folders: Sequence[RunFolder]) -> bool:
    return all(bool((folder.tests()[1] >= 0).all()) for folder in folders)
