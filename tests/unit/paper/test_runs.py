import shutil

import pytest

import scadles.simulation
from scadles.errors import ConfigError, DataError, RunError
from scadles.paper import Runs
from scadles.paper.runs import label
from scadles.paper.settings import idle_run

A = ("a",)
ONE = idle_run(method="ddl", steps=2, cost={"profile": "free"})
OTHER = idle_run(method="ddl", steps=3, cost={"profile": "free"})


def test_a_run_is_made_once(simulated, tmp_path):
    first = Runs(tmp_path).get({A: ONE})
    again = Runs(tmp_path).get({A: ONE})
    assert len(simulated) == 1
    assert first[A].path == again[A].path
    assert again[A].summary.steps == 2
    assert simulated[0] == ONE


def test_other_settings_are_another_run(simulated, tmp_path):
    runs = Runs(tmp_path)
    folders = [runs.get({A: config})[A].path for config in (ONE, OTHER)]
    assert len(simulated) == 2
    assert folders[0] != folders[1]
    assert all(path.parent == tmp_path and path.name.startswith("a-") for path in folders)


def test_what_is_not_the_finished_run_is_not_touched(simulated, tmp_path):
    path = Runs(tmp_path).get({A: ONE})[A].path
    (path / "config.yaml").write_text(OTHER.to_yaml())
    with pytest.raises(ConfigError, match="in the way, and not the finished run it should be"):
        Runs(tmp_path).get({A: ONE})
    assert len(simulated) == 1


def test_an_unfinished_run_is_begun_anew(simulated, tmp_path, monkeypatch):
    whole = scadles.simulation.simulate

    def crash(config, *, out, quiet):
        whole(config, out=out, quiet=quiet)
        raise KeyboardInterrupt

    monkeypatch.setattr(scadles.simulation, "simulate", crash)
    with pytest.raises(KeyboardInterrupt):
        Runs(tmp_path).get({A: ONE})
    assert [path.name for path in tmp_path.iterdir()] == ["unfinished"]
    monkeypatch.setattr(scadles.simulation, "simulate", whole)
    assert Runs(tmp_path).get({A: ONE})[A].summary.steps == 2
    assert [path.name[:2] for path in tmp_path.iterdir()] == ["a-"]


def test_a_run_that_a_signal_ended_is_an_interrupt_and_no_result(simulated, tmp_path, monkeypatch):
    whole = scadles.simulation.simulate

    def stop(config, *, out, quiet):
        return whole(config, out=out, quiet=quiet).model_copy(update={"ended_by": "stopped"})

    monkeypatch.setattr(scadles.simulation, "simulate", stop)
    with pytest.raises(KeyboardInterrupt):
        Runs(tmp_path).get({A: ONE})
    assert not list(tmp_path.glob("a-*"))


@pytest.mark.parametrize(("raised", "expected"), [(DataError("no file"), ConfigError), (RunError("full"), RunError)])
def test_what_goes_wrong_names_the_run_and_keeps_its_kind(simulated, tmp_path, monkeypatch, raised, expected):
    def fail(config, *, out, quiet):
        raise raised

    monkeypatch.setattr(scadles.simulation, "simulate", fail)
    with pytest.raises(expected, match=f"^a: {raised}$") as error:
        Runs(tmp_path).get({A: ONE})
    assert error.value.exit_code == raised.exit_code
    assert not list(tmp_path.glob("a-*"))


def test_a_folder_that_cannot_be_written_says_so(simulated, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(RunError, match="a: cannot write"):
        Runs(tmp_path / "file" / "runs").get({A: ONE})


def test_progress_says_which_run_of_how_many_and_what_is_left(simulated, tmp_path):
    said = []
    runs = Runs(tmp_path, say=said.append)
    runs.get({A: ONE})
    runs.get({A: ONE, ("c",): idle_run(steps=1), ("b",): OTHER}, {("b",): 3.0})
    assert said[0].startswith("run 1 of 1, a: done after ")
    assert said[1] == f"1 of 3 runs are there already in {tmp_path}"
    assert said[2].startswith("run 1 of 2, b: done after ")
    assert said[2].endswith(" left")
    assert said[3].startswith("run 2 of 2, c: done after ")
    assert "left" not in said[3]


def test_deleted_runs_are_made_again(simulated, tmp_path):
    shutil.rmtree(Runs(tmp_path).get({A: ONE})[A].path)
    Runs(tmp_path).get({A: ONE})
    assert len(simulated) == 2


def test_labels_can_be_file_names():
    assert label("a", "S2'", 7) == "a-S2prime-7"
