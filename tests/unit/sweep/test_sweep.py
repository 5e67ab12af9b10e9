import importlib.util
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from scadles.config import load_config
from scadles.errors import ConfigError, MissingExtraError
from scadles.observe import RunFolder
from scadles.sweep import sweep
from scadles.sweep.plan import Task, folder_name, plan

SMALL = {"devices": 4, "steps": 4, "target_accuracy": 0.9, "stream": {"rates": [50, 38, 12, 82]}}

values = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=200)
combinations = st.dictionaries(st.sampled_from(["a", "b.c"]), values, min_size=1)


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A sweep of two by two combinations with two seeds each, two runs at a time."""
    out = tmp_path_factory.mktemp("sweep") / "out"
    over = {"batch.window_s": [0.5, 1], "method": ["ddl", "scadles"]}
    return out, over, sweep(SMALL, over, out=out, seeds=2, jobs=2, quiet=True)


def test_every_combination_has_a_run_for_each_seed(finished):
    out, _, result = finished
    assert result.exit_code == 0
    assert [(run.combination, run.seed) for run in result.runs][:3] == [
        ("batch.window_s=0.5 method=ddl", 0),
        ("batch.window_s=0.5 method=ddl", 1),
        ("batch.window_s=0.5 method=scadles", 0),
    ]
    assert len(result.runs) == 8
    for run in result.runs:
        assert run.folder == out / ",".join(run.combination.split()) / f"seed-{run.seed}"
        found = RunFolder(run.folder)
        assert found.summary == run.summary
        assert (found.summary.seed, found.summary.method) == (run.seed, run.settings["method"])
        assert load_config(run.folder / "config.yaml").batch.window_s == run.settings["batch.window_s"]
        assert found.devices == (0, 1, 2, 3)
        assert found.summary.steps == 4


def test_table_numbers_and_picture_are_in_the_folder(finished):
    out, _, result = finished
    assert (out / "sweep.md").read_text() == result.to_markdown() + "\n"
    assert len((out / "sweep.csv").read_text().splitlines()) == 1 + 4
    assert (out / "sweep.png").exists() == (importlib.util.find_spec("matplotlib") is not None)
    assert not (out / "unfinished").exists()
    assert not list(out.glob("*/*/*.png"))


def test_settings_matter_and_seeds_do(finished):
    _, _, result = finished
    models = [run.summary.model_sha256 for run in result.runs if run.settings["method"] == "scadles"]
    assert len(set(models)) == len(models)


def test_finished_runs_are_not_made_again_and_give_the_same_table(finished):
    out, over, result = finished
    again = sweep(SMALL, over, out=out, seeds=2, quiet=True)
    assert again.reused == 8
    assert again.to_csv() == result.to_csv()
    larger = plan(SMALL, {**over, "batch.window_s": [0.5, 1, 2]}, ["picture=false"], 2, out)
    assert [isinstance(run, Task) for run in larger] == [False] * 8 + [True] * 4


@pytest.mark.parametrize(
    ("change", "named"),
    [({"steps": 5}, "steps was 4 and is now 5"), ({"target_accuracy": 0.8}, "target_accuracy was 0.9")],
)
def test_runs_with_other_settings_are_not_overwritten(finished, change, named):
    out, over, _ = finished
    with pytest.raises(ConfigError, match=named):
        sweep({**SMALL, **change}, over, out=out, quiet=True)


def test_a_folder_that_is_in_the_way_is_left_alone(tmp_path):
    (tmp_path / "steps=4" / "seed-0").mkdir(parents=True)
    with pytest.raises(ConfigError, match="no finished run"):
        sweep(SMALL, {"steps": [4]}, out=tmp_path)


def test_a_failure_ends_its_own_run_only(tmp_path, monkeypatch):
    (tmp_path / "own.py").write_text(
        "import os\nfrom torch import nn\n\n\n"
        "class Misfit(nn.Linear):\n    def __init__(self):\n        super().__init__(3, 3)\n\n\n"
        "def dies():\n    os._exit(1)\n"
    )
    monkeypatch.chdir(tmp_path)
    models = ["missing:net", "own:dies", "own:Misfit", "mlp"]
    result = sweep(SMALL, {"model": models, "batch.max": [4, 64]}, out="out", settings=["steps=2"], quiet=True)
    problems = {run.settings["model"]: run.problem for run in result.runs if run.settings["batch.max"] == 64}
    assert "cannot import 'missing'" in problems["missing:net"]
    assert problems["own:dies"].startswith("its process ended before the run did")
    assert problems["own:Misfit"].startswith("RuntimeError: mat1 and mat2")
    assert problems["mlp"] == ""
    impossible = [run.problem for run in result.runs if run.settings["batch.max"] == 4]
    assert impossible == ["batch: min 8 is above max 4"] * 4
    assert result.exit_code == 2
    assert "its process ended" in (tmp_path / "out" / "sweep.md").read_text()
    assert (tmp_path / "out" / "model=mlp,batch.max=64" / "seed-0" / "summary.json").exists()


@pytest.mark.parametrize(
    ("over", "more", "named"),
    [
        ({}, {}, "nothing to sweep"),
        ({"batch.windo_s": [1, 2]}, {}, "did you mean window_s"),
        ({"batch.window_s": [-1, 0]}, {}, "batch.window_s = -1"),
        ({"batch.window_s": []}, {}, "no values"),
        ({"batch.window_s": [1, 1]}, {}, "batch.window_s = 1 is given twice"),
        ({"seed": [1, 2]}, {}, "number of --seeds"),
        ({"steps": [1]}, {"seeds": 0}, "seeds = 0"),
        ({"steps": [1]}, {"jobs": 0}, "jobs = 0"),
        ({"steps": [1]}, {"backend": "rai"}, "did you mean ray"),
        ({"steps": [1]}, {"settings": ["nonsense=1"]}, "nonsense: unknown setting"),
    ],
)
def test_what_cannot_work_is_refused_before_anything_runs(tmp_path, over, more, named):
    with pytest.raises(ConfigError, match=named):
        sweep(SMALL, over, out=tmp_path / "out", **more)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("dial", ["method", "cost.profile"])
def test_a_dial_cannot_be_turned_where_nothing_is_left_open(tmp_path, dial):
    with pytest.raises(ConfigError, match=f"{dial} fills in"):
        sweep(load_config(SMALL), {dial: ["ddl"]}, out=tmp_path)
    (task,) = plan(load_config(SMALL), {"batch.size": [32]}, [], 1, tmp_path)
    assert task.config.batch.size == 32


def test_a_method_brings_its_own_settings_and_seeds_count_from_the_first(tmp_path):
    ddl, _, scadles, _ = plan({**SMALL, "seed": 7}, {"method": ["ddl", "scadles"]}, ["batch.size=32"], 2, tmp_path)
    assert (ddl.config.batch.rule, scadles.config.batch.rule) == ("fixed", "rate")
    assert (ddl.config.batch.size, ddl.config.seed) == (32, 7)
    assert scadles.run.folder == tmp_path / "method=scadles" / "seed-7"


@given(combinations, combinations)
def test_a_folder_belongs_to_one_combination_and_is_one_name(one, other):
    names = folder_name(one), folder_name(other)
    assert (names[0] == names[1]) == (str(one) == str(other))
    for name in names:
        assert Path(name).name == name
        assert name.isascii()
        assert len(name) <= 120


def test_planning_needs_neither_torch_nor_the_simulator():
    code = "import sys, scadles.sweep; sys.exit(bool({'torch', 'matplotlib', 'ray'} & set(sys.modules)))"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_without_ray_the_extra_is_named(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(MissingExtraError, match=r"pip install 'scadles\[ray\]'"):
        sweep(SMALL, {"steps": [1]}, out=tmp_path, backend="ray", quiet=True)


@pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason="needs Ray: pip install 'scadles[ray]'")
@pytest.mark.timeout(300)
def test_ray_makes_the_same_runs(finished, tmp_path):
    code = (
        f"from scadles.sweep import sweep; sweep({SMALL}, {{'method': ['scadles', 'ddl']}}, out='out', backend='ray')"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=tmp_path)
    _, _, result = finished
    for run in result.runs:
        if run.settings["batch.window_s"] == 1 and run.seed == 0:
            found = RunFolder(tmp_path / "out" / f"method={run.settings['method']}" / "seed-0").summary
            assert found.model_copy(update={"wall_s": run.summary.wall_s}) == run.summary
