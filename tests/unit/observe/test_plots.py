import math
import subprocess
import sys

import numpy as np
import pytest

from scadles.errors import DataError, MissingExtraError, RunError
from scadles.observe import (
    ChosenWindow,
    Evaluation,
    Measured,
    RunFolder,
    WindowChange,
    events_path,
    plot_comparison,
    plot_run,
)
from scadles.observe.plots import _matrix

PNG = b"\x89PNG\r\n\x1a\n"


def width(path):
    data = path.read_bytes()
    assert data.startswith(PNG)
    return int.from_bytes(data[16:20], "big")


@pytest.mark.parametrize("devices", [1, 12])
def test_a_run_becomes_a_picture(new_run, tmp_path, devices):
    pytest.importorskip("matplotlib")
    plot_run(RunFolder(new_run(devices=devices, steps=9)), tmp_path / "progress.png")
    assert width(tmp_path / "progress.png") == 1200


def test_windows_that_were_chosen_are_in_the_picture(new_run, tmp_path):
    pytest.importorskip("matplotlib")
    chosen = ChosenWindow(window_s=0.5, first_s=1.0, changes=1, noise_scale=9.0, low=8.0, high=None, why="because")
    path = new_run(steps=9, window=chosen)
    with events_path(path, 0).open("a") as log:
        change = WindowChange(step=4, time_s=4.8, window_s=0.5, why="because", noise_scale=9.0, low=8.0, high=None)
        log.write(change.to_json() + "\n")
    plot_run(RunFolder(path), tmp_path / "progress.png")
    assert width(tmp_path / "progress.png") == 1200


def test_runs_become_one_picture(new_run, tmp_path):
    pytest.importorskip("matplotlib")
    runs = [new_run("a", method="ddl", steps=9), new_run("b"), new_run("c", method="own", target=None, steps=300)]
    plot_comparison([RunFolder(run) for run in runs], tmp_path / "all.png")
    assert width(tmp_path / "all.png") == 1200


def test_a_run_without_steps_cannot_be_drawn(new_run, tmp_path):
    pytest.importorskip("matplotlib")
    run = new_run(devices=1)
    header = events_path(run, 0).read_text().splitlines()[0]
    events_path(run, 0).write_text(header + "\n")
    with pytest.raises(DataError, match="made no step"):
        plot_run(RunFolder(run), tmp_path / "x.png")
    events_path(run, 0).unlink()
    with pytest.raises(DataError, match="no events"):
        plot_run(RunFolder(run), tmp_path / "x.png")


@pytest.mark.parametrize("name", ["no/x.png", "x.unknown"])
def test_a_picture_that_cannot_be_written_says_so(new_run, tmp_path, name):
    pytest.importorskip("matplotlib")
    with pytest.raises(RunError, match="cannot write the picture"):
        plot_run(RunFolder(new_run(steps=3)), tmp_path / name)


def test_without_matplotlib_the_extra_is_named(new_run, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(MissingExtraError, match=r"pip install 'scadles\[plots\]'"):
        plot_run(RunFolder(new_run(steps=3)), tmp_path / "x.png")


def test_matplotlib_is_imported_only_to_draw():
    code = "import sys, scadles.observe; sys.exit('matplotlib' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_steps_that_a_device_was_away_for_are_left_out_not_shifted(new_run):
    pytest.importorskip("matplotlib")
    run = new_run(devices=2, steps=9)
    lines = events_path(run, 1).read_text().splitlines(keepends=True)
    away = [f'"step","step":{number},' for number in (1, 2, 3)]
    events_path(run, 1).write_text("".join(line for line in lines if not any(step in line for step in away)))
    folder = RunFolder(run)
    times, batches = _matrix(folder, (0, 1), ("batch",))
    assert np.isnan(batches[1]).tolist() == [True] * 3 + [False] * 6
    assert batches[1, 3:].tolist() == folder.column(1, "batch").tolist()
    assert times[:3].tolist() == folder.column(0, "time_s")[:3].tolist()


@pytest.mark.parametrize("values", [[math.nan, math.inf, 1.0], [math.nan], [1e300, -1e300, 2.0], [0.0, 1e-300]])
def test_metrics_of_a_model_that_diverged_are_drawn(new_run, tmp_path, values):
    pytest.importorskip("matplotlib")
    outcome = Measured(
        task="regression", metric="mae", higher_is_better=False, target=0.5, final=None, best=None, metrics={}
    )
    run = new_run(devices=1, steps=2, target=None, measured=outcome)
    with events_path(run, 0).open("a") as file:
        for value in values:
            tested = Evaluation(step=2, time_s=2.0, loss=0.1, samples_trained=9, metrics={"mae": value})
            file.write(tested.to_json() + "\n")
    plot_run(RunFolder(run), tmp_path / "progress.png")
    assert width(tmp_path / "progress.png") == 1200
