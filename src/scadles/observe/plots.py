"""Pictures of runs: one run by itself, and several side by side.

Devices beyond :data:`~scadles.observe.drawing.MAX_DEVICES` are not read: evenly chosen ones stand for all, and the
picture says so.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from scadles.errors import DataError
from scadles.observe.drawing import (
    COLOURS,
    FAINT,
    GRID,
    PHASES,
    STRETCHES,
    caption,
    draw_legend,
    draw_metric,
    dress,
    finish,
    new_figure,
    run_colours,
    scale_counts,
    shown_devices,
    write,
)
from scadles.observe.events import WindowChange
from scadles.observe.rundir import RunFolder

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_MAX_LINES = 8


def plot_run(folder: RunFolder, out: Path) -> None:
    """Draw one run: its metric, batch sizes, buffers, and where the time went, over stream time.

    Raises:
        MissingExtraError: matplotlib is not installed.
        DataError: the run left no steps.
        RunError: ``out`` cannot be written.
    """
    figure = new_figure()
    axes = figure.subplots(2, 2).ravel()
    devices = shown_devices(folder)
    draw_metric(axes[0], [folder], run_colours([folder]))
    _per_device(axes[1], folder, devices, ("batch",))
    _window_changes(axes[1], folder, devices[0])
    dress(axes[1], "Batch size", "samples per step")
    _per_device(axes[2], folder, devices, ("held", "lag"))
    dress(axes[2], "Samples waiting to be trained on", "in the buffer and at the source")
    _phases_over_time(axes[3], folder, devices)
    summary = folder.summary
    some = f" ({len(devices)} of them shown)" if len(devices) < summary.devices else ""
    finish(figure, f"{folder.name}: {summary.method}, {summary.devices} devices{some}, {summary.dataset}", out)


def plot_comparison(folders: Sequence[RunFolder], out: Path) -> None:
    """Draw runs over each other: their metric with the time to the target, waiting samples, and where the time went.

    Raises:
        MissingExtraError: matplotlib is not installed.
        DataError: a run left no steps.
        RunError: ``out`` cannot be written.
    """
    figure = new_figure()
    above, left, right = figure.subplot_mosaic("AA;BC", height_ratios=(1.25, 1)).values()
    colours = run_colours(folders)
    draw_metric(above, folders, colours)
    _waiting(left, folders, colours)
    _phase_bars(right, folders, colours)
    finish(figure, "", out)


def _waiting(axes: Axes, folders: Sequence[RunFolder], colours: Sequence[str]) -> None:
    for folder, colour in zip(folders, colours, strict=True):
        times, waiting = _mean_over_devices(folder, shown_devices(folder), ("held", "lag"))
        axes.plot(times, waiting, color=colour, lw=2.2, clip_on=False, zorder=3)
        axes.fill_between(times, waiting, color=colour, alpha=0.08, lw=0)
        last = float(times[-1]), float(waiting[-1])
        if len(folders) <= 2:
            write(axes, f"{last[1]:,.0f}", last, (0, 6), colour, fontweight="bold", ha="right")
    dress(axes, "Samples waiting to be trained on", "buffer and source, per device")
    scale_counts(axes, 1.12 * max(axes.get_ylim()[1], 4.0))


def _matrix(folder: RunFolder, devices: Sequence[int], columns: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
    """Return stream times ``[steps]`` and the sum of some columns ``[devices, steps]``, NaN where a device was away.

    Many steps become stretches of time, each with its mean.
    """
    numbers = [folder.column(device, "step").astype(int) for device in devices]
    if min(map(len, numbers)) == 0:
        raise DataError(f"{folder.path}: a device made no step, nothing to draw")
    steps = np.unique(np.concatenate(numbers))
    table = np.full((2, len(devices), len(steps)), np.nan)
    for row, device in enumerate(devices):
        places = np.searchsorted(steps, numbers[row])
        table[0, row, places] = folder.column(device, "time_s")
        table[1, row, places] = sum(np.nan_to_num(folder.column(device, name)) for name in columns)
    edges = np.linspace(0, len(steps), min(len(steps), STRETCHES) + 1).astype(int)[:-1]
    counts = np.add.reduceat(~np.isnan(table), edges, axis=2, dtype=np.int64)
    with np.errstate(invalid="ignore"):
        times, values = np.add.reduceat(np.nan_to_num(table), edges, axis=2) / counts
    return np.nanmean(times, axis=0), values


def _mean_over_devices(
    folder: RunFolder, devices: Sequence[int], columns: Sequence[str]
) -> tuple[np.ndarray, np.ndarray]:
    times, values = _matrix(folder, devices, columns)
    return times, np.nanmean(values, axis=0)


def _per_device(axes: Axes, folder: RunFolder, devices: Sequence[int], columns: Sequence[str]) -> None:
    """Draw a line for each of a few devices; of many, the median and how far they spread."""
    times, values = _matrix(folder, devices, columns)
    if len(devices) <= _MAX_LINES:
        for device, row, colour in zip(devices, values, COLOURS, strict=False):
            axes.plot(times, row, color=colour, lw=1.5, label=f"device {device}", drawstyle="steps-mid")
    else:
        low, tenth, median, ninetieth, high = np.nanquantile(values, (0, 0.1, 0.5, 0.9, 1), axis=0)
        colour = COLOURS[0]
        axes.fill_between(times, low, high, color=colour, alpha=0.12, lw=0, label="all")
        axes.fill_between(times, tenth, ninetieth, color=colour, alpha=0.25, lw=0, label="middle 80 %")
        axes.plot(times, median, color=colour, lw=1.8, label="median")
    scale_counts(axes, max(4.0, 1.3 * float(np.nanmax(values))))
    draw_legend(axes)


def _window_changes(axes: Axes, folder: RunFolder, device: int) -> None:
    """Mark when another window was chosen, with its seconds."""
    if folder.summary.window is None:
        return
    for event in folder.events(device):
        if isinstance(event, WindowChange):
            axes.axvline(event.time_s, color=FAINT, lw=0.8, ls=":")
            write(axes, f"{event.window_s:.3g} s", (event.time_s, 0.0), (3, 3), FAINT, fontsize=9)


def _phases_over_time(axes: Axes, folder: RunFolder, devices: Sequence[int]) -> None:
    times, _ = _matrix(folder, devices, ("wait_s",))
    stacked = [_mean_over_devices(folder, devices, (phase,))[1] for phase, _, _ in PHASES]
    axes.stackplot(times, stacked, colors=[p[2] for p in PHASES], labels=[p[1] for p in PHASES], lw=0)
    dress(axes, "Where the time of a step goes, mean of devices", "stream seconds per step")
    axes.set_ylim(0, 1.25 * max(float(np.sum(stacked, axis=0).max()), 1e-6))
    draw_legend(axes)


def _phase_bars(axes: Axes, folders: Sequence[RunFolder], colours: Sequence[str]) -> None:
    places = np.arange(len(folders))
    left = np.zeros(len(folders))
    for name, title, colour in PHASES:
        seconds = np.array([getattr(folder.summary.seconds, name.removesuffix("_s")) for folder in folders])
        axes.barh(places, seconds, left=left, height=0.55, color=colour, label=title)
        left += seconds
    dress(axes, "Where the time went, mean of devices", "", "stream seconds")
    axes.grid(visible=False, axis="y")
    axes.grid(axis="x", color=GRID, lw=0.8)
    axes.set_yticks(places, [caption(folder.name) for folder in folders], fontsize=10.5)
    for label, colour in zip(axes.get_yticklabels(), colours, strict=True):
        label.set(color=colour, fontweight="bold")
    axes.set_ylim(len(folders) - 0.4, -0.95)
    draw_legend(axes)
