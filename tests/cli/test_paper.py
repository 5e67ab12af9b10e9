import subprocess
import sys

import pytest
import typer
from typer.testing import CliRunner

import scadles.cli.app
from scadles.cli.paper import paper
from scadles.errors import ConfigError
from scadles.paper import EXPERIMENTS


def invoke(*arguments):
    app = typer.Typer(pretty_exceptions_enable=False)
    app.command()(paper)
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def refused(*arguments):
    """Return the message of a refused command."""
    error = invoke(*arguments).exception
    assert isinstance(error, ConfigError)
    assert error.exit_code == 2
    return str(error)


def test_help_tells_of_every_experiment():
    said = invoke("--help").stdout
    assert all(f"{name}: " in said for name in EXPERIMENTS)
    assert "or all" in said


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_help_says_what_the_experiments_say_of_themselves(name):
    said = " ".join(paper.__doc__.split())
    assert f"{name}: {EXPERIMENTS[name].title}" in said


def test_an_unknown_name_is_refused_with_a_hint(tmp_path):
    assert "no experiment 'latencies'; did you mean latency?" in refused("latencies", "--out", tmp_path)
    assert not list(tmp_path.iterdir())


def test_a_data_set_for_what_learns_nothing_is_refused(tmp_path):
    assert "nothing is learnt in buffers" in refused("buffers", "--data", "npz:x.npz", "--out", tmp_path)


def test_a_file_in_the_place_of_the_folder_is_refused(tmp_path):
    (tmp_path / "file").write_text("")
    assert "cannot make this folder" in refused("latency", "--out", tmp_path / "file")


def test_without_a_broker_rates_are_refused_with_the_way_out(tmp_path, monkeypatch):
    monkeypatch.setenv("KAFKA_HOME", str(tmp_path))
    told = refused("rates", "--out", tmp_path)
    assert "give --broker HOST:PORT" in told
    assert "KAFKA_HOME" in told


def test_the_folder_is_runs_paper_where_nothing_is_said(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs/paper").write_text("")
    assert "cannot make this folder" in refused("latency")


def test_it_is_one_of_the_commands():
    names = {command.callback.__name__ for command in scadles.cli.app.app.registered_commands}
    assert "paper" in names


def test_latency_is_measured_printed_and_written(tmp_path):
    pytest.importorskip("matplotlib")
    result = invoke("latency", "--out", tmp_path / "out", "--jobs", "1")
    assert result.exit_code == 0, result.exception
    assert "Ours is within 0.00% of the rule in every cell." in result.stdout
    assert "run 8 of 8" in result.stderr
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
        "latency.csv", "latency.md", "latency.png", "runs",
    ]  # fmt: skip


def test_without_matplotlib_there_is_no_picture_and_it_is_said(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    result = invoke("latency", "--out", tmp_path, "--jobs", "1")
    assert result.exit_code == 0, result.exception
    assert "no picture: drawing a picture needs the extra 'plots'" in result.stderr
    assert (tmp_path / "latency.md").exists()
    assert not (tmp_path / "latency.png").exists()


def test_an_unknown_name_ends_with_exit_code_2():
    done = subprocess.run(
        [sys.executable, "-m", "scadles", "paper", "latencies", "--out", "x"], capture_output=True, text=True
    )
    assert done.returncode == 2
    assert done.stderr.startswith("error: there is no experiment 'latencies'")
