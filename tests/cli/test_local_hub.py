"""``scadles train --local N`` with a hub: one device's death is not the end, and no process is left behind."""

import signal

import pytest

from scadles.observe import Step

pytestmark = pytest.mark.timeout(300)


@pytest.fixture
def fleet(tmp_path, start_training, write_config, npz, finding):
    """Start three devices and a hub: ``fleet(*arguments, **settings)``; the run folder is ``run``."""
    found = finding(tmp_path / "run", 3)

    def start(*arguments, **settings):
        config = write_config(
            tmp_path / "c.yaml",
            data={"dataset": f"npz:{npz}"},
            stream={"rates": 40},
            clock={"speed": 20},
            fabric={"backend": "hub", "deadline_s": 60, **settings.pop("fabric", {})},
            checkpoint={"every_steps": 5},
            **{"steps": 60, **settings},
        )
        return start_training(tmp_path, config, "--local", 3, "--out", "run", *arguments)

    def has_come_to(step):
        return lambda: any(
            found.events(device, Step)[-1:] and found.events(device, Step)[-1].step >= step for device in (0, 2)
        )

    return start, found, has_come_to


def test_it_ends_as_any_run_does(fleet):
    start, found, _ = fleet
    run = start(steps=12)
    assert run.wait() == 0, run.err
    found.assert_ended_together("steps")
    assert len(found.events(0, Step)) == 12
    assert (found.path / "hub.jsonl").exists()
    again = start(steps=12)
    assert again.wait() == 2
    assert "holds a run already: choose another --out, or go on with it by --resume" in again.err


def test_the_others_go_on_without_a_device_that_is_killed(fleet):
    start, found, has_come_to = fleet
    run = start()
    run.until(has_come_to(8), "a few steps")
    run.send(run.devices()[1], signal.SIGKILL)
    assert run.wait() == 0, run.err
    assert "device 1 was killed by SIGKILL; the others go on" in run.err
    assert "the run has ended (steps) without device 1, lost on the way" in run.err
    last = [found.events(device, Step)[-1] for device in (0, 2)]
    assert [step.step for step in last] == [60, 60]
    assert "ended by" in run.out


def test_too_few_stop_and_go_on_later(fleet):
    start, found, has_come_to = fleet
    run = start(fabric={"min_devices": 3})
    run.until(has_come_to(8), "a few steps")
    run.send(run.devices()[1], signal.SIGKILL)
    assert run.wait() == 3
    assert "error: device 1 was killed by SIGKILL, and fabric.min_devices = 3: the 2 that are left have stop" in run.err
    assert "go on with --out run --resume" in run.err
    resumed = start("--resume", fabric={"min_devices": 3})
    assert resumed.wait() == 0, resumed.err
    found.assert_ended_together("steps")


def test_a_signal_stops_all_of_them(fleet):
    start, found, has_come_to = fleet
    run = start(steps=2000)
    run.until(has_come_to(8), "a few steps")
    run.signal(signal.SIGTERM)
    assert run.wait(60) == 143
    assert "error: stopped by SIGTERM; the last checkpoint is intact" in run.err
    found.assert_balanced()


def test_devices_end_when_the_launcher_is_killed(fleet):
    start, _, has_come_to = fleet
    run = start(steps=2000)
    run.until(has_come_to(4), "a few steps")
    run.process.kill()
    run.wait(60)


def test_who_hangs_is_done_without_and_ended_in_the_end(fleet):
    start, found, has_come_to = fleet
    run = start(steps=40, fabric={"deadline_s": 10})
    run.until(has_come_to(4), "a few steps")
    run.stop(run.devices()[2])
    run.until(lambda: found.events(0, Step)[-1].step == 40, "the end of the others")
    assert "device-2 (device 2) has left: silent for" in run.err
    assert run.wait() == 0, run.err


def test_a_mistake_is_told_once(fleet):
    start, _, _ = fleet
    run = start("--set", "model=nobody:knows")
    assert run.wait() == 2
    assert run.err.count("error: ") == 1
    assert "Traceback" not in run.err
    few = start("--set", "fabric.min_devices=4")
    assert few.wait() == 2
    assert "fabric.min_devices = 4 and devices is 3: no step would begin" in few.err


def test_another_number_of_seats_is_refused(fleet):
    start, _, _ = fleet
    assert start(steps=3).wait() == 0
    other = start("--resume", "--local", 4)
    assert other.wait() == 2
    assert "has seats for 3 devices, to which the data was dealt: go on with --local 3" in other.err
    foreign = start("--resume", "--out", "nothing")
    assert foreign.wait() == 2
    assert "nothing holds no run of a hub that could go on" in foreign.err
