import math
import sys

import numpy as np
import pytest

from scadles.errors import MissingExtraError, RunError
from scadles.observe.paper_plots import BarPanel, Curve, CurvePanel, Level, SpreadPanel, plot_panels

X = np.array([1.0, 10.0, 100.0])
CURVES = CurvePanel(
    title="curves",
    y_label="GB",
    x_label="steps",
    curves=(Curve("ours", X, X, "ours"), Curve("paper", X, 2 * X, "paper", "points")),
    levels=(Level(5.0, "five", "rule"),),
    log="xy",
)
BARS = BarPanel(
    title="bars", y_label="times", groups=("S1", "S2"), series={"paper": (math.nan, -2.0), "ours": (1.0, 3.0)}, span=2
)
SPREADS = SpreadPanel(title="spreads", y_label="s", groups=("S1",), series={"ours": [(0.5, 2.0)]})


def drawn(panel):
    """Return the axes on which a panel was drawn."""
    figure = pytest.importorskip("matplotlib.figure").Figure()
    axes = figure.add_subplot()
    panel.draw(axes)
    panel.frame(axes)
    return axes


def texts(axes):
    return [text.get_text() for text in axes.texts]


def test_curves_lie_within_logarithmic_axes():
    axes = drawn(CURVES)
    assert (axes.get_xscale(), axes.get_yscale()) == ("log", "log")
    assert axes.get_xlim()[0] < 1.0 < 100.0 < axes.get_xlim()[1]
    assert texts(axes) == ["five"]


def test_bars_carry_their_numbers_and_a_word_where_there_is_none():
    axes = drawn(BARS)
    assert texts(axes) == ["never", "-2.00", "1.00", "3.00"]
    assert [bar.get_height() for bar in axes.patches] == [0.0, -2.0, 1.0, 3.0]
    assert axes.get_ylim()[0] < -2.0
    assert axes.get_ylim()[1] > 3.0


def test_ranges_go_from_their_lowest_to_their_highest():
    axes = drawn(SPREADS)
    (bar,) = axes.patches
    assert (bar.get_y(), bar.get_height()) == (0.5, 1.5)
    assert sorted(texts(axes)) == ["0.5", "2"]
    assert axes.get_ylim()[0] < 0.0


def test_panels_fill_rows_by_their_span(tmp_path):
    pytest.importorskip("matplotlib")
    plot_panels("a title", [CURVES, SPREADS, BARS], tmp_path / "wide.png", columns=2)
    plot_panels("a title", [CURVES, SPREADS], tmp_path / "flat.png", columns=2)
    heights = [int.from_bytes((tmp_path / name).read_bytes()[20:24], "big") for name in ("wide.png", "flat.png")]
    assert heights[0] - heights[1] == pytest.approx(310, abs=1)  # releases of matplotlib round differently


def test_a_picture_that_cannot_be_written_says_so(tmp_path):
    pytest.importorskip("matplotlib")
    with pytest.raises(RunError, match="cannot write the picture"):
        plot_panels("", [BARS], tmp_path / "no" / "x.png", columns=2)


def test_without_matplotlib_the_extra_is_named(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(MissingExtraError, match=r"pip install 'scadles\[plots\]'"):
        plot_panels("", [BARS], tmp_path / "x.png", columns=2)
