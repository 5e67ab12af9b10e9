"""Runs that are killed at random moments, over and over, and go on as if nothing had happened."""

import random
import signal
import time

import pytest
import torch
from safetensors.torch import load_file

from scadles.observe import CheckpointWritten, Evaluation, Header, Resumed, RunFolder, Step

pytestmark = pytest.mark.timeout(600)

SEED = 20240607


class Chain:
    """One run of two devices, killed and resumed again and again.

    Attributes:
        found: the run folder.
        story: a line for each start, printed when a test fails.
    """

    def __init__(self, start_training, found, config):
        self.found = found
        self.story = []
        self._start_training, self._config = start_training, config
        self._random = random.Random(SEED)
        self._durable = None

    def kill(self, moment):
        """Start or resume the run, and kill -9 the whole of it at such a moment."""
        luck = self._random.random()
        run = self._start(f"kill in {moment}, {luck:.3f}")
        getattr(self, f"_in_{moment}")(run, luck)
        run.kill_all()
        assert "Traceback" not in run.err
        self._look()

    def finish(self, more_steps):
        """Resume for the last time, until ``more_steps`` more are done."""
        run = self._start("to the end", "--set", f"steps={self._last_step() + more_steps}")
        assert run.wait() == 0, run.err
        self._look()

    def _start(self, plan, *settings):
        # before the first device has written the configuration there is nothing to resume
        resume = ["--resume"] * (self.found.path / "config.yaml").exists()
        self.story.append(f"start {len(self.story)} {' '.join(resume)} after step {self._last_step()}: {plan}")
        print(self.story[-1])
        self._resumed_before = [len(self._raw(device, "resumed")) for device in self.found.devices]
        arguments = ("--local", 2, "--quiet", "--out", self.found.path.name, *resume, *settings)
        return self._start_training(self.found.path.parent, self._config, *arguments)

    def _look(self):
        """Whatever was durable before is where the run was resumed from, or something newer."""
        self.found.assert_balanced()
        for device, before in zip(self.found.devices, self._resumed_before, strict=True):
            for resumed in self._raw(device, "resumed")[before:]:
                assert resumed["step"] >= (self._durable or 0)
        if all(self.found.log(device).exists() for device in self.found.devices):
            # less those of steps that were made anew: of such a step the device has no checkpoint any more
            events = [self.found.events(device, CheckpointWritten) for device in self.found.devices]
            written = [{event.step for event in of_device} for of_device in events]
            self._durable = max(set.intersection(*written), default=None)

    def _raw(self, device, kind):
        return [event for event in self.found.raw(device) if event["event"] == kind]

    def _last_step(self):
        return max((event.step for event in self.found.events(0, Step)), default=0)

    def _in_start_up(self, run, luck):
        """While the processes are there, and the data or the connections are not yet."""
        run.until(lambda: len(run.devices()) == 2, "devices", pause_s=0.001)
        time.sleep(0.25 * luck)

    def _in_steps(self, run, luck):
        self._wait_for_steps(run)
        time.sleep(0.4 * luck)

    def _in_checkpoint(self, run, luck):
        """While one device writes: it is stopped right there, so that the killing comes in time."""
        self._wait_for_steps(run)
        device = int(2 * luck)
        folder, pid = self.found.path / "checkpoints" / f"device-{device}", run.devices()[device]

        def caught():
            if not any(folder.glob("*.tmp")):
                return False
            run.stop(pid)
            if any(folder.glob("*.tmp")):
                return True
            run.send(pid, signal.SIGCONT)
            return False

        run.until(caught, "half a checkpoint", pause_s=0.001)

    def _wait_for_steps(self, run):
        """Wait until both devices have made a new step."""
        before = [len(self._raw(device, "step")) for device in self.found.devices]
        run.until(
            lambda: all(
                len(self._raw(device, "step")) > count for device, count in zip(self.found.devices, before, strict=True)
            ),
            "a new step",
        )


@pytest.fixture(scope="module")
def persistent(tmp_path_factory, start_training, finding, write_config, npz):
    """Ten kills of conventional training, which keeps every sample until it is trained on."""
    folder = tmp_path_factory.mktemp("persistent")
    config = write_config(
        folder / "c.yaml",
        method="ddl",
        steps=1_000_000,
        data={"dataset": f"npz:{npz}"},
        stream={"rates": [60, 40], "profile": ["poisson", "bursts"]},
        buffer={"capacity": 64},
        batch={"size": 8},
        clock={"speed": 40},
        checkpoint={"every_steps": 5},
    )
    chain = Chain(start_training, finding(folder / "run", 2), config)
    for moment in ("start_up", "steps", "checkpoint", "start_up", "steps", "checkpoint", "steps", "start_up",
                   "checkpoint", "steps"):  # fmt: skip
        chain.kill(moment)
    chain.finish(more_steps=20)
    return chain


def test_ten_kills_lose_no_sample_and_train_none_twice(persistent):
    found = persistent.found
    found.assert_ended_together("steps")
    found.assert_trained_once()
    assert found.finished()[0].step > 20


def test_the_log_of_a_killed_run_is_one_run(persistent):
    folder = RunFolder(persistent.found.path)
    steps = folder.summary.steps
    for device, row in enumerate(folder.summary.per_device):
        assert isinstance(folder.events(device)[0], Header)
        assert [step.step for step in folder.steps(device)] == list(range(1, steps + 1))
        assert row.samples.trained == sum(step.batch for step in folder.steps(device))
        assert row.seconds.wait == pytest.approx(sum(step.wait_s for step in folder.steps(device)))
        assert row.seconds.sync == pytest.approx(sum(step.sync_s for step in folder.steps(device)))
        assert row.slowest_steps == sum(step.slowest == device for step in folder.steps(device))
        times = [step.time_s for step in folder.steps(device)]
        assert times == sorted(times)
        assert folder.events(device)[0].time_s == 0.0  # setting up takes no stream time
        [first, *_] = [event for event in persistent.found.raw(device) if event["event"] == "checkpoint"]
        assert (first["step"], first["time_s"]) == (0, 0.0)
    totals = [[step.total_batch for step in folder.steps(device)] for device in (0, 1)]
    assert totals[0] == totals[1]
    assert {event.step for event in persistent.found.events(0, Resumed)} <= set(range(0, steps, 5))
    assert len(persistent.story) == 11


def test_what_does_not_fit_stays_at_the_source(persistent):
    for device in (0, 1):
        events = persistent.found.events(device, (Step, CheckpointWritten))
        held = [event.held if isinstance(event, Step) else event.ledger["held"] for event in events]
        assert max(held) <= 64


@pytest.fixture(scope="module")
def truncating(tmp_path_factory, start_training, finding, write_config, npz):
    """Three kills of ScaDLES with BatchNorm and Adam, whose state is larger."""
    folder = tmp_path_factory.mktemp("truncating")
    config = write_config(
        folder / "c.yaml",
        steps=1_000_000,
        model="cnn",
        optimizer={"name": "adam", "lr": 0.002},
        data={"dataset": f"npz:{npz}"},
        stream={"rates": [90, 40]},
        batch={"window_s": 0.5, "max": 32},
        clock={"speed": 20},
        checkpoint={"every_steps": 4},
    )
    chain = Chain(start_training, finding(folder / "run", 2), config)
    for moment in ("steps", "checkpoint", "start_up"):
        chain.kill(moment)
    chain.finish(more_steps=40)
    return chain


def test_three_kills_leave_no_sample_unaccounted_for(truncating):
    found = truncating.found
    found.assert_ended_together("steps")
    for device in found.devices:
        following = 0
        for step in found.events(device, Step):
            if step.offsets:
                first, last = step.offsets
                # offsets in between were dropped
                assert first >= following
                assert last - first + 1 >= step.batch
                following = last + 1
        checkpoint = found.events(device, CheckpointWritten)[-1]
        ledger = checkpoint.ledger
        assert ledger["trained"] == sum(step.batch for step in found.events(device, Step))
        assert ledger["received"] == checkpoint.position + ledger["held"]
        assert ledger["trained"] + ledger["dropped"] == checkpoint.position
    # 90 samples/s and at most 32 of them every half a second
    assert found.events(0, CheckpointWritten)[-1].ledger["dropped"] > 0


def test_a_resumed_network_goes_on_learning(truncating):
    found = truncating.found
    tests = found.events(0, Evaluation)
    assert tests[-1].accuracy > 0.9
    newest = [load_file(found.checkpoints(device)[-1]) for device in found.devices]
    assert newest[0].keys() == newest[1].keys()
    for name, tensor in newest[0].items():
        if not name.startswith("generator/"):
            assert torch.equal(tensor, newest[1][name]), name
    assert any("running_var" in name for name in newest[0])
    assert any("exp_avg_sq" in name for name in newest[0])
