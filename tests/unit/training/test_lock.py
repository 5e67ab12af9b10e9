"""One run in a folder at a time, and nobody in the way of the next one after a crash."""

import errno
import fcntl
import json
import os
import re
import signal
import time
from threading import Timer

import pytest

from scadles.training import lock as locks
from scadles.training.lock import LOCK_FILE, RunLock

# takes the lock, forks a child that lives on, and says that it is ready
SCRIPT = """
import os, sys, time
from pathlib import Path
from scadles.training.lock import RunLock
lock = RunLock(Path("run"), 1)
assert lock.acquire() is None
child = os.fork()
if child == 0:
    Path("child").write_text(str(os.getpid()))
time.sleep(60)
"""


@pytest.fixture
def new_lock(tmp_path):
    made = []

    def build(attempt):
        made.append(RunLock(tmp_path / "run", attempt))
        return made[-1]

    yield build
    for lock in made:
        lock.release()


def test_devices_of_one_start_share_it(new_lock):
    locks = [new_lock(7) for _ in range(3)]
    assert [lock.acquire() for lock in locks] == [None] * 3
    assert [lock.notice for lock in locks] == [None] * 3


def test_another_start_is_told_who_is_there(new_lock, monkeypatch):
    monkeypatch.setattr("sys.argv", ["scadles", "train", "c.yaml", "--out", "run"])
    assert new_lock(7).acquire() is None
    told = new_lock(8).acquire()
    assert re.fullmatch(
        rf"\S+/run is in use by a run since \S+Z \(process {os.getpid()} on \S+: scadles train c\.yaml --out run\): "
        "wait for its end, or choose another --out",
        told,
    )
    assert new_lock(7).acquire() is None


def test_the_last_device_that_leaves_frees_it(new_lock):
    one, other = new_lock(7), new_lock(7)
    assert one.acquire() is None
    assert other.acquire() is None
    one.release()
    one.release()
    assert "in use" in new_lock(8).acquire()
    other.release()
    assert new_lock(8).acquire() is None


def test_who_looks_changes_nothing(new_lock, tmp_path):
    assert new_lock(7).in_use() is None
    assert not (tmp_path / "run").exists()
    holder = new_lock(7)
    holder.acquire()
    before = (tmp_path / "run" / LOCK_FILE).read_bytes()
    assert "is in use by a run since" in new_lock(8).in_use()
    assert (tmp_path / "run" / LOCK_FILE).read_bytes() == before
    holder.release()
    assert new_lock(8).in_use() is None


def test_what_nobody_refers_to_is_released(new_lock, tmp_path):
    forgotten = RunLock(tmp_path / "run", 7)
    forgotten.acquire()
    del forgotten
    assert new_lock(8).acquire() is None


@pytest.mark.parametrize("content", [b"", b"{torn", b"[1]", b"\xff" * 9000])
def test_what_is_written_there_does_not_matter(new_lock, tmp_path, content):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / LOCK_FILE).write_bytes(content)
    holder = new_lock(7)
    assert holder.acquire() is None
    assert json.loads((tmp_path / "run" / LOCK_FILE).read_bytes())["attempt"] == 7
    (tmp_path / "run" / LOCK_FILE).write_bytes(content)
    assert "is in use by another run" in new_lock(8).acquire()


def test_a_folder_in_its_place_is_one_sentence(new_lock, tmp_path):
    (tmp_path / "run" / LOCK_FILE).mkdir(parents=True)
    assert re.fullmatch(r"cannot write the run folder \S+/run: Is a directory", new_lock(7).acquire())
    assert new_lock(7).in_use() is None


def test_a_file_in_the_folders_place_is_one_sentence(new_lock, tmp_path):
    (tmp_path / "run").touch()
    assert re.fullmatch(r"cannot write the run folder \S+/run: File exists", new_lock(7).acquire())


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.EOPNOTSUPP])
def test_without_locks_a_notice_is_all(new_lock, monkeypatch, number):
    def refuse(*_):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(fcntl, "flock", refuse)
    lock = new_lock(7)
    assert lock.acquire() is None
    assert re.search(r"/run has no locks \(.+\): nothing keeps a second run out", lock.notice)
    assert new_lock(8).in_use() is None


def test_without_fcntl_a_notice_is_all(new_lock, monkeypatch):
    monkeypatch.setattr(locks, "fcntl", None)
    lock = new_lock(7)
    assert lock.acquire() is None
    assert "has no locks" in lock.notice
    assert lock.in_use() is None


def test_kill_9_frees_it_whatever_was_forked(start, tmp_path, new_lock):
    run = start(tmp_path, "-c", SCRIPT)
    run.until((tmp_path / "child").exists, "a child")
    assert "is in use" in new_lock(2).in_use()
    run.process.send_signal(signal.SIGKILL)
    run.process.wait(10)
    assert len(run.pids()) == 1
    until_s = time.monotonic() + 10
    while (told := new_lock(2).acquire()) and time.monotonic() < until_s:
        time.sleep(0.02)  # the kernel closes the files of the dead in its own time
    assert told is None
    run.kill_all()


def test_two_that_look_at_the_same_moment_do_not_take_each_other_for_a_run(tmp_path, monkeypatch):
    monkeypatch.setattr(locks, "_PATIENCE_S", 60.0)
    lock = RunLock(tmp_path, 1)
    assert lock.acquire() is None
    lock.release()
    looking = os.open(tmp_path / LOCK_FILE, os.O_RDWR)
    fcntl.flock(looking, fcntl.LOCK_EX)
    Timer(0.2, os.close, [looking]).start()
    assert RunLock(tmp_path, 2).in_use() is None
