"""Pictures of runs: one run by itself, and several side by side.

Devices beyond :data:`MAX_DEVICES` are not read: evenly chosen ones stand for all, and the picture says so.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from scadles.errors import DataError, MissingExtraError, RunError
from scadles.observe.rundir import RunFolder

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

MAX_DEVICES = 64
_MAX_LINES = 8
_STRETCHES = 240
_INK, _FAINT = "#24292f", "#6e7781"
_DEVICE_COLOURS = ("#0b6bcb", "#e8590c", "#2b8a3e", "#9c36b5", "#c92a2a", "#0c8599", "#a6761d", "#5c5f66")
_METHOD_SHADES = {
    "scadles": ("#0b6bcb", "#0c8599", "#6741d9", "#4dabf7"),
    "ddl": ("#e8590c", "#c92a2a", "#f2a30f", "#a6761d"),
}
_PHASES = (
    ("wait_s", "waiting for samples", "#f2b134"),
    ("compute_s", "computing", "#2b8a3e"),
    ("sync_s", "synchronising", "#8c9eb5"),
)


def plot_run(folder: RunFolder, out: Path) -> None:
    """Draw one run: accuracy, batch sizes, buffers, and where the time went, over stream time.

    Raises:
        MissingExtraError: matplotlib is not installed.
        DataError: the run left no steps.
        RunError: ``out`` cannot be written.
    """
    figure, axes = _figure(wide_top=False)
    devices = _shown(folder)
    _accuracy(axes[0], [folder], _colours([folder]))
    _per_device(axes[1], folder, devices, ("batch",))
    _dress(axes[1], "Batch size", "samples per step")
    _per_device(axes[2], folder, devices, ("held", "lag"))
    _dress(axes[2], "Samples waiting to be trained on", "in the buffer and at the source")
    _phases_over_time(axes[3], folder, devices)
    summary = folder.summary
    some = f" ({len(devices)} of them shown)" if len(devices) < summary.devices else ""
    _finish(figure, f"{folder.name}: {summary.method}, {summary.devices} devices{some}, {summary.dataset}", out)


def plot_comparison(folders: Sequence[RunFolder], out: Path) -> None:
    """Draw runs over each other: accuracy with the time to the target, waiting samples, and where the time went.

    Raises:
        MissingExtraError: matplotlib is not installed.
        DataError: a run left no steps.
        RunError: ``out`` cannot be written.
    """
    figure, axes = _figure(wide_top=True)
    colours = _colours(folders)
    _accuracy(axes[0], folders, colours)
    _waiting(axes[1], folders, colours)
    _phase_bars(axes[2], folders, colours)
    _finish(figure, "", out)


def _figure(*, wide_top: bool) -> tuple[Figure, list[Axes]]:
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
        from matplotlib.layout_engine import ConstrainedLayoutEngine
    except ImportError:
        raise MissingExtraError("drawing a picture", "plots") from None
    layout = ConstrainedLayoutEngine(w_pad=0.12, h_pad=0.12, wspace=0.03, hspace=0.03)
    figure = Figure(figsize=(12, 7.2), dpi=100, layout=layout, facecolor="white")
    FigureCanvasAgg(figure)
    grid = figure.add_gridspec(2, 2, height_ratios=(1.25, 1) if wide_top else None)
    if wide_top:
        return figure, [figure.add_subplot(grid[0, :]), figure.add_subplot(grid[1, 0]), figure.add_subplot(grid[1, 1])]
    return figure, [figure.add_subplot(grid[row, column]) for row in (0, 1) for column in (0, 1)]


def _finish(figure: Figure, title: str, out: Path) -> None:
    if title:
        figure.suptitle(title, fontsize=14, fontweight="bold", color=_INK, x=0.01, ha="left")
    try:
        figure.savefig(out)
    except (OSError, ValueError) as error:
        raise RunError(f"cannot write the picture {out}: {error}") from error


def _dress(axes: Axes, title: str, y_label: str, x_label: str = "stream time (s)") -> None:
    axes.set_title(title, loc="left", fontsize=12, fontweight="bold", color=_INK)
    axes.set_xlabel(x_label, fontsize=10.5, color=_FAINT)
    axes.set_ylabel(y_label, fontsize=10.5, color=_FAINT)
    axes.tick_params(labelsize=10, colors=_FAINT, length=0)
    axes.grid(axis="y", color="#e6e8eb", lw=0.8)
    axes.set_axisbelow(True)
    axes.set_xlim(left=0)
    for side in ("top", "right", "left"):
        axes.spines[side].set_visible(False)
    axes.spines["bottom"].set_color("#c4c9cf")


def _colours(folders: Sequence[RunFolder]) -> list[str]:
    """Return a colour for each run: a method has its own family, runs of one method have shades of it."""
    colours = []
    for place, folder in enumerate(folders):
        method = folder.summary.method
        shades = _METHOD_SHADES.get(method, _DEVICE_COLOURS)
        colours.append(shades[sum(other.summary.method == method for other in folders[:place]) % len(shades)])
    return colours


def _accuracy(axes: Axes, folders: Sequence[RunFolder], colours: Sequence[str]) -> None:
    targets = {folder.summary.target_accuracy or 0.0 for folder in folders} - {0.0}
    _dress(axes, "Accuracy of the common model on the test set", "accuracy")
    for aim in sorted(targets):
        axes.axhline(aim, color=_FAINT, lw=1, ls=(0, (4, 3)))
        _write(axes, f"target {aim:g}", (0, aim), (4, 4), _FAINT, xycoords=("axes fraction", "data"))
    for folder, colour in zip(folders, colours, strict=True):
        times, accuracy = folder.accuracy()
        reached_s, target = folder.summary.time_to_target_s, folder.summary.target_accuracy
        label = folder.name + (" (target not reached)" if target and reached_s is None else "")
        axes.plot(times, accuracy, color=colour, lw=2.2, label=label, solid_capstyle="round")
        if reached_s is not None and target:
            axes.vlines(reached_s, 0, target, color=colour, lw=1, ls=(0, (1, 2)))
            axes.plot(reached_s, target, "o", color=colour, ms=8, mec="white", mew=1.5, zorder=4)
            _write(axes, f"{reached_s:,.1f} s", (reached_s, target), (7, -15), colour, fontweight="bold")
    axes.set_ylim(0, 1.02)
    axes.set_xlim(0, 1.01 * max(folder.summary.time_s for folder in folders))
    if len(folders) > 1 or "not reached" in str(axes.get_lines()[-1].get_label()):
        legend = axes.legend(loc="lower right", fontsize=10.5, labelcolor=_INK, framealpha=0.9, edgecolor="none")
        legend.set_zorder(5)


def _write(axes: Axes, text: str, at: tuple[float, float], offset: tuple[int, int], colour: str, **more: Any) -> None:
    axes.annotate(text, at, offset, textcoords="offset points", color=colour, fontsize=10.5, **more)


def _legend(axes: Axes) -> None:
    axes.legend(loc="upper right", ncols=4, frameon=False, fontsize=9.5, labelcolor=_INK, columnspacing=1.2)


def _waiting(axes: Axes, folders: Sequence[RunFolder], colours: Sequence[str]) -> None:
    for folder, colour in zip(folders, colours, strict=True):
        times, waiting = _mean_over_devices(folder, _shown(folder), ("held", "lag"))
        axes.plot(times, waiting, color=colour, lw=2.2, clip_on=False, zorder=3)
        axes.fill_between(times, waiting, color=colour, alpha=0.08, lw=0)
        last = float(times[-1]), float(waiting[-1])
        if len(folders) <= 2:
            _write(axes, f"{last[1]:,.0f}", last, (0, 6), colour, fontweight="bold", ha="right")
    _dress(axes, "Samples waiting to be trained on", "buffer and source, per device")
    axes.set_ylim(0, 1.12 * max(axes.get_ylim()[1], 4.0))
    axes.yaxis.set_major_formatter("{x:,.0f}")
    axes.locator_params(axis="y", integer=True)


def _shown(folder: RunFolder) -> list[int]:
    devices = folder.devices
    if not devices:
        raise DataError(f"{folder.path} has no events of any device: nothing to draw")
    chosen = np.linspace(0, len(devices) - 1, min(MAX_DEVICES, len(devices))).round().astype(int)
    return [devices[index] for index in chosen]


def _matrix(folder: RunFolder, devices: Sequence[int], columns: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
    """Return stream times ``[steps]`` and the sum of some columns ``[devices, steps]``, of the steps that all have.

    Many steps become :data:`_STRETCHES` stretches of time, each with its mean.
    """
    times = [folder.column(device, "time_s") for device in devices]
    values = [sum(np.nan_to_num(folder.column(device, name)) for name in columns) for device in devices]
    steps = min(map(len, times))
    if steps == 0:
        raise DataError(f"{folder.path}: a device made no step, nothing to draw")
    table = np.stack([row[:steps] for row in (*times, *values)])
    edges = np.linspace(0, steps, min(steps, _STRETCHES) + 1).astype(int)
    table = np.add.reduceat(table, edges[:-1], axis=1) / np.diff(edges)
    return table[: len(devices)].mean(axis=0), table[len(devices) :]


def _mean_over_devices(
    folder: RunFolder, devices: Sequence[int], columns: Sequence[str]
) -> tuple[np.ndarray, np.ndarray]:
    times, values = _matrix(folder, devices, columns)
    return times, values.mean(axis=0)


def _per_device(axes: Axes, folder: RunFolder, devices: Sequence[int], columns: Sequence[str]) -> None:
    """Draw a line for each of a few devices; of many, the median and how far they spread."""
    times, values = _matrix(folder, devices, columns)
    if len(devices) <= _MAX_LINES:
        for device, row, colour in zip(devices, values, _DEVICE_COLOURS, strict=False):
            axes.plot(times, row, color=colour, lw=1.5, label=f"device {device}", drawstyle="steps-mid")
    else:
        low, tenth, median, ninetieth, high = np.quantile(values, (0, 0.1, 0.5, 0.9, 1), axis=0)
        colour = _DEVICE_COLOURS[0]
        axes.fill_between(times, low, high, color=colour, alpha=0.12, lw=0, label="all")
        axes.fill_between(times, tenth, ninetieth, color=colour, alpha=0.25, lw=0, label="middle 80 %")
        axes.plot(times, median, color=colour, lw=1.8, label="median")
    axes.set_ylim(0, max(4.0, 1.3 * float(values.max())))
    axes.yaxis.set_major_formatter("{x:,.0f}")
    axes.locator_params(axis="y", integer=True)
    _legend(axes)


def _phases_over_time(axes: Axes, folder: RunFolder, devices: Sequence[int]) -> None:
    times, _ = _matrix(folder, devices, ("wait_s",))
    stacked = [_mean_over_devices(folder, devices, (phase,))[1] for phase, _, _ in _PHASES]
    axes.stackplot(times, stacked, colors=[p[2] for p in _PHASES], labels=[p[1] for p in _PHASES], lw=0)
    _dress(axes, "Where the time of a step goes, mean of devices", "stream seconds per step")
    axes.set_ylim(0, 1.25 * max(float(np.sum(stacked, axis=0).max()), 1e-6))
    _legend(axes)


def _phase_bars(axes: Axes, folders: Sequence[RunFolder], colours: Sequence[str]) -> None:
    places = np.arange(len(folders))
    left = np.zeros(len(folders))
    for name, title, colour in _PHASES:
        seconds = np.array([getattr(folder.summary.seconds, name.removesuffix("_s")) for folder in folders])
        axes.barh(places, seconds, left=left, height=0.55, color=colour, label=title)
        left += seconds
    _dress(axes, "Where the time went, mean of devices", "", "stream seconds")
    axes.grid(visible=False, axis="y")
    axes.grid(axis="x", color="#e6e8eb", lw=0.8)
    axes.set_yticks(places, [folder.name for folder in folders], fontsize=10.5)
    for label, colour in zip(axes.get_yticklabels(), colours, strict=True):
        label.set(color=colour, fontweight="bold")
    axes.set_ylim(len(folders) - 0.4, -0.95)
    _legend(axes)
