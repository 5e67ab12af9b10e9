"""What a hub keeps for the time after it was killed."""

import pytest

from scadles.errors import ConfigError
from scadles.fabric.hub import Journal, journal_of


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


def test_it_does_not_grow_for_ever(tmp_path):
    with journal_of(tmp_path, kept=10) as journal:
        for step in range(1, 500):
            journal.note("a", step, {"text": "x" * 50_000})
        assert (tmp_path / "hub.jsonl").stat().st_size < 12 * 2**20
    with journal_of(tmp_path, kept=10) as again:
        assert of(again, "a") == [499]


@pytest.mark.parametrize("content", [b"{}\n", b"[1]\n", b"noise\n", b'{"name": "a", "step": "x", "note": {}}\n'])
def test_something_else_under_that_name(tmp_path, content):
    (tmp_path / "hub.jsonl").write_bytes(content)
    with pytest.raises(ConfigError, match="no journal of a hub"), journal_of(tmp_path):
        pass
