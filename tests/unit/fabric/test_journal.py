"""What a hub keeps for the time after it was killed."""

import os
import resource
from contextlib import contextmanager
from threading import Event, Thread

import pytest

from scadles.errors import ConfigError
from scadles.fabric.hub import Journal, journal, journal_of


@pytest.fixture
def at_any_time(monkeypatch):
    """Let the journal come to the disk whenever it is asked to."""
    monkeypatch.setattr(journal, "_SYNC_S", 0.0)


def of(journal, *names):
    return [note and note[0] for note in map(journal.of, names)]


def test_a_note_is_void_when_its_step_is_begun_again():
    journal = Journal()
    for step in (1, 2):
        journal.note("a", step, {"step": step})
        journal.note("b", step, {"step": step})
    journal.begun(3)
    assert of(journal, "a", "b") == [2, 2]
    journal.begun(2)
    assert (of(journal, "a", "b"), journal.newest) == ([1, 1], 1)
    journal.note("a", 2, {"step": 2})
    assert (of(journal, "a", "b"), journal.took_the_newest()) == ([2, 1], {"a"})


def test_all_go_back_to_a_checkpoint():
    """Whatever step the checkpoint is of: each device's note is the last one before."""
    journal = Journal()
    for step in range(1, 100):
        journal.note("a", step, {})
        if step % 7 == 0:
            journal.note("b", step, {})
    journal.begun(51)
    assert of(journal, "a", "b") == [50, 49]


def test_it_is_read_again(tmp_path):
    with journal_of(tmp_path) as journal:
        journal.seat("a", 0)
        journal.seat("b", 2)
        for step in (1, 2, 3):
            journal.note("a", step, {"step": step, "position": 8 * step})
            journal.note("b", step, {"step": step})
        journal.begun(3)
        journal.note("b", 3, {"step": 3})
        journal.end("steps", "mark")
    for _ in range(2):
        with journal_of(tmp_path) as again:
            assert (again.run, again.seats, again.ended_by) == (journal.run, {"a": 0, "b": 2}, ("steps", "mark"))
            assert of(again, "a", "b") == [2, 3]
            assert again.of("a") == (2, {"step": 2, "position": 16})
            assert (again.newest, again.took_the_newest()) == (3, {"b"})


@pytest.mark.parametrize("cut", range(1, 30))
def test_a_torn_last_line_does_not_count(tmp_path, cut):
    with journal_of(tmp_path) as journal:
        journal.note("a", 1, {"step": 1})
        journal.note("a", 2, {"step": 2})
    path = tmp_path / "hub.jsonl"
    path.write_bytes(path.read_bytes()[:-cut])
    with journal_of(tmp_path) as again:
        assert (again.run, of(again, "a")) == (journal.run, [1])
        again.note("a", 2, {"step": 2})
    with journal_of(tmp_path) as third:
        assert of(third, "a") == [2]


@pytest.mark.usefixtures("at_any_time")
def test_it_does_not_grow_for_ever(tmp_path):
    with journal_of(tmp_path, kept=10) as journal:
        for step in range(1, 500):
            journal.note("a", step, {"text": "x" * 50_000})
            journal.sync()
        assert (tmp_path / "hub.jsonl").stat().st_size < 12 * 2**20
    with journal_of(tmp_path, kept=10) as again:
        assert of(again, "a") == [499]


@pytest.mark.parametrize("content", [b"{}\n", b"[1]\n", b"noise\n", b'{"name": "a", "step": "x", "note": {}}\n'])
def test_something_else_under_that_name(tmp_path, content):
    (tmp_path / "hub.jsonl").write_bytes(content)
    with pytest.raises(ConfigError, match="no journal of a hub"), journal_of(tmp_path):
        pass


@contextmanager
def no_room(most_bytes):
    """Let no file grow beyond that."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (most_bytes, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.mark.usefixtures("at_any_time")
@pytest.mark.parametrize("room", [0, 250, 275])
def test_what_cannot_be_written_is_written_later(tmp_path, room):
    """Also where half a line was, and what is in the file meanwhile can be read."""
    said = []
    with journal_of(tmp_path, say=said.append) as kept:
        kept.seat("a", 0)
        with no_room(room):
            for step in range(1, 10):
                kept.note("a", step, {"step": step})
            kept.begun(9)
            kept.sync()
            kept.sync()
            before = (tmp_path / "hub.jsonl").read_bytes()
        assert len(said) == 1
        assert "hub.jsonl (File too large): the run goes on" in said[0]
        assert "may train on samples twice" in said[0]
        kept.note("a", 9, {"step": "again"})
        kept.sync()
        assert said[1:] == [f"{tmp_path / 'hub.jsonl'} is written again, with all that counts"]
        kept.note("a", 10, {})
        again = tmp_path / "then"
        again.mkdir()
        (again / "hub.jsonl").write_bytes(before)
        with journal_of(again) as then:
            assert then.run == kept.run
            assert (then.of("a") or (0,))[0] < 9
    with journal_of(tmp_path) as read:
        assert (read.of("a"), read.seats) == ((10, {}), {"a": 0})


def test_an_end_without_room(tmp_path):
    said = []
    with journal_of(tmp_path, say=said.append) as kept, no_room(0):
        kept.note("a", 1, {})
        kept.close()
    assert len(said) == 1


@pytest.mark.usefixtures("at_any_time")
def test_what_cannot_be_brought_to_the_disk(tmp_path, monkeypatch):
    said = []
    with journal_of(tmp_path, say=said.append) as kept:
        kept.note("a", 1, {})
        with monkeypatch.context() as patch:
            patch.setattr(os, "fsync", lambda _: os.close(-1))
            kept.sync()
        assert ["Bad file descriptor" in line for line in said] == [True]
        kept.sync()
        assert said[1].endswith("is written again, with all that counts")


def test_it_is_brought_to_the_disk_once_a_second_at_most_and_only_where_it_has_changed(tmp_path, monkeypatch):
    now_s, synced = [100.0], []
    monkeypatch.setattr(journal, "wall_seconds", lambda: now_s[0])
    with journal_of(tmp_path) as kept:
        monkeypatch.setattr(os, "fsync", synced.append)
        for step in range(1, 41):
            now_s[0] += 0.25
            if step < 20:
                kept.note("a", step, {})
            kept.sync()
    assert len(synced) == 6


@pytest.mark.usefixtures("at_any_time")
def test_notes_are_made_while_it_is_written_anew(tmp_path, monkeypatch):
    """By one thread after another, as with a hub's lock; another brings it to the disk."""
    monkeypatch.setattr(journal, "_MOST_BYTES", 500)
    ends = Event()

    def bring_to_disk(kept):
        while not ends.is_set():
            kept.sync()

    said = []
    with journal_of(tmp_path, say=said.append) as kept:
        thread = Thread(target=bring_to_disk, args=(kept,))
        thread.start()
        for step in range(1, 300):
            kept.note("ab"[step % 2], step, {"step": step})
            if step % 50 == 0:
                with no_room(100):
                    kept.note("c", step, {"step": step})
        ends.set()
        thread.join()
    with journal_of(tmp_path) as read:
        assert [read.of(name) for name in "abc"] == [(298, {"step": 298}), (299, {"step": 299}), (250, {"step": 250})]
    assert all("cannot write" in line or "written again" in line for line in said)


def test_who_has_said_goodbye_is_read_again(tmp_path):
    with journal_of(tmp_path) as journal:
        for seat, name in enumerate("abc"):
            journal.seat(name, seat)
            journal.leave(name)
        journal.leave("a stranger")
        journal.seat("b", 1)
        journal.free("c")
        assert journal.left == {"a"}
    for _ in range(2):
        with journal_of(tmp_path) as again:
            assert (again.left, again.seats) == ({"a"}, {"a": 0, "b": 1})


def test_a_slow_disk_keeps_nobody_waiting(tmp_path, monkeypatch):
    """Whoever makes a note while all is written anew goes on at once, and the note is there."""
    waits, goes_on, fsync = Event(), Event(), os.fsync

    def slowly(descriptor):
        waits.set()
        assert goes_on.wait(60)
        fsync(descriptor)

    monkeypatch.setattr(journal, "_MOST_BYTES", 10)
    with journal_of(tmp_path) as kept:
        kept.note("a", 1, {})
        monkeypatch.setattr(os, "fsync", slowly)
        thread = Thread(target=kept.sync)
        thread.start()
        assert waits.wait(60)
        kept.note("a", 2, {})
        with_the_note = (tmp_path / "hub.jsonl").read_bytes()
        assert b'"step": 2' in with_the_note, "a hub that is killed now has it"
        goes_on.set()
        thread.join()
        assert of(kept, "a") == [2]
    with journal_of(tmp_path) as read:
        assert of(read, "a") == [2]


@pytest.mark.usefixtures("at_any_time")
def test_one_that_has_grown_is_added_to_where_there_is_no_room_for_another(tmp_path, monkeypatch):
    monkeypatch.setattr(journal, "_MOST_BYTES", 10)
    said = []
    with journal_of(tmp_path, say=said.append) as kept:
        kept.note("a", 1, {})
        monkeypatch.setattr(journal, "FileIO", lambda *_, **__: os.close(-1))
        kept.sync()
        kept.note("a", 2, {})
        assert (tmp_path / "hub.jsonl").read_text().count("note") == 2
        monkeypatch.undo()
    assert not said
