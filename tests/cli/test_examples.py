"""The examples of tasks, as a user runs them: simulated, and as four processes; DDL beside ScaDLES."""

import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from sklearn.metrics import roc_auc_score

from scadles.assembly import build_dataset, build_network
from scadles.config import load_config
from scadles.observe import RunFolder

EXAMPLES = Path(__file__).parents[2] / "examples"
METRICS = {"activity": "accuracy", "tabular": "mae", "forecast": "mae", "anomaly": "mse"}
REAL = Path(__file__).parents[2].parent / "shared" / "data"


@pytest.fixture
def simulated(tmp_path, monkeypatch, command):
    """Type ``scadles simulate EXAMPLE``; return the run folder."""
    monkeypatch.chdir(tmp_path)

    def run(name, *settings):
        out = f"{name}-{len(list(tmp_path.iterdir()))}"
        given = [part for setting in ("picture=false", *settings) for part in ("--set", setting)]
        code, _, err = command("simulate", EXAMPLES / f"{name}.yaml", *given, "--out", out)
        assert code == 0, err
        return RunFolder(tmp_path / out)

    return run


@pytest.mark.parametrize("name", METRICS)
def test_an_example_reaches_its_target_sooner_than_ddl(simulated, command, name):
    ddl, scadles = simulated(name, "method=ddl").summary, simulated(name).summary
    assert (scadles.ended_by, scadles.outcome.metric) == ("target", METRICS[name])
    assert ddl.time_to_target_s is None or scadles.time_to_target_s < ddl.time_to_target_s


@pytest.mark.parametrize("name", METRICS)
def test_an_example_runs_as_four_processes(tmp_path, start_training, finding, name):
    run = start_training(tmp_path, EXAMPLES / f"{name}.yaml", "--local", 4, "--set", "picture=false", "--out", "run")
    assert run.wait(200) == 0, run.err
    summary = RunFolder(tmp_path / "run").summary
    assert summary.ended_by in ("target", "duration")  # a busy machine drops what it has no time for
    finding(tmp_path / "run", 4).assert_ended_together(summary.ended_by)
    assert f"{METRICS[name]} " in run.err
    times, values = RunFolder(tmp_path / "run").tests()
    assert len(times) == len(values) > 0
    assert np.isfinite(values).all()


def test_what_is_unusual_has_a_large_error(simulated):
    folder = simulated("anomaly")
    config = load_config(folder.path / "config.yaml")
    dataset = build_dataset(config)
    model = build_network(config, dataset)
    model.load_state_dict(load_file(folder.path / "model.safetensors"))
    usual = dataset.prepare(dataset.test()[0])
    stuck, loud = usual.clone(), 3 * usual
    stuck[:, 0] = 1.5  # a sensor that does not move any more
    with torch.no_grad():
        scores = [((model(x).view_as(x) - x) ** 2).flatten(1).mean(1) for x in (usual, stuck, loud)]
    for unusual in scores[1:]:
        truth = np.repeat([0, 1], len(usual))
        assert roc_auc_score(truth, torch.cat([scores[0], unusual])) > 0.9


def test_the_table_of_the_example_may_be_a_file(simulated, tmp_path):
    rows = np.column_stack([np.arange(200.0), np.arange(200) % 7, np.zeros(200)])
    rows[:, 2] = 3 * rows[:, 1] + 100
    text = "\n".join(["time,load,progression", *(",".join(map(str, row)) for row in rows)])
    (tmp_path / "mine.csv").write_text(text)
    settings = ["data.dataset=csv:mine.csv", "data.target=progression", "data.features=[load]"]
    summary = simulated("tabular", *settings, "target.at_most=1").summary
    assert (summary.ended_by, summary.dataset) == ("target", "csv:mine.csv")


def test_the_series_of_the_example_may_be_a_file(simulated, tmp_path):
    wave = np.sin(np.arange(1000) / 4)
    (tmp_path / "mine.csv").write_text("\n".join(["load,note", *(f"{value},x" for value in wave)]))
    settings = ["data.dataset=csv:mine.csv", "data.features=[load]", "data.window=24", "target.at_most=0.1"]
    assert simulated("forecast", *settings).summary.ended_by == "target"


@pytest.mark.skipif(not REAL.exists(), reason=f"{REAL} with real sensor windows is not there")
@pytest.mark.parametrize(
    ("name", "file", "settings"),
    [
        ("activity", "basic_motions", ["target_accuracy=0.8", "data.partition=shared", "duration_s=60"]),
        ("activity", "japanese_vowels", ["target_accuracy=0.8", "data.partition=shared", "duration_s=60"]),
        ("forecast", "italy_power", ["target.at_most=0.25", "data.partition=shared"]),
        ("anomaly", "italy_power", ["target.at_most=0.3", "data.partition=shared"]),
    ],
)
def test_real_windows(simulated, name, file, settings):
    summary = simulated(name, f"data={{dataset: 'npz:{REAL}/{file}.npz'}}", *settings).summary
    assert summary.ended_by == "target"


@pytest.fixture
def two_inputs(tmp_path):
    """A folder with the example in it, as in a clone."""
    (tmp_path / "examples").mkdir()
    for name in ("two_inputs.py", "two_inputs.yaml"):
        shutil.copy(EXAMPLES / name, tmp_path / "examples")
    return tmp_path


def test_two_inputs_and_two_answers_are_learnt_and_used(two_inputs, start):
    run = start(two_inputs, "examples/two_inputs.py")
    assert run.wait(100) == 0, run.err
    reached, *told = run.out.splitlines()
    assert re.match(r"after [\d.]+ s of stream: .'place.mae': [012]\.", reached), reached
    assert len(told) == 5
    for line in told:
        x, y, true_x, true_y = map(int, re.findall(r"-?\d+", line))
        assert abs(x - true_x) + abs(y - true_y) < 60


def test_two_inputs_and_two_answers_as_four_processes(two_inputs, start_training, finding):
    settings = ["examples/two_inputs.yaml", "--local", 4, "--set", "picture=false", "--out", "run"]
    run = start_training(two_inputs, *settings)
    assert run.wait(200) == 0, run.err
    summary = RunFolder(two_inputs / "run").summary
    assert summary.ended_by in ("target", "duration")  # a busy machine drops what it has no time for
    finding(two_inputs / "run", 4).assert_ended_together(summary.ended_by)
    assert summary.measured.metric == "place.mae"
    assert summary.measured.best < 15
