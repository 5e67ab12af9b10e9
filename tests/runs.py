"""Runs of ``python -m scadles`` in processes of their own, found, signalled and cleaned up through /proc."""

import itertools
import json
import os
import re
import signal
import time
from pathlib import Path

import numpy as np
import pytest
import yaml

from fork_server import spawn
from scadles.observe import CheckpointWritten, Finished, Step, events_path
from scadles.observe.rundir import read_events

REPOSITORY = Path(__file__).parents[1]


class Started:
    """A run that was started: the launcher (or a device that stands alone) and the processes that came of it.

    Attributes:
        process: the one that was started; it leads a session of its own.
    """

    def __init__(self, arguments, folder, environment, name, interrupts):
        self.name = name
        self._out, self._err = (Path(folder).resolve() / f"{name}.{kind}" for kind in ("out", "err"))
        with self._out.open("w") as out, self._err.open("w") as err:
            surroundings = _surroundings(environment)
            self.process = spawn(arguments, cwd=folder, env=surroundings, stdout=out, stderr=err, interrupts=interrupts)

    @property
    def out(self):
        return self._out.read_text()

    @property
    def err(self):
        return self._err.read_text()

    def pids(self):
        """All living processes of this run: whoever inherited its standard error."""
        return [pid for pid in _processes() if _standard_error(pid) == str(self._err)]

    def devices(self):
        """Process ids of living devices by number."""
        numbers = {pid: _rank(pid) for pid in self.pids() if pid != self.process.pid}
        return {number: pid for pid, number in sorted(numbers.items()) if number is not None}

    def signal(self, number):
        self.process.send_signal(number)

    def send(self, pid, number):
        """Send a signal to one process of this run, if it is still there."""
        if pid in self.pids():
            os.kill(pid, number)

    def stop(self, pid):
        """SIGSTOP one process of this run and wait until it stands still."""
        self.send(pid, signal.SIGSTOP)
        while _state(pid) not in ("T", ""):
            time.sleep(0.0005)

    def kill_all(self):
        """kill -9 of the launcher and of every device, those included that are being started at this moment."""
        self.process.kill()
        while pids := [pid for pid in self.pids() if pid != self.process.pid]:
            for pid in pids:
                self.send(pid, signal.SIGKILL)
            time.sleep(0.002)
        self.process.wait(10)

    def wait(self, timeout_s=150.0):
        """Return the exit code, once every process of the run has ended."""
        deadline_s = time.monotonic() + timeout_s
        code = self.process.wait(timeout_s)
        while self.pids():
            assert time.monotonic() < deadline_s, f"{self.name}: left behind {self.pids()}"
            time.sleep(0.03)
        return code

    def until(self, condition, what, timeout_s=150.0, pause_s=0.03):
        """Wait for ``condition()`` while the run goes on, and return its outcome."""
        deadline_s = time.monotonic() + timeout_s
        while not (found := condition()):
            assert self.process.poll() is None, (
                f"{self.name} ended ({self.process.returncode}) before {what}: {self.err}"
            )
            assert time.monotonic() < deadline_s, f"{self.name}: no {what} within {timeout_s} s: {self.err}"
            time.sleep(pause_s)
        return found


class Finding:
    """What a run left in its folder, and what must hold whatever happened to it."""

    def __init__(self, path, devices):
        self.path = path
        self.devices = range(devices)

    def log(self, device):
        return events_path(self.path, device)

    def events(self, device, kind):
        """What counts of a device's events, none where it has written nothing yet."""
        if not self.log(device).exists():
            return []
        return [event for event in read_events(self.log(device)) if isinstance(event, kind)]

    def raw(self, device):
        """All events as they were written, void ones included."""
        if not self.log(device).exists():
            return []
        lines = self.log(device).read_bytes().split(b"\n")[:-1]
        return [json.loads(line) for line in lines]

    def last_checkpoint(self, device):
        """The event of the newest one."""
        return self.events(device, CheckpointWritten)[-1]

    def checkpoints(self, device):
        return sorted((self.path / "checkpoints" / f"device-{device}").glob("step-*.safetensors"))

    def finished(self):
        """The last event of every device, which is how the run ended for it."""
        last = [read_events(self.log(device))[-1] for device in self.devices]
        assert all(isinstance(event, Finished) for event in last)
        return last

    def assert_ended_together(self, reason):
        """All devices ended after the same step, with the same model, a checkpoint of it and a balanced ledger."""
        finished = self.finished()
        assert {event.reason for event in finished} == {reason}
        assert len({event.step for event in finished}) == 1
        assert len({event.model_sha256 for event in finished}) == 1
        for device, event in zip(self.devices, finished, strict=True):
            checkpoint = self.last_checkpoint(device)
            assert (checkpoint.step, checkpoint.model_sha256) == (event.step, event.model_sha256)
            assert self.checkpoints(device)[-1].stem == f"step-{event.step:08d}"
        self.assert_balanced()

    def assert_balanced(self):
        """In every ledger that was ever written down each received sample has one fate."""
        for device in self.devices:
            for ledger in (event["ledger"] for event in self.raw(device) if "ledger" in event):
                spent = sum(ledger.values()) - ledger["received"] - ledger["injected"]
                assert ledger["received"] == spent, f"device {device}: {ledger}"

    def assert_trained_once(self):
        """Without a sample dropped or rejected, a device's steps are one range of offsets from 0 on."""
        for device in self.devices:
            following = 0
            for step in self.events(device, Step):
                if step.offsets is None:
                    assert step.batch == 0
                    continue
                first, last = step.offsets
                assert (first, last - first + 1) == (following, step.batch), f"device {device}, step {step.step}"
                following = last + 1
            checkpoint = self.last_checkpoint(device)
            ledger = checkpoint.ledger
            assert (ledger["trained"], checkpoint.position) == (following, following)
            assert ledger["received"] == checkpoint.position + ledger["held"]
            assert ledger["dropped"] == ledger["rejected"] == 0


def _surroundings(changes):
    """This process's environment without what torchrun would set."""
    foreign = ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT", "LOCAL_RANK")
    mine = {
        name: value
        for name, value in os.environ.items()
        if name not in foreign and not name.startswith(("TORCHELASTIC_", "SCADLES_"))
    }
    return mine | {"COLUMNS": "200"} | changes


def _processes():
    return [int(entry.name) for entry in Path("/proc").iterdir() if entry.name.isdecimal()]


def _standard_error(pid):
    """Where it leads; empty for a process that has ended, a zombie included."""
    try:
        return os.readlink(f"/proc/{pid}/fd/2")  # noqa: PTH115 - it may lead to what is no path
    except OSError:
        return ""


def _environment(pid):
    """A process's environment; empty for one that has ended, a zombie included."""
    try:
        return Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
    except OSError:
        return []


def _rank(pid):
    """The number that a forked device has written into its name, or torchrun's into its environment."""
    try:
        name = Path(f"/proc/{pid}/comm").read_text()
    except OSError:
        return None
    if found := re.fullmatch(r"device (\d+)\n", name):
        return int(found[1])
    return next((int(part[5:]) for part in _environment(pid) if part.startswith(b"RANK=")), None)


def _state(pid):
    """One letter, as in ps; empty for a process that is gone."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return ""


def _write_npz(path, samples, *, classes=4, nan=()):
    """Write a data set of 8 x 8 pictures, easy to learn, with 100 to test on; those numbered ``nan`` hold a NaN."""
    rng = np.random.default_rng(0)
    centres = 1.5 * rng.normal(size=(classes, 1, 8, 8))
    y = rng.integers(0, classes, samples + 100)
    x = (centres[y] + rng.normal(size=(len(y), 1, 8, 8))).astype(np.float32)
    x[list(nan), 0, 3, 3] = np.nan
    np.savez(path, train_x=x[:samples], train_y=y[:samples], test_x=x[samples:], test_y=y[samples:])
    return path


@pytest.fixture(scope="session")
def write_npz():
    """Write a small data set: ``write_npz(path, samples, nan=numbers)``."""
    return _write_npz


@pytest.fixture(scope="session")
def npz(tmp_path_factory):
    """The small data set for tests that care about something else."""
    return _write_npz(tmp_path_factory.mktemp("data") / "small.npz", 600)


@pytest.fixture(scope="session")
def write_config():
    """Write a configuration: ``write_config(path, key=value, ...)``, YAML's nesting as mappings."""

    def write(path, **settings):
        path.write_text(yaml.safe_dump({"picture": False, **settings}))  # drawing takes longer than most runs here
        return path

    return write


@pytest.fixture(scope="session")
def finding():
    """Look at a run folder: ``finding(path, devices)``."""
    return Finding


@pytest.fixture(scope="session")
def digits_config():
    return REPOSITORY / "examples" / "digits.yaml"


@pytest.fixture(scope="session")
def _started():
    return []


@pytest.fixture(scope="session")
def start(_started):
    """Start ``python ARGUMENTS`` in a folder: ``start(folder, *arguments, **environment)``.

    Where ``interrupts="ignored"`` it is started as a shell starts what runs in the background.
    """
    if not Path("/proc/self/environ").exists():
        pytest.skip("finds the processes of a run through /proc")

    numbers = itertools.count()

    def launch(folder, *arguments, interrupts="default", **environment):
        run = Started(arguments, folder, environment, f"run-{next(numbers)}", interrupts)
        _started.append(run)
        return run

    return launch


@pytest.fixture(scope="session")
def start_training(start):
    """Start ``python -m scadles train ARGUMENTS`` in a folder."""

    def launch(folder, *arguments, **environment):
        return start(folder, "-m", "scadles", "train", *arguments, **environment)

    return launch


@pytest.fixture(autouse=True)
def _nobody_is_left_behind(_started):
    """No test leaves a process behind; those that it did leave are ended by process id."""
    yield
    left = [(run, pids) for run in _started if (pids := run.pids())]
    for run, _ in left:
        run.kill_all()
    _started.clear()
    assert not left, "\n".join(f"{run.name} left {pids} behind: {run.err}" for run, pids in left)
