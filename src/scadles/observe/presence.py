"""Who was there when, in a run whose devices come and go."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from scadles.errors import DataError
from scadles.observe.drawing import COLOURS, FAINT, INK, caption, draw_legend, dress, finish, new_figure, scale_counts
from scadles.observe.events import Finished, Header, Membership, Step
from scadles.observe.rundir import read_events

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_TRACK = "#f3f4f6"
_BAR = 0.62


class Presence(NamedTuple):
    """When a device took part.

    Attributes:
        name: of the device.
        spans: stream seconds of its first and last step, of steps that follow each other.
        steps: the numbers of its steps, ascending.
        left_by: why it is not there after its last step; empty where its events do not say.
    """

    name: str
    spans: Sequence[tuple[float, float]]
    steps: Sequence[int]
    left_by: str


def read_presence(path: Path) -> Presence:
    """Return when a device took part, from its file of events.

    Raises:
        DataError: it holds no step.
    """
    events = read_events(path)
    steps = [event for event in events if isinstance(event, Step)]
    if not steps:
        raise DataError(f"{path}: no step in these events, nothing to draw")
    number = next((event.device for event in events if isinstance(event, Header)), 0)
    names = [event.names.get(str(number), "") for event in events if isinstance(event, Membership)]
    spans, began = [], steps[0]
    for before, after in [*pairwise(steps), (steps[-1], None)]:
        if after is None or after.step != before.step + 1:
            spans.append((max(0.0, began.time_s - began.wait_s - began.compute_s - began.sync_s), before.time_s))
            began = after or before
    last = events[-1]
    left_by = last.reason if isinstance(last, Finished) else ""
    return Presence(next(filter(None, names), f"device {number}"), spans, [step.step for step in steps], left_by)


def plot_presence(paths: Sequence[Path], out: Path) -> None:
    """Draw who was there when, one row for each device, and how many took part in each step.

    Args:
        paths: files of events, of one device each.
        out: the picture.

    Raises:
        MissingExtraError: matplotlib is not installed.
        DataError: a device left no steps.
        RunError: ``out`` cannot be written.
    """
    rows = sorted((read_presence(path) for path in paths), key=lambda row: row.name)
    figure = new_figure(2.6 + 0.45 * len(rows) + 2.0)
    above, below = figure.subplot_mosaic("A;B", height_ratios=(0.45 * len(rows) + 1.2, 2.2)).values()
    _draw_rows(above, rows)
    _draw_counts(below, rows)
    finish(figure, f"{len(rows)} devices, {max(row.steps[-1] for row in rows):,} steps", out)


def _draw_rows(axes: Axes, rows: Sequence[Presence]) -> None:
    end_s = max(row.spans[-1][1] for row in rows)
    came: list[tuple[float, int]] = []
    gone: list[tuple[float, int]] = []
    for place, row in enumerate(rows):
        bars = [(begin, end - begin) for begin, end in row.spans]
        axes.broken_barh([(0, end_s)], (place - _BAR / 2, _BAR), color=_TRACK, lw=0)
        axes.broken_barh(bars, (place - _BAR / 2, _BAR), color=COLOURS[place % len(COLOURS)], lw=0, zorder=2)
        came += [(begin, place) for begin, _ in row.spans]
        gone += [(end, place) for _, end in row.spans[:-1]]
    for marks, shape, label in ((came, ">", "comes"), (gone, "x", "is lost or leaves")):
        if marks:
            times, places = zip(*marks, strict=True)
            axes.plot(times, places, shape, color=INK, ms=5, zorder=4, clip_on=False, label=label)
    dress(axes, "Who is there when", "", title_pad=26)
    axes.grid(visible=False)
    axes.set_yticks(range(len(rows)), [caption(f"{row.name}: {len(row.steps):,} steps") for row in rows])
    axes.set_ylim(len(rows) - 0.4, -0.6)
    axes.set_xlim(0, end_s)
    axes.xaxis.set_major_formatter("{x:,g}")
    draw_legend(axes, loc="lower left", bbox_to_anchor=(0.0, 1.0), borderpad=0)


def _draw_counts(axes: Axes, rows: Sequence[Presence]) -> None:
    counts: dict[int, int] = {}
    for row in rows:
        for step in row.steps:
            counts[step] = counts.get(step, 0) + 1
    numbers = sorted(counts)
    axes.step(numbers, [counts[number] for number in numbers], color=FAINT, where="mid", lw=1.6)
    dress(axes, "Devices that take part in a step", "devices", "step")
    scale_counts(axes, len(rows) + 0.6)
    axes.set_xlim(0, numbers[-1])
    axes.xaxis.set_major_formatter("{x:,.0f}")
