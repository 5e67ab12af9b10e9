"""Run folders that somebody damaged or made to do harm: one sentence and exit code 2, or a gap that is named."""

import json
import os
import random
from contextlib import suppress

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from scadles.errors import ConfigError, DataError
from scadles.observe import (
    DeviceSummary,
    Evaluation,
    EventLog,
    Finished,
    Header,
    RunFolder,
    Samples,
    Seconds,
    Step,
    Summary,
    compare,
    events_path,
    plot_comparison,
    plot_run,
)

SAMPLES = Samples(received=30, trained=20, dropped=8, held=1, rejected=1)
SECONDS = Seconds(wait=1.0, compute=0.1, sync=0.2)
CONFIG = "method: scadles\nsteps: 4\nstream: {rates: 8.0}\n"


def make_run(folder, *, devices=2):
    """Write a small run folder, as a run leaves it."""
    folder.mkdir()
    (folder / "config.yaml").write_text(CONFIG)
    for device in range(devices):
        header = Header(
            step=0, time_s=0.0, device=device, devices=devices, method="scadles", seed=0, clock="wall",
            started_at=None, versions={},
        )  # fmt: skip
        with EventLog(events_path(folder, device), header, append=False) as log:
            for number in range(1, 5):
                log.write(make_step(number))
            log.write(Evaluation(step=4, time_s=4.0, accuracy=0.9, loss=0.1, samples_trained=16))
            log.write(Finished(step=4, time_s=4.0, reason="steps"))
    rows = tuple(
        DeviceSummary(
            device=device, rate_hz=8.0, samples=SAMPLES, seconds=SECONDS, buffer_max_samples=2, bytes_sent=2000,
            slowest_steps=0, non_finite_steps=0,
        ) for device in range(devices)
    )  # fmt: skip
    Summary(
        method="scadles", clock="wall", devices=devices, seed=0, model="mlp", dataset="digits", steps=4, time_s=4.0,
        wall_s=2.0, target_accuracy=0.9, time_to_target_s=2.0, final_accuracy=0.9, best_accuracy=0.9, samples=SAMPLES,
        buffer_max_samples=2, seconds=SECONDS, bytes_sent=2000, bytes_counted_by="kernel", collectives_per_step=1.0,
        lr_scale_mean=1.0, model_sha256="ab" * 32, ended_by="steps", per_label=(0.5, 0.75), per_device=rows,
    ).write(folder)  # fmt: skip
    return folder


def make_step(number, **changes):
    fields = {
        "batch": 8, "total_batch": 16, "offsets": (8 * number - 8, 8 * number - 1), "rate_hz": 8.0, "wait_s": 0.5,
        "compute_s": 0.1, "sync_s": 0.1, "slowest": 0, "slowest_s": 0.1, "loss": 1.0, "lr": 0.1, "lr_scale": 1.0,
        "held": 1, "lag": 0, "dropped": 0,
    }  # fmt: skip
    return Step(step=number, time_s=float(number), **{**fields, **changes})


@pytest.fixture
def run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    return make_run(tmp_path / "run")


@pytest.fixture
def compared(command):
    """Type ``scadles compare ARGUMENTS``; return what it says, which is the table or one error, never a traceback."""

    def call(*arguments):
        code, out, err = command("compare", *arguments)
        assert "Traceback" not in err
        assert "\x1b" not in out + err
        if code:
            assert code == 2
            assert err.startswith("error: ")
            assert len(err.splitlines()) == 1
            assert len(err) < 1000
        return code, out if not code else err

    return call


def a_folder(path):
    path.mkdir()


def a_loop(path):
    path.symlink_to(path)


def nowhere(path):
    path.symlink_to("missing")


def huge(path):
    with path.open("wb") as file:
        file.truncate(10**11)


def missing(path):
    pass


def holding(content):
    return lambda path: path.write_bytes(content)


KINDS = {
    "missing": missing,
    "a folder": a_folder,
    "a pipe": os.mkfifo,
    "a loop": a_loop,
    "nowhere": nowhere,
    "huge": huge,
}
CONTENTS = {
    "empty": b"",
    "NUL": bytes(64),
    "binary": random.Random(0).randbytes(4096),
    "not UTF-8": b'{"method": "\xff\xfe"}\n',
    "UTF-16": '{"a": 1}\n'.encode("utf-16"),
    "a list": b"[]\n",
    "text": b'"text"\n',
    "a number": b"5\n",
    "nothing": b"null\n",
    "an empty object": b"{}\n",
    "levels": b"[" * 100_000 + b"\n",
    "levels of objects": b'{"a":' * 100_000 + b"\n",
    "a huge number": b"9" * 10_000 + b"\n",
    "half": b'{"event": "st',
}


@pytest.mark.parametrize("make", [*KINDS.values(), *map(holding, CONTENTS.values())], ids=[*KINDS, *CONTENTS])
class TestFiles:
    def test_a_summary(self, run, compared, make):
        (run / "summary.json").unlink()
        make(run / "summary.json")
        code, said = compared(run)
        assert code == 2
        assert "summary.json" in said

    def test_a_configuration(self, run, tmp_path, compared, make):
        other = make_run(tmp_path / "other")
        (run / "config.yaml").unlink()
        make(run / "config.yaml")
        code, said = compared(run, other)
        assert code == 0
        assert "warning: settings are not compared: config.yaml of run cannot be read" in said

    def test_a_configuration_that_a_resumption_reads(self, run, tmp_path, command, make):
        (run / "config.yaml").unlink()
        make(run / "config.yaml")
        (tmp_path / "c.yaml").write_text(CONFIG)
        code, _, err = command("train", "c.yaml", "--out", run, "--resume", "--quiet")
        assert code == 2
        assert err.startswith("error: ")
        assert "Traceback" not in err
        assert len(err.splitlines()) == 1

    def test_events(self, run, compared, make):
        (run / "events-1.jsonl").unlink()
        make(run / "events-1.jsonl")
        code, said = compared(run, "--out", run / "picture.png")
        assert code in (0, 2)
        assert code == 0 or "events" in said or "no step" in said


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"time_s": float("nan")}, "time_s: nan is no finite number"),
        ({"time_s": float("inf")}, "time_s: inf is no finite number"),
        ({"time_s": -1.0}, "time_s: -1.0 is below 0"),
        ({"steps": -1}, "steps: -1 is below 0"),
        ({"bytes_sent": 10**400}, "bytes_sent"),
        ({"bytes_sent": 10**30}, "bytes_sent: a number beyond 1e+24"),
        ({"bytes_sent": True, "steps": "many"}, "steps"),
        ({"devices": 1.5}, "devices"),
        ({"samples": []}, "samples"),
        ({"per_device": [{"device": 0}]}, "per_device.0"),
        ({"per_label": [1e300, None]}, "per_label.0: a number beyond 1e+24"),
        ({"mood": "fine"}, "mood"),
    ],
)
def test_a_summary_with_values_that_no_run_has(run, compared, changes, told):
    fields = json.loads((run / "summary.json").read_text())
    (run / "summary.json").write_text(json.dumps({**fields, **changes}))
    code, said = compared(run)
    assert code == 2
    assert "summary.json is not a run's summary" in said
    assert told in said


@pytest.mark.parametrize(
    ("line", "told"),
    [
        (make_step(4).to_json(), "step 4 after step 4"),
        (make_step(2).to_json(), "step 2 after step 4"),
        (make_step(5, held=-1).to_json(), "held: -1 is below 0"),
        (make_step(5).to_json().replace('"time_s":5.0', '"time_s":-5.0'), "time_s: -5.0 is below 0"),
        (make_step(5, wait_s=float("nan")).to_json(), "wait_s: nan is no finite number"),
        (make_step(5, batch=10**30).to_json(), "batch: a number beyond 1e+24"),
        (make_step(5).to_json().replace('"batch":8', f'"batch":{"9" * 5000}'), "not JSON"),
        (make_step(5).to_json().replace('"batch":8', '"batch":"x"'), "bad step event: batch"),
        (make_step(5).to_json().replace('"batch":8,', ""), "bad step event: batch"),
        ('{"event":"step"}', "bad step event"),
        ('{"event":[]}', "not an event"),
        ("\x00" * 10, "not JSON"),
        ("[" * 100_000, "too many levels"),
    ],
)
def test_an_event_that_no_run_writes_is_named_with_its_line(run, compared, line, told):
    with events_path(run, 0).open("a") as file:
        file.write(line + "\n")
    code, said = compared(run, "--out", run / "picture.png")
    assert code == 2
    assert "events-0.jsonl, line 8" in said
    assert told in said


@pytest.mark.parametrize("line", ['{"event":"volcano"}', '{"event":"step","st'])
def test_what_a_newer_version_or_a_crash_wrote_is_passed_over(run, compared, line):
    with events_path(run, 0).open("a") as file:
        file.write(line + ("\n" if line.endswith("}") else ""))
    assert compared(run)[0] == 0
    assert RunFolder(run).column(0, "held").tolist() == [1.0] * 4


def test_stray_files_break_nothing(run, compared):
    for number in ("1000000000", "9" * 200, "-1", "007", "٣", "1.5", "", "x\ny", "\x1b[2J", "²"):
        (run / f"events-{number}.jsonl").write_text("garbage")
    (run / "model.safetensors").write_bytes(random.Random(1).randbytes(100))
    (run / "checkpoints").write_text("a file")
    (run / os.fsdecode(b"\xff\xfe")).write_text("")
    assert RunFolder(run).devices == (0, 1)
    assert compared(run, "--out", run / "picture.png")[0] == 0


def test_names_and_texts_of_somebody_else_do_nothing_to_a_terminal(tmp_path, monkeypatch, compared):
    monkeypatch.chdir(tmp_path)
    name = "\x1b]0;pwned\x07[bold]a\n| $\\frac$ `x` <b>|\u202e"
    runs = [make_run(tmp_path / name), make_run(tmp_path / "b")]
    fields = json.loads((runs[0] / "summary.json").read_text())
    texts = {"method": "\x1b[2J[link=http://x]y[/link]", "dataset": "$\\frac$\n", "ended_by": "![x](http://y)"}
    (runs[0] / "summary.json").write_text(json.dumps({**fields, **texts, "model": "x" * 10**6}))
    code, said = compared(*runs, "--out", "picture.png")
    assert code == 0
    assert "\\x1b[2J[link=http://x]y[/link]" in said
    assert len(said) < 40_000
    code, said = compared(*runs, "--markdown")
    assert code == 0
    assert "\\\\x1b[2J" in said
    assert "[bold]a\\\\n\\| $\\\\frac$ \\`x\\` \\<b>\\|\\\\u202e" in said
    assert "](" not in said
    assert len({line.replace("\\|", "").count("|") for line in said.splitlines() if line.startswith("|")}) == 1


def test_a_folder_that_is_a_loop_or_has_no_name(tmp_path, compared):
    a_loop(tmp_path / "loop")
    for path in (tmp_path / "loop", tmp_path / "loop" / "x", tmp_path / ("x" * 300), "/dev/zero", "/"):
        code, said = compared(path)
        assert code == 2
        assert "summary.json" in said


def test_a_resumption_does_not_wait_for_a_pipe(run, tmp_path, command):
    (run / "config.yaml").unlink()
    (tmp_path / "c.yaml").write_text(CONFIG)
    events_path(run, 0).unlink()
    os.mkfifo(events_path(run, 0))
    os.mkfifo(run / "config.yaml.0.tmp")
    code, _, err = command("train", "c.yaml", "--out", run, "--quiet")
    assert (code, err.count("error: "), "Traceback" in err) == (2, 1, False)


@pytest.mark.parametrize(
    "arguments", [["train"], ["train", "--resume"], ["simulate"], ["sweep", "--over", "batch.window_s=0.5,1"]]
)
def test_a_name_that_no_folder_can_have_is_one_sentence(tmp_path, monkeypatch, command, arguments):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "c.yaml").write_text(CONFIG)
    name, *options = arguments
    code, _, err = command(name, "c.yaml", *options, "--out", "x" * 300, "--quiet")
    assert (code, err.count("error: "), "Traceback" in err) == (2, 1, False)
    assert "cannot be a run folder: File name too long; choose another --out" in " ".join(err.split())


@pytest.fixture(scope="module")
def original(tmp_path_factory):
    return make_run(tmp_path_factory.mktemp("original") / "run")


@pytest.fixture(scope="module")
def scratch(tmp_path_factory):
    return make_run(tmp_path_factory.mktemp("changed") / "run")


PIECES = st.one_of(
    st.binary(max_size=6),
    st.sampled_from(
        [b"[", b"{", b'"', b"\n", b"\x00", b"\x1b", b"-", b"NaN", b"Infinity", b"1e999", b"9" * 40, b"null", b","]
    ),
)


@settings(max_examples=40)
@given(
    st.sampled_from(["summary.json", "config.yaml", "events-0.jsonl"]),
    st.lists(st.tuples(st.floats(0, 1), st.integers(0, 40), PIECES), min_size=1, max_size=3),
)
def test_changed_bytes_are_read_or_refused(original, scratch, name, changes):
    content = (original / name).read_bytes()
    for place, cut, piece in changes:
        at = int(place * len(content))
        content = content[:at] + piece + content[at + cut :]
    (scratch / name).write_bytes(content)
    with suppress(DataError, ConfigError):
        folder = RunFolder(scratch)
        compare([folder, original]).to_markdown()
        folder.tests()
        for device in folder.devices:
            folder.column(device, "held")
    (scratch / name).write_bytes((original / name).read_bytes())


VALUES = st.one_of(
    st.integers(-(10**25), 10**25), st.floats(), st.text(max_size=4), st.none(), st.lists(st.floats(), max_size=2)
)
SUMMARY = [
    "steps",
    "devices",
    "time_s",
    "target_accuracy",
    "time_to_target_s",
    "final_accuracy",
    "per_label",
    "samples",
    "measured",
]
MEASURED = {"task": "regression", "metric": "mae", "higher_is_better": False, "target": 1.0, "final": 2.0, "best": 2.0}


@settings(max_examples=4)
@given(
    st.sampled_from(SUMMARY), VALUES, st.sampled_from(["time_s", "held", "wait_s", "sync_s", "rate_hz", "lag"]), VALUES
)
def test_any_value_in_any_place_can_be_drawn_or_is_refused(original, scratch, key, value, field, other):
    summary = json.loads((original / "summary.json").read_text())
    if key == "measured":
        value = {**MEASURED, "metrics": {"mae": value}, "target": value}
    (scratch / "summary.json").write_text(json.dumps({**summary, key: value}))
    lines = (original / "events-0.jsonl").read_text().splitlines()
    lines[2] = json.dumps({**json.loads(lines[2]), field: other})
    (scratch / "events-0.jsonl").write_text("\n".join(lines) + "\n")
    with suppress(DataError, ConfigError):
        compare([original, scratch]).to_markdown()
        folder = RunFolder(scratch)
        plot_run(folder, scratch.parent / "picture.png")
        plot_comparison([RunFolder(original), folder], scratch.parent / "picture.png")
