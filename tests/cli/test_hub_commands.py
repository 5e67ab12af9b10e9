"""``scadles hub`` and ``scadles join`` as processes: who comes and goes is told, and how each ends."""

import json
import re
import signal

import pytest

from scadles.observe import Membership, Step

pytestmark = pytest.mark.timeout(300)


@pytest.fixture
def fleet(tmp_path, start, write_config, npz):
    """Start a hub, or a device of it: ``fleet.hub(**settings)``, ``fleet.join(name)``."""
    return Fleet(tmp_path, start, write_config, npz)


class Fleet:
    def __init__(self, folder, start, write_config, npz):
        self._folder, self._start, self._write_config, self._npz = folder, start, write_config, npz
        self.address = "127.0.0.1:0"

    def hub(self, *arguments, **settings):
        config = self._write_config(
            self._folder / "c.yaml",
            devices=3,
            data={"dataset": f"npz:{self._npz}"},
            stream={"rates": 40},
            clock={"speed": 20},
            checkpoint={"every_steps": 5},
            **{"fabric": {"min_devices": 2}, "steps": 30, **settings},
        )
        fixed = ("-m", "scadles", "hub", config, "--listen", self.address, "--out", "hub")
        hub = self._start(self._folder, *fixed, *arguments, PYTHONUNBUFFERED="1")
        found = hub.until(lambda: re.search(r" in hub on (127\.0\.0\.1:\d+)\n", hub.out), "its address")
        self.address = found[1]
        return hub

    def join(self, name, *arguments):
        fixed = ("-m", "scadles", "join", self.address, "--name", name, "--out", name)
        return self._start(self._folder, *fixed, "--allow", "data.dataset=npz:*", *arguments)

    def events(self, finding, name, device, kind):
        return finding(self._folder / name, 3).events(device, kind)


def number_of(hub, name):
    """The seat that the hub has given to a device."""
    return int(re.search(rf"{name} \(device (\d)\) takes part", hub.out)[1])


def test_a_run_from_its_beginning_to_its_end(fleet, finding):
    hub = fleet.hub()
    devices = {name: fleet.join(name) for name in ("cam-1", "cam-2")}
    for name, device in devices.items():
        assert device.wait() == 0, device.err
        assert "devices 2 of 3 here" in device.err, "each device shows its own progress"
        assert "ended: steps" in device.err
        [first, *_] = fleet.events(finding, name, number_of(hub, name), Membership)
        assert sorted(first.names.values()) == ["cam-1", "cam-2"]
    assert hub.wait() == 0, hub.err
    assert hub.out.count("has left: it has said goodbye") == 2
    assert re.search(
        r"the run has ended \(steps\) after step 30: 2 devices \(cam-\d, cam-\d\), 0 refused, \d.* in, \d.* out, \d",
        hub.out,
    )


def test_a_device_leaves_and_comes_back(fleet, finding):
    hub = fleet.hub(fabric={"min_devices": 1}, steps=120)
    first, second = fleet.join("cam-1"), fleet.join("cam-2")
    device = hub.until(lambda: re.search(r"cam-2 \(device (\d)\) takes part", hub.out), "its admission")
    number = int(device[1])
    second.until(lambda: len(fleet.events(finding, "cam-2", number, Step)) > 3, "a few steps")
    second.signal(signal.SIGTERM)
    assert second.wait() == 143, second.err
    assert "; with the same name and folder it comes back" in second.err
    again = fleet.join("cam-2", "--quiet")
    assert again.wait() == 0, again.err
    assert first.wait() == 0, first.err
    assert hub.wait() == 0
    steps = [step.step for step in fleet.events(finding, "cam-2", number, Step)]
    assert steps == sorted(set(steps))
    assert steps[-1] == 120
    assert not again.err


def test_a_hub_that_is_killed_is_found_again(fleet):
    hub = fleet.hub(steps=80)
    devices = [fleet.join("cam-1"), fleet.join("cam-2")]
    for device in devices:
        device.until(lambda device=device: "wait" in device.err, "a sign")
    hub.until(lambda: hub.out.count("takes part") == 2, "both")
    hub.process.kill()
    hub.process.wait()
    again = fleet.hub(steps=80)
    for device in devices:
        assert device.wait() == 0, device.err
        assert re.search(r"lost the hub at .*; looking for it", device.err)
        assert "found the hub at" in device.err
    assert again.wait() == 0


def test_a_hub_says_how_things_are(fleet):
    hub = fleet.hub()
    hub.until(lambda: "0 of 3 devices: waiting for 2 more (fabric.min_devices = 2)" in hub.out, "a line of state")
    hub.signal(signal.SIGTERM)
    assert hub.wait() == 143
    assert "stopped; the same command goes on, after step 0: 0 devices, 0 refused, 0 B in, 0 B out" in hub.out
    run = json.loads((hub._out.parent / "hub" / "hub.jsonl").read_text().splitlines()[0])["run"]
    assert f"hub of run {run[:8]}" in hub.out


def test_who_waits_can_be_told_to_leave(fleet):
    hub = fleet.hub()
    alone = fleet.join("cam-1")
    alone.until(lambda: "waiting to be admitted" in alone.err, "its wish")
    alone.signal(signal.SIGTERM)
    assert alone.wait(30) == 143
    assert "told to stop while it waited to be admitted" in alone.err
    hub.signal(signal.SIGINT)
    assert hub.wait() == 130


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["127.0.0.1:29400", "--name", "x", "--set", "steps=4"], 2, "error: steps: the hub says that, for all devices"),
        (["127.0.0.1", "--name", "x"], 2, "error: hub = 127.0.0.1: say HOST:PORT, for example"),
        (["127.0.0.1:29400", "--name", ""], 2, "give this device a name of 1 to 64 printable characters"),
    ],
)
def test_mistakes(command, arguments, code, said):
    assert command("join", *arguments)[0] == code
    assert said in command("join", *arguments)[2]


def test_no_hub_answers(command, monkeypatch):
    monkeypatch.setattr("scadles.training.hub.PATIENCE_S", 0.1)
    code, _, err = command("join", "127.0.0.1:1", "--name", "cam-1")
    assert code == 3
    assert "no hub answers at 127.0.0.1:1 (Connection refused): does scadles hub run there" in err
