"""The timeline of a run: what each device does from moment to moment, and what comes of it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from scadles.errors import DataError
from scadles.observe.drawing import (
    FAINT,
    INK,
    PHASES,
    STRETCHES,
    draw_legend,
    draw_metric,
    dress,
    evenly,
    finish,
    new_figure,
    run_colours,
    scale_counts,
    shown_devices,
    write,
)
from scadles.observe.events import Step
from scadles.observe.rundir import RunFolder

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_MAX_ROWS = 16
_MAX_STEPS = 20
_WINDOW_STEPS = 14
_BAR = 0.78
_TRACK, _BAND, _HATCH = "#f3f4f6", "#eef1f5", "#ccd2d9"
_WAIT, _COMPUTE, _SYNC = ((title, colour) for _, title, colour in PHASES)
_PARTS = (_WAIT, _COMPUTE, ("waiting for the others", "#d5dde8"), _SYNC)


@dataclass(frozen=True)
class _Window:
    """The steps that are shown, by number, and the stream seconds they take."""

    first: int
    last: int
    start_s: float
    end_s: float
    whole: bool


@dataclass(frozen=True)
class _Span:
    """One step of all devices: from the first one's start to the end, and how long the exchange itself took."""

    start_s: float
    end_s: float
    exchange_s: float


def plot_timeline(folder: RunFolder, out: Path) -> None:
    """Draw what devices do over stream time: waiting, computing, synchronising, one row for each device.

    Rows are in order of the streams' rates. A dark mark stands where the device is ready that everybody waited for;
    the others' wait for it is drawn apart from the exchange, which takes as long as on the device that was ready
    last. A long run is shown by some steps from its middle. Below are the samples waiting, and the accuracy.

    Raises:
        MissingExtraError: matplotlib is not installed.
        DataError: the run left no steps.
        RunError: ``out`` cannot be written.
    """
    steps = {device: folder.steps(device) for device in shown_devices(folder)}
    if not any(steps.values()):
        raise DataError(f"{folder.path}: no device made a step, nothing to draw")
    window = _window([step for row in steps.values() for step in row], folder.thinned_to(steps))
    rows = _rows(folder, steps)
    colour = run_colours([folder])[0]
    rows_in = len(rows) * min(0.45, max(0.27, 4.3 / len(rows)))
    figure = new_figure(rows_in + 4.6)
    above, left, right = figure.subplot_mosaic("AA;BC", height_ratios=(rows_in + 1.1, 2.9)).values()
    _draw_rows(above, rows, steps, window)
    _dress_rows(above, folder, rows, window)
    _draw_waiting(left, list(steps.values()), colour)
    draw_metric(right, [folder], [colour])
    if not window.whole:
        _point_out((left, right), window)
    devices = f"{folder.summary.devices:,} device{'s' if folder.summary.devices > 1 else ''}"
    some = f" ({len(rows)} of them shown)" if len(rows) < folder.summary.devices else ""
    finish(figure, f"{folder.name}: {folder.summary.method}, {devices}{some}, {folder.summary.dataset}", out)


def _window(steps: Sequence[Step], thinned_to: int = 0) -> _Window:
    """Choose what to show: all steps of a short run, some from the middle of a long one, where none were removed."""
    numbers = sorted({step.step for step in steps})
    numbers = [number for number in numbers if number > thinned_to] or numbers
    whole = len(numbers) <= _MAX_STEPS and not thinned_to
    if not whole:
        begin = max(0, len(numbers) - _WINDOW_STEPS) // 2
        numbers = numbers[begin : begin + _WINDOW_STEPS]
    shown = [step for step in steps if numbers[0] <= step.step <= numbers[-1]]
    start_s, end_s = min(map(_start_s, shown)), max(step.time_s for step in shown)
    return _Window(numbers[0], numbers[-1], start_s, end_s, whole)


def _start_s(step: Step) -> float:
    return max(0.0, step.time_s - step.sync_s - step.compute_s - step.wait_s)


def _rows(folder: RunFolder, devices: Iterable[int]) -> list[int]:
    """Return the devices that get a row, from the fastest stream to the slowest, both among them."""
    rates = _rates(folder)
    ordered = sorted(devices, key=lambda device: (-rates.get(device, 0.0), device))
    return [ordered[index] for index in evenly(len(ordered), _MAX_ROWS)]


def _rates(folder: RunFolder) -> dict[int, float]:
    return {device.device: device.rate_hz for device in folder.summary.per_device}


def _draw_rows(axes: Axes, rows: Sequence[int], steps: dict[int, list[Step]], window: _Window) -> None:
    shown = {
        device: {step.step: step for step in row if window.first <= step.step <= window.last}
        for device, row in steps.items()
    }
    spans = _spans(shown)
    marks: list[tuple[float, int]] = []
    absent: list[tuple[float, float, int]] = []
    for place, device in enumerate(rows):
        own, bottom = shown[device], place - _BAR / 2
        axes.broken_barh([(window.start_s, window.end_s - window.start_s)], (bottom, _BAR), color=_TRACK, lw=0)
        for (title, colour), parts in zip(_PARTS, _parts(own.values(), spans), strict=True):
            axes.broken_barh(parts, (bottom, _BAR), color=colour, lw=0, label="" if place else title, zorder=2)
        axes.vlines([step.time_s for step in own.values()], bottom, bottom + _BAR, color="white", lw=1, zorder=3)
        # nobody is waited for in a step in which all are ready at once
        slow = [step for step in own.values() if step.slowest == device and step.slowest_s > 0]
        marks += [(step.time_s - step.sync_s, place) for step in slow]
        absent += [(span.start_s, span.end_s, place) for number, span in spans.items() if number not in own]
    if marks:
        times, places = zip(*marks, strict=True)
        axes.plot(times, places, "d", color=INK, ms=4.5, mew=0, zorder=4, label="all waited for it")
    for index, (start_s, end_s, place) in enumerate(absent):
        axes.broken_barh(
            [(start_s, end_s - start_s)],
            (place - _BAR / 2, _BAR),
            facecolor=_TRACK,
            edgecolor=_HATCH,
            hatch="////",
            lw=0,
            label="" if index else "absent",
        )
    _number_steps(axes, spans, 0.025 * (window.end_s - window.start_s))


def _spans(shown: Mapping[int, Mapping[int, Step]]) -> dict[int, _Span]:
    """Return each step's span, from the steps of each device by number."""
    together: dict[int, dict[int, Step]] = {}
    for device, own in shown.items():
        for number, step in own.items():
            together.setdefault(number, {})[device] = step
    return {
        number: _Span(min(map(_start_s, of.values())), max(step.time_s for step in of.values()), _exchange_s(of))
        for number, of in sorted(together.items())
    }


def _exchange_s(steps: Mapping[int, Step]) -> float:
    """Return how long a step's exchange took: the time that it took the device that was ready last.

    Where that one left no events, it is known how much later than the first device it was ready.
    """
    waits_s = [step.sync_s for step in steps.values()]
    some = next(iter(steps.values()))
    if some.slowest in steps:
        return min(waits_s)
    return min(*waits_s, max(0.0, max(waits_s) - some.slowest_s))


def _parts(steps: Iterable[Step], spans: dict[int, _Span]) -> list[list[tuple[float, float]]]:
    """Return start and length of each part of a device's steps, in the order of :data:`_PARTS`."""
    wait, compute, others, sync = [], [], [], []
    for step in steps:
        exchange_s = spans[step.step].exchange_s
        ready_s = step.time_s - step.sync_s
        wait.append((ready_s - step.compute_s - step.wait_s, step.wait_s))
        compute.append((ready_s - step.compute_s, step.compute_s))
        others.append((ready_s, step.sync_s - exchange_s))
        sync.append((step.time_s - exchange_s, exchange_s))
    return [wait, compute, others, sync]


def _number_steps(axes: Axes, spans: dict[int, _Span], room_s: float) -> None:
    """Write the number of each step over it, where there is room."""
    for number, span in spans.items():
        if span.end_s - span.start_s >= room_s:
            at = ((span.start_s + span.end_s) / 2, -0.5)
            write(axes, f"{number:,}", at, (0, 3), FAINT, ha="center", fontsize=8.5)


def _dress_rows(axes: Axes, folder: RunFolder, rows: Sequence[int], window: _Window) -> None:
    last = folder.summary.steps
    some = f"steps {window.first:,} to {window.last:,} of {last:,}, from the middle of the run"
    dress(axes, f"What each device does: {'all steps' if window.whole else some}", "", title_pad=42)
    rates = _rates(folder)
    axes.grid(visible=False)
    axes.set_yticks(range(len(rows)), [_row_label(device, rates.get(device)) for device in rows])
    axes.set_ylim(len(rows) - 0.4, -0.6)
    axes.set_xlim(window.start_s, window.end_s)
    axes.xaxis.set_major_formatter("{x:,g}")
    draw_legend(axes, loc="lower left", bbox_to_anchor=(0.0, 1.0), borderaxespad=1.6, borderpad=0, ncols=6)


def _row_label(device: int, rate_hz: float | None) -> str:
    """Name a device and its rate in samples a second, whole ones unless it is slow."""
    if rate_hz is None:
        return f"device {device}"
    return f"device {device} · {rate_hz:,.{0 if rate_hz >= 9.95 else 1}f}/s"


def _draw_waiting(axes: Axes, rows: Sequence[Sequence[Step]], colour: str) -> None:
    """Draw the samples waiting on the fullest, the median and the least device."""
    times, waiting = _waiting_table(rows)
    edges = np.linspace(0, len(times), min(len(times), STRETCHES) + 1).astype(int)
    last_of = edges[1:] - 1
    most = np.maximum.reduceat(np.nanmax(waiting, axis=0), edges[:-1])
    least = np.minimum.reduceat(np.nanmin(waiting, axis=0), edges[:-1])
    median = np.nanmedian(waiting, axis=0)[last_of]
    at, alone = times[last_of], "o" if len(last_of) == 1 else None
    if len(rows) > 1:
        axes.fill_between(at, least, most, color=colour, alpha=0.10, lw=0)
        axes.plot(at, most, color=colour, lw=1.2, alpha=0.6, marker=alone, label="fullest device")
    axes.plot(at, median, color=colour, lw=2.2, marker=alone, label="median device")
    if len(rows) > 1:
        axes.plot(at, least, color=colour, lw=1.2, alpha=0.6, marker=alone, ls=(0, (3, 2)), label="least device")
        draw_legend(axes)
    dress(axes, "Samples waiting to be trained on", "in buffer and source")
    scale_counts(axes, 1.3 * max(4.0, float(most.max())))
    axes.xaxis.set_major_formatter("{x:,g}")


def _waiting_table(rows: Sequence[Sequence[Step]]) -> tuple[np.ndarray, np.ndarray]:
    """Return each step's stream seconds ``[steps]`` and samples waiting ``[devices, steps]``, NaN of absent devices."""
    numbers = sorted({step.step for row in rows for step in row})
    column = {number: index for index, number in enumerate(numbers)}
    times = np.zeros(len(numbers))
    waiting = np.full((len(rows), len(numbers)), np.nan)
    for place, row in enumerate(rows):
        for step in row:
            index = column[step.step]
            times[index] = max(times[index], step.time_s)
            waiting[place, index] = step.held + (step.lag or 0)
    return times, waiting


def _point_out(panels: Sequence[Axes], window: _Window) -> None:
    """Show in the panels over the whole run where the steps above are from."""
    for axes in panels:
        axes.axvspan(window.start_s, window.end_s, facecolor=_BAND, edgecolor=_BAND, lw=1.5, zorder=0)
    middle = ((window.start_s + window.end_s) / 2, 0)
    write(panels[-1], "shown above", middle, (0, 5), FAINT, xycoords=("data", "axes fraction"), ha="center", fontsize=9)
