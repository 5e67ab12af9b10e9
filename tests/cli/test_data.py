"""``scadles data``: what a user types, and what a user can get wrong; and the same picture in a run folder."""

from functools import partial
from pathlib import Path

import pytest
import yaml

from scadles.config import load_config
from scadles.observe import RunFolder
from scadles.simulation import simulate


@pytest.fixture
def data(tmp_path, monkeypatch, command):
    """Type ``scadles data ARGUMENTS`` where there is a configuration of ten devices with one label each."""
    monkeypatch.chdir(tmp_path)
    Path("c.yaml").write_text(yaml.safe_dump({"devices": 10, "steps": 2, "data": {"partition": "labels"}}))
    return partial(command, "data")


def test_a_table_is_printed_and_nothing_left_behind(data):
    code, out, err = data("c.yaml")
    assert (code, err) == (0, "")
    assert out.splitlines()[0] == "Who holds what: digits, 10 devices, 1 label each"
    rows = [line.split() for line in out.splitlines() if line.strip()[:1].isdecimal()]
    assert [row[0] for row in rows] == [str(device) for device in range(10)]
    assert sorted(row[3] for row in rows) == [str(label) for label in range(10)]
    assert sum(int(row[1]) for row in rows) == 1442
    assert [path.name for path in Path().iterdir()] == ["c.yaml"]


def test_a_picture_is_drawn_where_it_is_asked_for(data):
    pytest.importorskip("matplotlib")
    code, out, _ = data("c.yaml", "--set", "data.partition=dirichlet", "--set", "devices=300", "--out", "p.png")
    assert code == 0
    assert "300 devices, Dirichlet shares (alpha 0.5) (100 devices shown)" in out
    assert out.endswith("picture: p.png\n")
    assert Path("p.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(
    ("setting", "told"),
    [
        ("devices=4", "error: data.labels_per_device = 1: 4 devices would hold 4 of 10 labels, and nobody the others"),
        ("devices=2000", "error: 1442 training samples cannot be dealt to 2000 devices"),
        ("data.labels_per_device=20", "error: data.labels_per_device = 20: the data set has 10 labels"),
        ("data.partition=by-label", "error: data.partition = 'by-label': input should be 'iid', 'shared'"),
    ],
)
def test_a_mistake_is_one_line(data, setting, told):
    code, out, err = data("c.yaml", "--set", setting)
    assert (code, out) == (2, "")
    assert err.startswith(told)
    assert err.count("\n") == 1


@pytest.mark.parametrize(
    ("settings", "drawn"),
    [
        ({"data": {"partition": "labels"}}, True),
        ({"data": {"size_spread": 1.0}}, True),
        ({}, False),
        ({"data": {"partition": "labels"}, "picture": False}, False),
    ],
)
def test_a_run_of_unequal_devices_leaves_the_picture(tmp_path, settings, drawn):
    pytest.importorskip("matplotlib")
    config = load_config({"devices": 10, "steps": 2, "stream": {"rates": 20}, **settings})
    simulate(config, out=tmp_path / "run", quiet=True)
    assert (tmp_path / "run" / "partition.png").exists() is drawn


@pytest.mark.parametrize("dataset", ["digits", "synthetic-images"])
def test_what_devices_are_trained_on_is_what_they_hold(tmp_path, dataset):
    config = load_config(
        {
            "devices": 10,
            "steps": 12,
            "stream": {"rates": 20},
            "picture": False,
            "data": {"dataset": dataset, "partition": "labels", "shape": [1, 8, 8]},
        }
    )
    summary = simulate(config, out=tmp_path / "run", quiet=True)
    assert len(summary.per_label) == 10
    for row in summary.per_device:
        steps = RunFolder(tmp_path / "run").steps(row.device)
        assert row.online_accuracy == sum(step.correct or 0 for step in steps) / sum(step.batch for step in steps)
    # with one label each, the first answers are right on the devices of few labels only, and there on all samples
    first = [RunFolder(tmp_path / "run").steps(device)[0] for device in range(10)]
    assert sum(step.correct > 0 for step in first) < 10
