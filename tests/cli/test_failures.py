"""Devices that die, stand still or run out of disk, and signals: everybody ends in time, says why, and can go on."""

import re
import resource
import signal
import sys
import time
from dataclasses import dataclass

import pytest

from scadles.observe import Resumed
from scadles.testing.brokers.process import free_port
from scadles.training.checkpoint import CheckpointStore

pytestmark = pytest.mark.timeout(300)

CHECKPOINT_EVERY = 5
WITH_A_HUB = "with --set fabric.backend=hub the others would have gone on"
GO_ON = "the last checkpoint is intact, go on with --out run --resume"


@dataclass
class Chapter:
    """One start of a run and how it ended.

    Attributes:
        took_s: wall seconds from the mishap to the end of the last process.
        common: the newest step that all devices had a checkpoint of afterwards.
        resumed: for each device, the step that it went on from; none for the first start.
        finished: the last event of each device, where the run was stopped in good order.
    """

    code: int
    err: str
    took_s: float
    common: int
    resumed: list
    finished: list


class Story:
    """A run in one folder that goes on from one mishap to the next."""

    def __init__(self, start_training, found, config):
        self.found = found
        self.config = config
        self._start_training = start_training
        self._began = False

    def go_on(self, *settings):
        """Start or resume the run, and wait until all devices have made a dozen new steps."""
        before = [self._count(device) for device in self.found.devices]
        run = self.start(*settings, *["--resume"] * self._began)
        self._began = True
        run.until(
            lambda: all(self._count(d) >= before[d] + 12 for d in self.found.devices), "a dozen steps", timeout_s=120
        )
        return run

    def start(self, *arguments):
        fixed = ("--local", len(self.found.devices), "--quiet", "--out", self.found.path.name)
        return self._start_training(self.found.path.parent, self.config, *fixed, *arguments)

    def end(self, run, since_s, *, in_order=False):
        """Wait for the end of ``run``; nobody may have shown a traceback."""
        code = run.wait(120)
        took_s = time.monotonic() - since_s
        assert "Traceback" not in run.err, run.err
        self.found.assert_balanced()
        resumed = [event.step for d in self.found.devices for event in self.found.events(d, Resumed)[-1:]]
        finished = self.found.finished() if in_order else []
        return Chapter(code, run.err, took_s, self.newest_common(), resumed, finished)

    def newest_common(self):
        """The newest step that all devices have a checkpoint of; all of them can be read."""
        stores = [CheckpointStore(self.found.path, device, keep=2) for device in self.found.devices]
        step = max(set.intersection(*(set(store.steps()) for store in stores)))
        for store in stores:
            assert store.read(step).state["run"]["device"]["step"] == step
        return step

    def _count(self, device):
        return sum(event["event"] == "step" for event in self.found.raw(device))


@pytest.fixture(scope="module")
def tell(tmp_path_factory, start_training, finding, write_config, npz):
    """Begin a story: ``tell(name, devices)``, with steps of 25 ms and no end."""

    def begin(name, devices):
        folder = tmp_path_factory.mktemp(name)
        config = write_config(
            folder / "c.yaml",
            steps=1_000_000,
            data={"dataset": f"npz:{npz}"},
            batch={"window_s": 0.5},
            clock={"speed": 20},
            checkpoint={"every_steps": CHECKPOINT_EVERY},
            model="cnn",  # keeps a checkpoint larger than a log, however long
        )
        return Story(start_training, finding(folder / "run", devices), config)

    return begin


@pytest.fixture(scope="module")
def losses(tell):
    return tell("losses", 3)


def kill_one(story, victim):
    run = story.go_on()
    run.send(run.devices()[victim], signal.SIGKILL)
    return story.end(run, time.monotonic())


@pytest.fixture(scope="module")
def last_killed(losses):
    return kill_one(losses, 2)


@pytest.fixture(scope="module")
def first_killed(losses, last_killed):
    return kill_one(losses, 0)


@pytest.fixture(scope="module")
def one_stopped(losses, first_killed):
    run = losses.go_on("--set", "fabric.deadline_s=6")
    victim = run.devices()[1]
    run.stop(victim)
    return losses.end(run, time.monotonic())


def assert_told(chapter, victim, survivors):
    assert chapter.code == 3
    for survivor in survivors:
        found = re.findall(
            rf"^error: device {survivor}: lost device {victim} during .+ step \d+: .+$", chapter.err, re.M
        )
        assert len(found) == 1, chapter.err
    assert f"{GO_ON}; {WITH_A_HUB}\n" in chapter.err


def test_the_last_device_is_killed(last_killed):
    assert_told(last_killed, victim=2, survivors=(0, 1))
    assert f"error: device 2 was killed by SIGKILL; {GO_ON}" in last_killed.err
    assert len(last_killed.err.splitlines()) == 3
    assert last_killed.took_s < 30
    assert last_killed.common >= 10


def test_the_first_device_is_killed_in_the_resumed_run(last_killed, first_killed):
    assert first_killed.resumed == [last_killed.common] * 3
    assert_told(first_killed, victim=0, survivors=(1, 2))
    assert f"error: device 0 was killed by SIGKILL; {GO_ON}" in first_killed.err
    assert first_killed.took_s < 30
    assert first_killed.common > last_killed.common


def test_a_device_that_stands_still_is_lost_after_the_deadline(first_killed, one_stopped):
    """The launcher ends it, so that the command ends soon after the deadline."""
    assert one_stopped.resumed == [first_killed.common] * 3
    assert_told(one_stopped, victim=1, survivors=(0, 2))
    assert f"error: device 1 did not answer; {GO_ON}" in one_stopped.err
    assert 5.9 < one_stopped.took_s < 30
    assert one_stopped.common > first_killed.common


def test_after_all_losses_the_run_is_brought_to_its_end(losses, one_stopped):
    goal = one_stopped.common + 10
    run = losses.start("--resume", "--set", f"steps={goal}")
    end = losses.end(run, time.monotonic(), in_order=True)
    assert (end.code, end.err) == (0, "")
    assert end.resumed == [one_stopped.common] * 3
    losses.found.assert_ended_together("steps")
    assert end.finished[0].step == goal


@pytest.fixture(scope="module")
def stops(tell):
    return tell("stops", 2)


def signalled(story, number):
    run = story.go_on()
    run.signal(number)
    since_s = time.monotonic()
    chapter = story.end(run, since_s, in_order=True)
    story.found.assert_ended_together("stopped")
    return chapter


@pytest.fixture(scope="module")
def interrupted(stops):
    return signalled(stops, signal.SIGINT)


@pytest.fixture(scope="module")
def terminated(stops, interrupted):
    return signalled(stops, signal.SIGTERM)


@pytest.fixture(scope="module")
def orphaned(stops, terminated):
    return signalled(stops, signal.SIGKILL)


@pytest.fixture(scope="module")
def disk_full(stops, orphaned):
    """From some moment on device 1 cannot write a file as large as a checkpoint; its log is smaller."""
    if sys.platform != "linux":
        pytest.skip("only Linux limits a process from outside")
    run = stops.go_on()
    limit = stops.found.checkpoints(1)[-1].stat().st_size - 1
    resource.prlimit(run.devices()[1], resource.RLIMIT_FSIZE, (limit, limit))
    return stops.end(run, time.monotonic())


def test_ctrl_c_ends_all_devices_after_the_same_step(interrupted):
    assert interrupted.code == 130
    assert interrupted.err == f"error: stopped by SIGINT; {GO_ON}\n"
    assert interrupted.took_s < 30
    assert interrupted.finished[0].step == interrupted.common >= 12


def test_sigterm_ends_the_resumed_run_just_so(interrupted, terminated):
    assert terminated.resumed == [interrupted.common] * 2
    assert terminated.code == 143
    assert terminated.err == f"error: stopped by SIGTERM; {GO_ON}\n"
    assert terminated.took_s < 30
    assert terminated.finished[0].step == terminated.common >= interrupted.common + 12


def test_devices_do_not_outlive_a_killed_launcher(terminated, orphaned):
    assert orphaned.resumed == [terminated.common] * 2
    assert orphaned.code == -signal.SIGKILL
    assert orphaned.took_s < 30
    assert orphaned.finished[0].step == orphaned.common >= terminated.common + 12


def test_a_full_disk_leaves_the_older_checkpoint(stops, orphaned, disk_full):
    assert disk_full.resumed == [orphaned.common] * 2
    assert disk_full.code == 1
    told = r"^error: device 1: cannot write the checkpoint \S+/device-1/step-(\d+)\.safetensors: .+; free some space"
    [step] = re.findall(told, disk_full.err, re.M)
    assert disk_full.common == int(step) - CHECKPOINT_EVERY
    assert f"error: device 1 ended with exit code 1; {GO_ON}" in disk_full.err
    assert not list((stops.found.path / "checkpoints" / "device-1").glob("*.tmp"))


def test_with_room_again_the_run_is_brought_to_its_end(stops, disk_full):
    run = stops.start("--resume", "--set", f"steps={disk_full.common + 10}")
    end = stops.end(run, time.monotonic(), in_order=True)
    assert (end.code, end.err) == (0, "")
    assert end.resumed == [disk_full.common] * 2
    stops.found.assert_ended_together("steps")


def test_a_run_cannot_be_resumed_as_another(stops, disk_full):
    """All devices find it out; the launcher says it once, and nothing is touched."""
    before = {path: path.stat().st_mtime_ns for path in stops.found.path.rglob("*")}
    run = stops.start("--resume", "--set", "seed=1")
    assert run.wait() == 2
    assert run.err == "error: seed was 0 and is now 1: a resumed run must keep it (or start a new run with --out)\n"
    assert {path: path.stat().st_mtime_ns for path in stops.found.path.rglob("*")} == before


def test_ctrl_c_while_devices_start_up_ends_them(tell):
    run = tell("early", 2).start()
    run.until(lambda: len(run.devices()) == 2, "devices")
    time.sleep(1.0)
    run.signal(signal.SIGINT)
    assert run.wait(30) == 130
    assert run.err.splitlines()[-1].startswith("error: stopped by SIGINT")


def test_a_launcher_killed_at_start_up_leaves_nobody(tell):
    """Its devices have no store to meet in any more; they end as soon as they see it, a fifth of a second later."""
    run = tell("orphans", 3).start()
    run.until(lambda: len(run.devices()) == 3, "devices", pause_s=0.001)
    run.signal(signal.SIGKILL)
    since_s = time.monotonic()
    run.wait(30)
    assert time.monotonic() - since_s < 15


def test_in_the_background_ctrl_c_is_not_meant(tmp_path, start_training, finding, write_config, npz):
    settings = {"steps": 1_000_000, "data": {"dataset": f"npz:{npz}"}, "clock": {"speed": 20}}
    config = write_config(tmp_path / "c.yaml", **settings)
    run = start_training(tmp_path, config, "--quiet", "--out", "run", interrupts="ignored")
    found = finding(tmp_path / "run", 1)
    run.until(lambda: found.raw(0), "the first event")
    run.signal(signal.SIGINT)
    before = len(found.raw(0))
    run.until(lambda: len(found.raw(0)) > before + 2, "steps after the signal")
    run.signal(signal.SIGTERM)
    assert run.wait() == 0
    found.assert_ended_together("stopped")


def test_a_device_of_torchrun_is_killed(start_training, tmp_path, write_config, finding, npz):
    """Each device is told by itself; the first one, at whose place the store is, stays."""
    config = write_config(tmp_path / "c.yaml", steps=1_000_000, data={"dataset": f"npz:{npz}"}, clock={"speed": 20})
    group = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port()), "OMP_NUM_THREADS": "1"}
    stays, goes = (
        start_training(tmp_path, config, "--quiet", "--out", "run", RANK=str(rank), **group) for rank in range(2)
    )
    found = finding(tmp_path / "run", 2)
    for run, device in ((stays, 0), (goes, 1)):
        run.until(lambda d=device: any(e["event"] == "step" for e in found.raw(d)), "a step")
    goes.kill_all()
    assert stays.wait(120) == 3
    assert re.fullmatch(
        r"error: device 0: lost device 1 during .+; with a hub the others would have gone on \(scadles hub --help\)\n",
        stays.err,
    )
