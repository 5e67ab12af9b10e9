import os
from pathlib import Path

import pytest

from scadles.errors import RunError
from scadles.observe import EventLog, read_events


def test_what_is_written_is_read_back(tmp_path, make_header, make_step):
    path = tmp_path / "events-0000.jsonl"
    with EventLog(path, make_header(), append=False) as log:
        log.write(make_step(1, lag=None))
    assert read_events(path) == [make_header(), make_step(1, lag=None)]


def test_each_line_is_there_at_once(tmp_path, make_header, make_step):
    path = tmp_path / "e.jsonl"
    with EventLog(path, make_header(), append=False) as log:
        log.write(make_step(1))
        assert read_events(path)[-1] == make_step(1)


def test_a_new_log_replaces_an_old_file(tmp_path, make_header, make_step):
    path = tmp_path / "e.jsonl"
    for step in (1, 2):
        with EventLog(path, make_header(), append=False) as log:
            log.write(make_step(step))
    assert read_events(path) == [make_header(), make_step(2)]


def test_appending_keeps_the_header_and_cuts_a_torn_line(tmp_path, make_header, make_step):
    path = tmp_path / "e.jsonl"
    with EventLog(path, make_header(), append=False) as log:
        log.write(make_step(1))
    with path.open("ab") as file:
        file.write(b'{"event":"step","st')
    with EventLog(path, make_header(seed=9), append=True) as log:
        log.write(make_step(2))
    assert read_events(path) == [make_header(), make_step(1), make_step(2)]


@pytest.mark.parametrize("torn", [None, b"", b'{"event":"hea'])
def test_appending_to_nothing_begins_with_the_header(tmp_path, torn, make_header, make_step):
    path = tmp_path / "e.jsonl"
    if torn is not None:
        path.write_bytes(torn)
    with EventLog(path, make_header(), append=True) as log:
        log.write(make_step(1))
    assert read_events(path) == [make_header(), make_step(1)]


def test_a_path_that_cannot_be_written_says_so(tmp_path, make_header):
    with pytest.raises(RunError, match=r"cannot write events to .*No such file"):
        EventLog(tmp_path / "no" / "e.jsonl", make_header(), append=False)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_a_full_disk_says_so(tmp_path, make_header):
    with pytest.raises(RunError, match="/dev/full: No space left"):
        EventLog(Path("/dev/full"), make_header(), append=False)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_a_disk_that_fills_up_later_says_so(tmp_path, make_header, make_step):
    path = tmp_path / "e.jsonl"
    log = EventLog(path, make_header(), append=False)
    log._file.close()
    with Path("/dev/full").open("wb", buffering=0) as log._file, pytest.raises(RunError, match="No space left"):
        log.write(make_step(1))
    log.close()


@pytest.mark.parametrize("append", [True, False])
def test_a_named_pipe_is_not_waited_for(tmp_path, append, make_header):
    os.mkfifo(tmp_path / "e.jsonl")
    with pytest.raises(RunError, match="a named pipe, not a file"):
        EventLog(tmp_path / "e.jsonl", make_header(), append=append)


@pytest.mark.parametrize("torn", [1, 65_535, 65_536, 200_000])
def test_a_torn_line_of_any_length_is_cut(tmp_path, torn, make_header):
    path = tmp_path / "e.jsonl"
    whole = make_header().to_json().encode() + b"\n"
    path.write_bytes(whole + b"x" * torn)
    EventLog(path, make_header(), append=True).close()
    assert path.read_bytes() == whole


class TestVanished:
    @pytest.fixture
    def log(self, tmp_path, make_header):
        (tmp_path / "run").mkdir()
        with EventLog(tmp_path / "run" / "e.jsonl", make_header(), append=False) as log:
            yield log

    def test_a_file_in_its_place_is_fine(self, log, make_step):
        log.check(now=True)
        log.write(make_step(1))
        log.check(now=True)

    def test_a_deleted_one_is_told(self, log, tmp_path):
        (tmp_path / "run" / "e.jsonl").unlink()
        with pytest.raises(RunError, match=r"e\.jsonl was deleted or replaced while the run was going on"):
            log.check(now=True)

    def test_a_replaced_one_is_told(self, log, tmp_path):
        path = tmp_path / "run" / "e.jsonl"
        (tmp_path / "other").write_bytes(path.read_bytes())
        (tmp_path / "other").replace(path)
        with pytest.raises(RunError, match="deleted or replaced"):
            log.check(now=True)

    def test_a_moved_folder_is_told(self, log, tmp_path):
        (tmp_path / "run").rename(tmp_path / "elsewhere")
        with pytest.raises(RunError, match="deleted or replaced"):
            log.check(now=True)

    def test_it_is_looked_for_once_a_second(self, log, tmp_path, monkeypatch):
        now_s = 100.0
        monkeypatch.setattr("scadles.observe.log.wall_seconds", lambda: now_s)
        log.check()
        (tmp_path / "run" / "e.jsonl").unlink()
        now_s = 100.9
        log.check()
        now_s = 101.1
        with pytest.raises(RunError, match="deleted or replaced"):
            log.check()
