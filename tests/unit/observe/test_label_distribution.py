import dataclasses

import numpy as np
import pytest

from scadles.errors import RunError
from scadles.observe import LabelDistribution

COUNTS = np.array([[5, 0, 1], [0, 20, 0], [3, 3, 3]])


@pytest.fixture
def distribution():
    return LabelDistribution(devices=(0, 1, 2), of=3, counts=COUNTS, parts=True, title="Who holds what: made up")


def lines(distribution, capsys):
    distribution.print()
    return [line.split() for line in capsys.readouterr().out.splitlines()]


def test_the_table_has_a_line_for_each_device(distribution, capsys):
    said = lines(distribution, capsys)
    assert said[0] == ["Who", "holds", "what:", "made", "up"]
    assert ["1", "20", "1", "1", "(100", "%)"] in said
    assert ["0", "6", "2", "0", "(83", "%),", "2", "(17", "%)"] in said


def test_drift_and_a_part_of_the_devices_are_told(distribution, capsys):
    after = np.roll(COUNTS, -1, axis=0)
    changed = dataclasses.replace(
        distribution, devices=(0, 50, 99), of=100, drifted=after, drift_samples=2000, parts=False
    )
    changed.print()
    said = capsys.readouterr().out
    assert "made up (3 devices shown)" in said
    assert "after 2,000 samples of its stream" in said
    assert "samples  " not in said
    assert ["0", "2", "0", "(83", "%),", "2", "(17", "%)", "1", "(100", "%)"] in [
        row.split() for row in said.splitlines()
    ]


def texts(path, distribution, monkeypatch):
    """Draw; return what is written in the picture."""
    from matplotlib.figure import Figure
    from matplotlib.text import Text

    seen = []
    save = Figure.savefig

    def spy(figure, out):
        save(figure, out)
        seen.extend(text.get_text() for text in figure.findobj(Text))
        seen.extend(type(made).__name__ for axes in figure.axes for made in axes.collections)

    monkeypatch.setattr(Figure, "savefig", spy)
    distribution.plot(path)
    assert path.read_bytes().startswith(b"\x89PNG")
    return seen


def test_few_devices_are_drawn_as_bubbles_with_their_sizes(distribution, tmp_path, monkeypatch):
    pytest.importorskip("matplotlib")
    said = texts(tmp_path / "few.png", distribution, monkeypatch)
    assert {"Who holds what: made up", "Samples of each device", "Samples of each label, by area", "20"} <= set(said)
    assert "PathCollection" in said
    assert "QuadMesh" not in said


def test_many_devices_or_labels_are_drawn_as_shades(tmp_path, monkeypatch):
    pytest.importorskip("matplotlib")
    for shape in ((100, 10), (10, 100)):
        counts = np.random.default_rng(0).integers(0, 9, shape)
        many = LabelDistribution(tuple(range(shape[0])), shape[0], counts, False, "many", counts[::-1], 300)
        said = texts(tmp_path / "many.png", many, monkeypatch)
        assert said.count("QuadMesh") >= 2
        assert {"Share of each label in what a device has", "After 300 samples of its stream"} <= set(said)
        assert "Samples of each device" not in said


def test_a_bubble_is_as_large_as_what_it_stands_for(distribution, tmp_path, monkeypatch):
    pytest.importorskip("matplotlib")
    from matplotlib.axes import Axes

    drawn = {}
    monkeypatch.setattr(Axes, "scatter", lambda _, x, y, s, **more: drawn.update(x=x, y=y, s=s))
    distribution.plot(tmp_path / "x.png")
    found = np.zeros(COUNTS.shape)
    found[drawn["x"], drawn["y"]] = drawn["s"] / drawn["s"].max() * COUNTS.max()
    np.testing.assert_allclose(found, COUNTS)


def test_a_picture_that_cannot_be_written_says_so(distribution, tmp_path):
    pytest.importorskip("matplotlib")
    with pytest.raises(RunError, match="cannot write the picture"):
        distribution.plot(tmp_path / "no" / "x.png")
