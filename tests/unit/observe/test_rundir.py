import json
import math

import numpy as np
import pytest

from scadles.errors import DataError
from scadles.observe import (
    CheckpointWritten,
    Evaluation,
    Finished,
    NonFinite,
    Rejection,
    Resumed,
    RunFolder,
    events_path,
    read_events,
)


def resumed(step):
    return Resumed(step=step, time_s=step * 1.0, position=step * 10, started_at="2024-01-01T00:00:00Z")


@pytest.fixture
def written(tmp_path):
    """Write events, or lines, into a file."""

    def write(*items, tail=""):
        path = tmp_path / "events-0000.jsonl"
        path.write_text("".join((i if isinstance(i, str) else i.to_json()) + "\n" for i in items) + tail)
        return path

    return write


def test_every_kind_comes_back_as_it_was(written, make_header, make_step):
    events = [
        make_header(),
        make_step(1, loss=None, lag=None, offsets=None, batch=0),
        Evaluation(step=1, time_s=1.0, accuracy=0.5, loss=math.inf, samples_trained=64),
        Rejection(step=1, time_s=1.0, count=2, reason="bad json", first_offset=7),
        NonFinite(step=1, time_s=1.0, batch=32),
        CheckpointWritten(step=1, time_s=1.0, position=64, ledger={"received": 64}, model_sha256="ab"),
        resumed(1),
        Finished(step=1, time_s=1.0, reason="steps"),
    ]
    assert read_events(written(*events)) == events


def test_a_torn_last_line_is_left_out(written, make_header, make_step):
    assert read_events(written(make_header(), tail=make_step(1).to_json()[:40])) == [make_header()]


def test_unknown_kinds_and_fields_are_left_out(written, make_header, make_step):
    newer = make_step(1).to_json().replace('"step":1', '"step":1,"mood":"fine"')
    path = written(make_header(), '{"event":"volcano","step":1,"time_s":1.0}', newer)
    assert read_events(path) == [make_header(), make_step(1)]


def test_what_a_resumed_run_took_back_is_left_out(written, make_header, make_step):
    path = written(make_header(), make_step(1), make_step(2), make_step(3), resumed(2), make_step(3, batch=5))
    assert read_events(path) == [make_header(), make_step(1), make_step(2), resumed(2), make_step(3, batch=5)]


def test_a_second_resumption_may_go_back_further(written, make_header, make_step):
    path = written(make_header(), make_step(1), make_step(2), resumed(2), make_step(3), resumed(1), make_step(2))
    assert read_events(path) == [make_header(), make_step(1), resumed(1), make_step(2)]


def test_resuming_at_the_start_leaves_only_the_header(written, make_header, make_step):
    first_test = Evaluation(step=0, time_s=0.0, accuracy=0.1, loss=2.3, samples_trained=0)
    path = written(make_header(), first_test, make_step(1), resumed(0))
    assert read_events(path) == [make_header(), resumed(0)]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{oops", "line 2: not JSON"),
        ("[1, 2]", "line 2: not an event"),
        ('{"step": 1}', "line 2: not an event"),
        ('{"event":"non_finite","step":1,"time_s":1.0}', "line 2: bad non_finite event: batch"),
        ('{"event":"non_finite","step":"x","time_s":1.0,"batch":1}', "line 2: bad non_finite event: step"),
    ],
)
def test_a_bad_line_is_named(written, line, message, make_header, make_step):
    with pytest.raises(DataError, match=message):
        read_events(written(make_header(), line, make_step(1)))


def test_bytes_that_are_no_text_are_named(tmp_path):
    path = tmp_path / "e.jsonl"
    path.write_bytes(b'"\xff"\n')
    with pytest.raises(DataError, match="line 1: not JSON"):
        read_events(path)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(DataError, match=r"cannot read events from .*gone\.jsonl: No such file"):
        read_events(tmp_path / "gone.jsonl")


def test_a_run_folder_tells_its_run(new_run):
    folder = RunFolder(new_run("fast", devices=3, steps=6, config="method: scadles\n"))
    assert folder.name == "fast"
    assert folder.summary.devices == 3
    assert folder.config_text == "method: scadles\n"
    assert folder.devices == (0, 1, 2)
    assert [step.step for step in folder.steps(1)] == [1, 2, 3, 4, 5, 6]
    assert isinstance(folder.events(2)[-1], Finished)
    np.testing.assert_allclose(folder.column(0, "wait_s"), np.ones(6))
    times, accuracy = folder.tests()
    assert times.tolist() == pytest.approx([3.6, 7.2])
    assert accuracy.dtype == np.float64


def test_what_a_step_does_not_know_is_nan(new_run, make_step):
    run = new_run(steps=1)
    with events_path(run, 0).open("a") as file:
        file.write(make_step(2, lag=None).to_json() + "\n")
    np.testing.assert_array_equal(RunFolder(run).column(0, "lag"), [0.0, np.nan])


def test_a_run_without_events_has_no_accuracy(new_run):
    run = new_run(devices=1)
    events_path(run, 0).unlink()
    times, accuracy = RunFolder(run).tests()
    assert len(times) == len(accuracy) == 0


def test_a_folder_without_a_summary_is_no_run(tmp_path):
    way_on = f"scadles train {tmp_path}/config.yaml --local N --out {tmp_path} --resume"
    with pytest.raises(DataError, match=f"not a run folder, or the run did not end; go on with it by: {way_on}$"):
        RunFolder(tmp_path)


def test_a_folder_that_is_not_there_is_said_to_be_none(tmp_path):
    with pytest.raises(DataError, match=f"there is no {tmp_path}/run; name the folder of a run"):
        RunFolder(tmp_path / "run")


def test_a_folder_that_is_a_file_is_no_run(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError, match="not a run folder"):
        RunFolder(tmp_path / "file")


@pytest.mark.parametrize(("text", "field"), [("{", "whole"), ('{"method": 3}', "method")])
def test_a_bad_summary_is_named(tmp_path, text, field):
    (tmp_path / "summary.json").write_text(text)
    with pytest.raises(DataError, match=f"summary.json is not a run's summary: {field}"):
        RunFolder(tmp_path)


def test_metrics_of_a_model_that_diverged_are_read(new_run):
    run = new_run(steps=2, devices=1)
    said = {"loss": float("inf"), "samples_trained": 3, "metrics": {"mae": float("nan"), "r2": -1e300}}
    event = Evaluation(step=2, time_s=2.0, **said)
    with events_path(run, 0).open("a") as file:
        file.write(event.to_json() + "\n")
    read = RunFolder(run).events(0)[-1]
    assert (read.accuracy, math.isnan(read.value), read.metrics["r2"]) == (None, True, -1e300)


def test_a_test_of_accuracy_alone_is_written_as_it_always_was():
    event = Evaluation(step=2, time_s=2.0, accuracy=0.5, loss=0.25, samples_trained=3)
    assert list(json.loads(event.to_json())) == [
        *("event", "step", "time_s", "accuracy", "loss", "samples_trained", "per_label", "own_accuracy")
    ]
    assert "accuracy" not in json.loads(Evaluation(step=2, time_s=2.0, loss=0.25, samples_trained=3).to_json())
