"""Who holds what, as a table and as a picture."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from scadles.observe.console import human_count, print_table
from scadles.observe.drawing import COLOURS, FAINT, GRID, INK, dress, finish, new_figure, scale_counts, write

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

MOST_DEVICES = 100
_NAMED_LABELS = 4
_BUBBLES_DEVICES, _BUBBLES_LABELS = 32, 30
_BUBBLE_INCHES = 0.42
_EVERY_NAME = 24
_COLOURS = (*COLOURS, "#d6336c", "#74b816")


@dataclass(frozen=True)
class LabelDistribution:
    """Samples of each label on some devices.

    Attributes:
        devices: their numbers, ascending.
        of: how many devices there are.
        counts: samples, int64 ``[devices, labels]``.
        parts: whether a device has a part of a data set that ends, so that its size means something.
        title: what was dealt, and how.
        drifted: what they have after they have drifted once, int64 ``[devices, labels]``; None without drift.
        drift_samples: samples of its stream after which a device drifts.
    """

    devices: tuple[int, ...]
    of: int
    counts: np.ndarray
    parts: bool
    title: str
    drifted: np.ndarray | None = None
    drift_samples: int | None = None

    def print(self) -> None:
        """Print a line for each device to standard output."""
        columns = ["device", *["samples"] * self.parts, "labels", "mostly"]
        if self.drifted is not None:
            columns.append(self._after())
        rows = []
        for place, device in enumerate(self.devices):
            row = self.counts[place]
            cells = [str(device), *[human_count(int(row.sum()))] * self.parts, str(int((row > 0).sum())), _most(row)]
            rows.append(cells if self.drifted is None else [*cells, _most(self.drifted[place])])
        print_table(self._headline(), columns, rows)

    def plot(self, out: Path) -> None:
        """Draw devices against labels: bubbles for a few devices, shades for many; above them how much each has.

        Raises:
            MissingExtraError: matplotlib is not installed.
            RunError: ``out`` cannot be written.
        """
        pictures = [self.counts] if self.drifted is None else [self.counts, self.drifted]
        bubbles = len(self.devices) <= _BUBBLES_DEVICES and self.counts.shape[1] <= _BUBBLES_LABELS
        figure, rows = self._panels(len(pictures))
        if self.parts:
            self._draw_sizes(rows[0])
        for number, (axes, counts) in enumerate(zip(rows[-len(pictures) :], pictures, strict=True)):
            (self._draw_bubbles if bubbles else self._draw_shades)(axes, counts)
            title = self._after() if number else self._what(bubbles=bubbles)
            dress(axes, title.capitalize(), "label", "device" if number == len(pictures) - 1 else "")
            self._name_ticks(axes, across=True)
            axes.grid(visible=False)
        finish(figure, self._headline(), out)

    def _headline(self) -> str:
        shown = len(self.devices)
        return self.title + (f" ({shown} devices shown)" if shown < self.of else "")

    def _after(self) -> str:
        return f"after {human_count(self.drift_samples or 0)} samples of its stream"

    def _what(self, *, bubbles: bool) -> str:
        if not bubbles:
            return "share of each label in what a device has"
        return "samples of each label, by area" if self.parts else "how often each label comes, by area"

    def _panels(self, pictures: int) -> tuple[Figure, list[Axes]]:
        labels_in = float(np.clip(0.36 * self.counts.shape[1], 2.2, 6.0))
        heights = [*[1.3] * self.parts, *[labels_in] * pictures]
        figure = new_figure(sum(heights) + 0.9 * len(heights) + 0.5)
        grid = figure.add_gridspec(len(heights), 1, height_ratios=heights)
        return figure, [figure.add_subplot(grid[row, 0]) for row in range(len(heights))]

    def _draw_sizes(self, axes: Axes) -> None:
        sizes = self.counts.sum(axis=1)
        places = np.arange(len(sizes))
        axes.bar(places, sizes, width=0.7 if len(sizes) <= _BUBBLES_DEVICES else 0.9, color="#8c9eb5")
        if len(sizes) <= _EVERY_NAME:
            for place, size in zip(places.tolist(), sizes.tolist(), strict=True):
                write(axes, human_count(size), (place, size), (0, 3), FAINT, fontsize=9, ha="center")
        dress(axes, "Samples of each device", "samples", "")
        scale_counts(axes, 1.25 * float(sizes.max()), nbins=4)
        self._name_ticks(axes, across=False)

    def _draw_bubbles(self, axes: Axes, counts: np.ndarray) -> None:
        """Draw a disc for each device and label, its area in proportion to the samples."""
        places, labels = np.nonzero(counts)
        values = counts[places, labels] / counts.max()
        wide = 11.0 / max(len(self.devices), 1)
        points = 72 * min(_BUBBLE_INCHES, 0.9 * wide, 0.9 * 4.5 / counts.shape[1] + 0.05)
        for label in range(counts.shape[1]):
            axes.axhline(label, color=GRID, lw=0.8, zorder=0)
        colours = [_COLOURS[label % len(_COLOURS)] for label in labels.tolist()]
        axes.scatter(places, labels, s=values * points**2, c=colours, alpha=0.85, edgecolors="white", lw=0.8, zorder=2)

    def _draw_shades(self, axes: Axes, counts: np.ndarray) -> None:
        """Draw a column for each device, dark where much of what it has is of a label."""
        shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
        edges = np.arange(len(shares) + 1) - 0.5, np.arange(shares.shape[1] + 1) - 0.5
        mesh = axes.pcolormesh(*edges, shares.T, cmap="Blues", vmin=0, vmax=max(float(shares.max()), 1e-9), lw=0)
        bar = axes.figure.colorbar(mesh, ax=axes, pad=0.01, aspect=18, format="{x:.0%}")
        bar.outline.set_visible(False)
        bar.ax.tick_params(labelsize=9, colors=FAINT, length=0)

    def _name_ticks(self, axes: Axes, *, across: bool) -> None:
        count, labels = len(self.devices), self.counts.shape[1]
        axes.set_xlim(-0.6, count - 0.4)
        shown = np.arange(0, count, max(1, -(-count // _EVERY_NAME)))
        axes.set_xticks(shown, [str(self.devices[place]) for place in shown.tolist()])
        if across:
            axes.set_ylim(labels - 0.4, -0.6)
            axes.set_yticks(np.arange(0, labels, max(1, -(-labels // _EVERY_NAME))))
        axes.tick_params(axis="x", colors=INK)


def _most(counts: np.ndarray) -> str:
    """Return the labels of which there are most, with their shares.

    >>> _most(np.array([1, 0, 6, 1]))
    '2 (75 %), 0 (12 %), 3 (12 %)'
    """
    order = np.argsort(-counts, kind="stable")
    order = order[counts[order] > 0]
    named = ", ".join(f"{label} ({counts[label] / counts.sum():.0%})" for label in order[:_NAMED_LABELS].tolist())
    return named.replace("%", " %") + (" ..." if len(order) > _NAMED_LABELS else "")
