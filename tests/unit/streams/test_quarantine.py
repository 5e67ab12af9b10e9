import base64
import json
import os
from pathlib import Path

import pytest

from scadles.records import Rejected
from scadles.streams.quarantine import EXAMPLE_BYTES, Quarantine, first_reason
from scadles.streams.rejections import Reasons, RejectionLimit


def lines(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_an_example_is_all_that_is_known_of_a_record(tmp_path):
    quarantine = Quarantine(tmp_path / "q.jsonl", 1.0, device=3)
    quarantine.keep(17, "too odd", b"\x00\xffvalue", b"key")
    quarantine.keep(18, "NaN or infinite values")
    first, second = lines(tmp_path / "q.jsonl")
    assert base64.b64decode(first.pop("value")) == b"\x00\xffvalue"
    assert base64.b64decode(first.pop("key")) == b"key"
    assert first == {"offset": 17, "reason": "too odd", "device": 3, "bytes": 7}
    assert second == {"offset": 18, "reason": "NaN or infinite values", "device": 3}


def test_the_first_reason_is_told(tmp_path):
    path = tmp_path / "q.jsonl"
    assert first_reason(path) == ""
    quarantine = Quarantine(path, 1.0, device=0)
    quarantine.keep(1, "too odd", bytes(2 * EXAMPLE_BYTES), bytes(2 * EXAMPLE_BYTES))
    quarantine.keep(2, "odder")
    assert first_reason(path) == "too odd"
    for torn in (b'{"offset":1,"rea', b"[1]\n", b"", b"\xff\n"):
        path.write_bytes(torn)
        assert first_reason(path) == ""


def test_there_is_no_file_without_a_rejected_record(tmp_path):
    Quarantine(tmp_path / "q.jsonl", 1.0, device=0)
    assert not (tmp_path / "q.jsonl").exists()


def test_a_long_value_is_kept_in_part(tmp_path):
    quarantine = Quarantine(tmp_path / "q.jsonl", 1.0, device=0)
    quarantine.keep(0, "too long", bytes(200_000))
    (example,) = lines(tmp_path / "q.jsonl")
    assert len(base64.b64decode(example["value"])) == EXAMPLE_BYTES
    assert example["bytes"] == 200_000


@pytest.mark.parametrize("size", [0, 1, 40, 700])
def test_the_file_never_grows_beyond_its_size_and_holds_the_first_ones(tmp_path, size):
    for attempt in range(2):
        quarantine = Quarantine(tmp_path / "q.jsonl", 0.01, device=0)
        for offset in range(1000):
            quarantine.keep(1000 * attempt + offset, "odd", bytes(size))
    assert 9_000 < (tmp_path / "q.jsonl").stat().st_size <= 10_000
    kept = [example["offset"] for example in lines(tmp_path / "q.jsonl")]
    assert kept == list(range(len(kept)))


def test_nothing_is_kept_where_nothing_may_be(tmp_path):
    Quarantine(tmp_path / "q.jsonl", 0.0, device=0).keep(0, "odd")
    assert not (tmp_path / "q.jsonl").exists()


def test_a_record_is_kept_once_over_resumptions_and_torn_lines(tmp_path):
    path = tmp_path / "q.jsonl"
    first = Quarantine(path, 1.0, device=0)
    first.keep(5, "odd", b"first")
    first.keep(5, "odd once more")
    with path.open("ab") as file:
        file.write(b'{"offset":6,"rea')
    second = Quarantine(path, 1.0, device=0)
    second.keep(5, "odd", b"second")
    second.keep(6, "odd")
    first_line, torn, last = path.read_bytes().splitlines()
    assert json.loads(first_line)["value"] == base64.b64encode(b"first").decode()
    assert torn == b'{"offset":6,"rea'
    assert json.loads(last)["offset"] == 6


def test_a_disk_that_cannot_be_written_to_is_counted_and_no_error(tmp_path):
    quarantine = Quarantine(tmp_path / "nowhere" / "q.jsonl", 1.0, device=0)
    for offset in range(3):
        quarantine.keep(offset, "odd")
    assert (quarantine.missed, quarantine.problem) == (3, "No such file or directory")


def test_a_full_disk_is_counted_and_no_error(monkeypatch):
    monkeypatch.setattr("scadles.streams.quarantine.read_file", lambda path, most: b"")
    quarantine = Quarantine(Path("/dev/full"), 1.0, device=0)
    quarantine.keep(0, "odd")
    assert (quarantine.missed, quarantine.problem) == (1, "No space left on device")


def test_a_named_pipe_is_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "q.jsonl")
    quarantine = Quarantine(tmp_path / "q.jsonl", 1.0, device=0)
    quarantine.keep(0, "odd")
    assert (quarantine.missed, quarantine.problem) == (1, "a named pipe, not a file")


@pytest.mark.parametrize(
    "line", ["[" * 100_000, '{"offset": 1e999}', '{"offset": NaN}', "3", "\x00", '{"offset": "x"}']
)
def test_lines_of_somebody_else_are_passed_over(tmp_path, line):
    path = tmp_path / "q.jsonl"
    path.write_text(line + "\n")
    Quarantine(path, 1.0, device=0).keep(0, "odd")
    assert json.loads(path.read_bytes().splitlines()[-1])["offset"] == 0


def test_a_file_that_is_too_large_already_stays_as_it_is(tmp_path):
    path = tmp_path / "q.jsonl"
    path.write_bytes(bytes(20_000))
    quarantine = Quarantine(path, 0.01, device=0)
    quarantine.keep(0, "odd")
    assert (path.stat().st_size, quarantine.missed, quarantine.problem) == (20_000, 0, "")


def test_the_limit_waits_for_enough_records():
    limit = RejectionLimit(0.1)
    limit.count(99, 99)
    assert not limit.exceeded
    limit.count(1, 0)
    assert limit.exceeded


def test_exactly_the_share_is_not_too_much():
    limit = RejectionLimit(0.1)
    limit.count(1000, 100)
    assert not limit.exceeded
    limit.count(0, 1)
    assert limit.exceeded


def test_a_share_of_one_is_never_exceeded():
    limit = RejectionLimit(1.0)
    limit.count(5000, 5000)
    assert not limit.exceeded


def test_a_stream_that_turns_bad_is_noticed_however_long_it_was_good():
    limit = RejectionLimit(0.5)
    for _ in range(100_000):
        limit.count(100, 0)
    bad = 0
    while not limit.exceeded:
        limit.count(100, 100)
        bad += 100
    assert bad <= 20_100


def test_reasons_are_counted_in_bounded_memory():
    reasons = Reasons()
    reasons.note(Rejected(offset, f"{offset} bytes, expected 8") for offset in range(10_000))
    reasons.note([Rejected(10_000, "0 bytes, expected 8")])
    found = list(reasons)
    assert len(found) == 17
    assert found[0] == ("0 bytes, expected 8", 2, 0)
    assert found[-1] == ("other reasons", 10_000 - 16, 16)


@pytest.mark.parametrize("reason", ["x" * 10**6, "\x1b[2J" * 1000, "\ud800", "two\nlines"])
def test_a_reason_of_anybody_is_short_and_printable(tmp_path, reason):
    quarantine = Quarantine(tmp_path / "q.jsonl", 1.0, device=0)
    quarantine.keep(0, reason, b"value")
    ((told, _, _),) = counted(reason)
    assert len(told) <= 203
    assert told.isprintable()
    assert lines(tmp_path / "q.jsonl")[0]["reason"] == told


def counted(reason):
    reasons = Reasons()
    reasons.note([Rejected(0, reason)])
    return list(reasons)
