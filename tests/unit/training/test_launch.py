"""Forked devices that fail, ignore what they are told, or are told nothing: processes of a script of their own."""

import os
import re
import signal

import pytest

from scadles.errors import ConfigError
from scadles.training import launch

SCRIPT = """
import os, signal, sys
from pathlib import Path
from threading import Event
from scadles.errors import ConfigError, DivergedError, PeerLostError, RunError
from scadles.training import launch

launch.GRACE_S = 1.0

def fails():
    if os.environ["RANK"] == "1":
        raise ValueError("not foreseen")
    Event().wait(60)

def mistaken():
    raise ConfigError("steps = 0 cannot work")

def broken():
    if os.environ["RANK"] == "0":
        raise RunError("the disk is full")
    Event().wait(60)

def diverged():
    raise DivergedError("they differ", resumable=False)

def full(*_):
    raise RunError("the disk is full")

def secondhand():  # the one that was lost has time to say why
    if os.environ["RANK"] == "1":
        signal.signal(signal.SIGTERM, full)
        Path("here-1").touch()
        Event().wait(60)
    while not Path("here-1").exists():
        Event().wait(0.01)
    raise PeerLostError([1], "gradients of step 1", "connection closed")

def deaf():
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    Path(f"here-{os.environ['RANK']}").touch()
    Event().wait(60)

def patient():
    Path(f"here-{os.environ['RANK']}").touch()
    Event().wait(60)

def tells():
    names = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR")
    Path(f"told-{os.environ['RANK']}").write_text(" ".join(os.environ[name] for name in names))

if sys.argv[1] == "secondhand":
    launch._GRACE_S = launch._GRACE_OF_LOST_S = 60.0
if sys.argv[2:] == ["background"]:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
try:
    launch.launch_local(2, globals()[sys.argv[1]], lambda line: print(line, file=sys.stderr))
except launch.LaunchError as error:
    print(f"launcher: {error}{'' if error.resumable else ' (do not resume)'}", file=sys.stderr)
    sys.exit(error.exit_code)
"""


@pytest.fixture
def launched(start, tmp_path):
    return lambda *arguments: start(tmp_path, "-c", SCRIPT, *arguments)


def wait_for_both(run, folder):
    run.until(lambda: all((folder / f"here-{rank}").exists() for rank in (0, 1)), "devices at work")


def test_devices_know_who_they_are(launched, tmp_path):
    run = launched("tells")
    assert (run.wait(), run.err) == (0, "")
    told = [(tmp_path / f"told-{rank}").read_text() for rank in (0, 1)]
    assert told == ["0 2 0 127.0.0.1", "1 2 1 127.0.0.1"]


def test_a_users_mistake_is_told_once(launched):
    run = launched("mistaken")
    assert (run.wait(), run.err) == (2, "launcher: steps = 0 cannot work\n")


def test_what_nobody_foresaw_is_shown_whole(launched):
    run = launched("fails")
    assert run.wait() == 1
    assert "ValueError: not foreseen" in run.err
    assert run.err.splitlines()[-1] == "launcher: device 1 ended with exit code 1"


def test_an_error_of_one_device_ends_the_others(launched):
    run = launched("broken")
    assert run.wait() == 1
    assert run.err.splitlines() == ["device 0: the disk is full", "launcher: device 0 ended with exit code 1"]


def test_the_cause_counts_though_the_loss_is_seen_first(launched):
    run = launched("secondhand")
    assert run.wait() == 1
    assert run.err.splitlines()[-2:] == ["device 1: the disk is full", "launcher: device 1 ended with exit code 1"]


def test_what_a_resumption_will_not_mend_is_known(launched):
    run = launched("diverged")
    assert run.wait() == 3
    # whoever fails first has the other one ended, which may not have said so yet
    assert re.search(r"^device \d: they differ$", run.err, re.MULTILINE)
    assert re.fullmatch(r"launcher: device \d ended with exit code 3 \(do not resume\)", run.err.splitlines()[-1])


def test_a_device_that_does_not_stop_is_killed(launched, tmp_path):
    run = launched("deaf")
    wait_for_both(run, tmp_path)
    run.signal(signal.SIGTERM)
    assert (run.wait(), run.err) == (143, "launcher: stopped by SIGTERM\n")


def test_a_job_in_the_background_is_deaf_to_ctrl_c(launched, tmp_path):
    run = launched("patient", "background")
    wait_for_both(run, tmp_path)
    run.signal(signal.SIGINT)
    run.signal(signal.SIGTERM)
    assert (run.wait(), run.err) == (143, "launcher: stopped by SIGTERM\n")


def test_a_platform_that_cannot_fork_is_told_what_to_use(monkeypatch):
    monkeypatch.delattr(os, "fork")
    with pytest.raises(ConfigError, match="start them with torchrun"):
        launch.launch_local(2, lambda: None, print)
