"""What is missing in a run's events is named, whatever happened to the file."""

import json
import re

import pytest

from scadles.observe import EventLog, Resumed, RunFolder, compare, scan_events
from scadles.observe.events import CheckpointWritten, Finished


@pytest.fixture
def gaps(tmp_path, make_header, make_step):
    """Write a file of these steps (and other events), let ``harm(path)`` at it, and return what is said of it."""

    def build(steps, harm=lambda _: None, *, last=10, model="", device=0, header_device=0):
        path = tmp_path / f"events-{device}.jsonl"
        with EventLog(path, make_header(header_device), append=False) as log:
            for step in steps:
                log.write(make_step(step) if isinstance(step, int) else step)
        harm(path)
        return [gap.removeprefix(f"{path} ") for gap in scan_events(path).gaps(device, last, model)]

    return build


def resumed(step):
    return Resumed(step=step, time_s=1.0, position=0, started_at="")


def checkpoint(step, model):
    return CheckpointWritten(step=step, time_s=1.0, position=0, ledger={}, model_sha256=model)


@pytest.mark.parametrize(
    ("steps", "said"),
    [
        ([*range(1, 11)], []),
        ([*range(1, 13)], []),
        ([*range(1, 9)], ["lacks steps 9 to 10"]),
        ([1, 2, 4, *range(7, 11)], ["lacks steps 3, 5 to 6"]),
        ([2, 4, 6, 8, 10], ["lacks steps 1, 3, 5 and 2 more"]),
        ([1, 2, 3, 4, 5, resumed(3), *range(4, 11)], []),
        ([1, 2, 3, 5, 6, resumed(3), *range(4, 11)], []),
        ([1, 2, 3, resumed(5), *range(6, 11)], ["lacks steps 4 to 5"]),
        ([1, 2, 3, resumed(0), *range(1, 11)], []),
        ([], ["lacks steps 1 to 10"]),
    ],
)
def test_steps(gaps, steps, said):
    assert gaps(steps) == said


def cut_middle(path):
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 3] + whole[len(whole) // 2 + 20 :])


def test_a_hole_in_the_middle(gaps):
    [said] = gaps(range(1, 11), cut_middle)
    assert re.fullmatch(r"has lines that are no events: \d and lacks steps \d to \d", said)


def test_a_torn_last_line_is_none(gaps):
    assert gaps(range(1, 12), lambda path: path.write_bytes(path.read_bytes()[:-5])) == []


@pytest.mark.parametrize(
    "line", ["{", "[]", "3", '{"event": 1, "step": 1}', '{"event": "step"}', "[" * 100_000, "\x1b"]
)
def test_lines_of_something_else(gaps, line):
    def harm(path):
        path.write_text(path.read_text() + line + "\n")

    assert gaps(range(1, 11), harm) == ["has lines that are no events: 12"]


def test_without_a_header(gaps):
    said = gaps(range(1, 11), lambda path: path.write_text("".join(path.read_text().splitlines(keepends=True)[1:])))
    assert said == ["does not begin with a header"]


def test_of_another_device(gaps):
    assert gaps(range(1, 11), header_device=1) == ["holds the events of device 1"]


def test_of_another_run(gaps):
    steps = [*range(1, 11), checkpoint(10, "ab")]
    assert gaps(steps, model="ab") == gaps(steps, model="") == gaps(range(1, 11), model="ab") == []
    assert gaps(steps, model="cd") == ["is of another run: after step 10 its model is another one"]
    finished = Finished(step=10, time_s=1.0, reason="steps", model_sha256="ab")
    assert gaps([*range(1, 11), finished], model="cd") == ["is of another run: after step 10 its model is another one"]


def test_nothing_where_a_file_should_be(gaps, tmp_path):
    assert gaps([], lambda path: path.unlink()) == ["is missing"]
    (tmp_path / "events-0.jsonl").mkdir()
    assert scan_events(tmp_path / "events-0.jsonl").problem == "cannot be read: a folder, not a file"


class TestCompare:
    def test_a_whole_run_has_none(self, new_run):
        assert compare([new_run()]).warnings == ()

    def test_missing_steps_are_a_warning(self, new_run):
        folder = new_run()
        lines = (folder / "events-1.jsonl").read_text().splitlines(keepends=True)
        (folder / "events-1.jsonl").write_text("".join(lines[:5] + lines[9:]))
        [warning] = compare([folder]).warnings
        assert re.fullmatch(r"\S+/events-1\.jsonl lacks steps \d to \d", warning)

    def test_a_missing_file_is_a_warning_where_the_device_was(self, new_run):
        folder = new_run(devices=3)
        (folder / "events-1.jsonl").unlink()
        assert [w.rpartition("/")[2] for w in compare([folder]).warnings] == ["events-1.jsonl is missing"]
        # the last device may have been on another machine
        (folder / "events-2.jsonl").unlink()
        assert compare([folder]).warnings == ()
        (folder / "checkpoints" / "device-2").mkdir(parents=True)
        said = [w.rpartition("/")[2] for w in compare([folder]).warnings]
        assert said == ["events-2.jsonl is missing"]

    def test_simulated_devices_may_be_away(self, new_run):
        folder = new_run(clock="virtual")
        (folder / "events-1.jsonl").write_text("")
        assert compare([folder]).warnings == ()

    def test_strays_do_not_matter(self, new_run):
        folder = new_run()
        for name in ("events-x.jsonl", "events-01.jsonl", "events-.jsonl", ".DS_Store", "events-²3.jsonl"):
            (folder / name).write_text("?")
        (folder / "events-7.jsonl").mkdir()
        assert RunFolder(folder).devices == (0, 1)
        assert compare([folder]).warnings == ()


def test_events_of_later_kinds_are_events(gaps):
    def harm(path):
        path.write_text(path.read_text() + json.dumps({"event": "novelty", "step": 10}) + "\n")

    assert gaps(range(1, 11), harm) == []
