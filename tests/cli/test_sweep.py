import signal

import pytest
import typer
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

from scadles.cli.sweep import parse_over, split_values, sweep
from scadles.errors import ConfigError


def invoke(*arguments):
    app = typer.Typer()
    app.command()(sweep)
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


@pytest.fixture
def small(tmp_path, write_config):
    return write_config(tmp_path / "small.yaml", devices=2, steps=3, target_accuracy=0.99)


@pytest.mark.parametrize(
    ("text", "values"),
    [
        ("0.5,1,2", [0.5, 1, 2]),
        ("1e-3,1e2", [0.001, 100.0]),
        ("ddl, scadles", ["ddl", "scadles"]),
        ("[50,38],20,[[1,2],3]", [[50, 38], 20, [[1, 2], 3]]),
        ("{name: bursts, duty: 0.5},day", [{"name": "bursts", "duty": 0.5}, "day"]),
        ("'a,b',\"c,]\",S1'", ["a,b", "c,]", "S1'"]),
        ("true,null,'5'", [True, None, "5"]),
        ("a=b", ["a=b"]),
    ],
)
def test_values_are_yaml_between_commas(text, values):
    parsed = parse_over([f"some.key={text}"])["some.key"]
    assert parsed == values
    assert [type(value) for value in parsed] == [type(value) for value in values]


@given(st.lists(st.lists(st.integers()) | st.integers() | st.sampled_from(["x", "'a,b'", "{a: 1, b: 2}"]), min_size=1))
def test_what_is_joined_by_commas_is_split_there(values):
    texts = [str(value) for value in values]
    assert split_values(",".join(texts)) == texts


@pytest.mark.parametrize(
    ("texts", "named"),
    [
        (["steps"], "write it as key=value"),
        (["steps="], "write it as key=value"),
        (["=1"], "write it as key=value"),
        (["a..b=1"], "write it as key=value"),
        (["steps=1,,2"], "value is missing"),
        (["steps=[1,2"], "not YAML"),
        (["steps=1", "steps=2"], "given twice"),
    ],
)
def test_what_cannot_be_read_is_refused(texts, named):
    with pytest.raises(ConfigError, match=named):
        parse_over(texts)


def test_a_sweep_is_made_told_and_reused(small, tmp_path):
    out = tmp_path / "out"
    result = invoke(small, "--over", "method=ddl,scadles", "--set", "steps=2", "--out", out)
    assert result.exit_code == 0, result.output
    assert "1 of 2: method=ddl, seed 0: target not reached, accuracy " in result.stderr
    assert "0/1" in result.stdout
    assert f"folder of the sweep: {out} (sweep.csv, sweep.md" in result.stdout
    again = invoke(small, "--over", "method=ddl,scadles", "--set", "steps=2", "--out", out)
    assert again.stderr.splitlines() == ["reused 2 of 2 runs that were there already"]
    assert again.stdout == result.stdout
    assert invoke(small, "--over", "method=ddl", "--set", "steps=2", "--out", out, "--quiet").stderr == ""


def test_a_users_mistake_in_one_combination_is_exit_code_2(small, tmp_path):
    result = invoke(small, "--over", "batch.max=4,64", "--set", "steps=1", "--out", tmp_path / "out")
    assert result.exit_code == 2
    assert "batch.max=4 cannot run: batch: min 8 is above max 4" in result.stderr
    assert "batch: min 8 is above max 4" in result.stdout
    assert "0/1" in result.stdout


def test_an_unknown_setting_is_refused_at_once(small, tmp_path):
    result = invoke(small, "--over", "batch.sizes=1,2", "--out", tmp_path / "out")
    assert isinstance(result.exception, ConfigError)
    assert "did you mean size?" in str(result.exception)


def test_ctrl_c_ends_the_workers_and_keeps_what_is_finished(small, tmp_path, start):
    long = ["--over", "steps=2,1000000", "--jobs", "2", "--out", "out"]
    run = start(tmp_path, "-m", "scadles", "sweep", small, *long)
    run.until(lambda: "1 of 2" in run.err, "the first finished run")
    run.signal(signal.SIGINT)
    assert run.wait() == 130
    assert "ended after 1 of 2 runs; the same command goes on with the others" in run.err
    assert (tmp_path / "out" / "steps=2" / "seed-0" / "summary.json").exists()
    assert not (tmp_path / "out" / "steps=1000000").exists()


def test_a_killed_sweep_leaves_no_worker(small, tmp_path, start):
    run = start(tmp_path, "-m", "scadles", "sweep", small, "--over", "steps=2,1000000", "--jobs", "2", "--out", "out")
    run.until(lambda: "1 of 2" in run.err, "the first finished run")
    run.signal(signal.SIGKILL)
    assert run.wait() == -signal.SIGKILL


def test_help_has_an_example():
    assert "scadles sweep CONFIG --over" in invoke("--help").stdout
