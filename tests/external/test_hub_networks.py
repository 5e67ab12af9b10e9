"""A hub and devices that reach nothing but the hub: behind routers that let nobody in, and over a link that is cut."""

import re
import socket

import pytest

from networks import HUB
from scadles.observe import Finished, Membership, Step

pytestmark = pytest.mark.timeout(300)

PORT = 29400
NAMES = ["cam-1", "cam-2", "cam-3"]
BATCH = 8


class Fleet:
    """A hub and a device in each of the networks behind routers."""

    def __init__(self, networks, start, folder, config, finding):
        self.networks, self._folder, self._finding = networks, folder, finding
        arguments = ("hub", config, "--listen", f"0.0.0.0:{PORT}", "--insecure", "--out", "hub")
        with networks.hub.entered():
            self.hub = start(folder, "-m", "scadles", *arguments, PYTHONUNBUFFERED="1")
        self.hub.until(lambda: "in hub on" in self.hub.out, "an address")
        self.devices = {}
        for name, network in zip(NAMES, networks.devices, strict=True):
            with network.entered():
                arguments = ("join", f"{HUB}:{PORT}", "--name", name, "--insecure", "--out", name, "--quiet")
                allowed = ("--allow", "data.dataset=npz:*")
                self.devices[name] = start(folder, "-m", "scadles", *arguments, *allowed)

    def seat(self, name):
        said = self.hub.until(lambda: re.search(rf"{name} \(device (\d)\) takes part", self.hub.out), f"seat of {name}")
        return int(said[1])

    def found(self, name):
        return self._finding(self._folder / name, len(NAMES))

    def events(self, name, kind):
        return self.found(name).events(self.seat(name), kind)

    def step(self, name):
        return max((event.step for event in self.events(name, Step)), default=0)

    def until_step(self, name, step):
        self.devices[name].until(lambda: self.step(name) >= step, f"step {step} of {name}")

    def assert_all_is_well(self, steps):
        """All came to the same end with the same model, and every sample is accounted for, trained once at most."""
        runs = [*self.devices.values(), self.hub]
        assert [run.wait() for run in runs] == [0] * len(runs), [run.err for run in runs]
        assert not any("Traceback" in run.err for run in runs)
        ends = [self.events(name, Finished)[-1] for name in NAMES]
        assert [(end.reason, end.step) for end in ends] == [("steps", steps)] * len(NAMES)
        assert len({end.model_sha256 for end in ends}) == 1
        for name, end in zip(NAMES, ends, strict=True):
            following = told = 0
            for step in self.events(name, Step):
                if step.offsets is not None:
                    first, last = step.offsets
                    assert first >= following, f"{name}, step {step.step}"
                    assert last - first + 1 == step.batch
                    following, told = last + 1, told + step.batch
            assert (end.ledger["dropped"], end.ledger["rejected"]) == (0, 0)
            # a step can have counted whose outcome did not reach a device that was cut off
            assert end.ledger["trained"] - told in ((0, BATCH) if "lost the hub" in self.devices[name].err else (0,))
            for event in self.found(name).raw(self.seat(name)):
                if "ledger" in event:
                    spent = sum(event["ledger"][where] for where in ("trained", "dropped", "held", "rejected"))
                    assert event["ledger"]["received"] == spent


@pytest.fixture
def fleet(internet, start, tmp_path, write_config, npz, finding):
    """Start a run of three devices: ``fleet(change, **settings)``, where ``change(networks)`` comes first."""

    def make(change=lambda networks: None, **settings):
        networks = internet(len(NAMES))
        change(networks)
        config = write_config(
            tmp_path / "run.yaml",
            method="ddl",
            devices=len(NAMES),
            data={"dataset": f"npz:{npz}"},
            target_accuracy=None,
            stop_at_target=False,
            stream={"rates": 20},
            batch={"size": BATCH, "max_wait_s": 600},
            clock={"speed": 10},
            checkpoint={"every_steps": 25},
            **settings,
        )
        return Fleet(networks, start, tmp_path, config, finding)

    return make


def reaches(network, address, port):
    """Whether somebody in a network can connect there."""
    try:
        with network.entered():
            socket.create_connection((address, port), timeout=0.5).close()
    except OSError:
        return False
    return True


def test_devices_that_nobody_can_reach(fleet):
    run = fleet(steps=60, fabric={"min_devices": 3}, compression={"ratio": 0.1, "gate": "always"})
    networks = run.networks
    networks.hub.do(f"ip route add 192.168.1.0/24 via {networks.address(0)}")  # rules keep it out, not ignorance
    with networks.devices[0].entered(), socket.create_server(("0.0.0.0", PORT)):
        assert reaches(networks.devices[0], "192.168.1.2", PORT), "it listens"
        assert not reaches(networks.hub, networks.address(0), PORT)
        assert not reaches(networks.devices[1], networks.address(0), PORT)
        assert not reaches(networks.hub, "192.168.1.2", PORT)
    assert reaches(networks.devices[0], HUB, PORT)
    run.assert_all_is_well(steps=60)


def test_a_thin_link_whose_router_lets_much_wait(fleet):
    """Signs of life queue up behind a gradient for seconds; the device is slow, not lost."""
    run = fleet(lambda networks: networks.thin(0, 1, "3s"), steps=3, model="resnet8", fabric={"min_devices": 3})
    run.assert_all_is_well(steps=3)
    assert run.hub.out.count("has left: it has said goodbye") == run.hub.out.count("has left") == len(NAMES)
    assert not any("lost the hub" in device.err for device in run.devices.values())


def test_a_link_that_is_cut_for_a_while(fleet):
    steps = 400
    run = fleet(steps=steps, fabric={"min_devices": 2})
    run.until_step("cam-3", 10)
    run.networks.cut(NAMES.index("cam-3"))
    run.hub.until(lambda: "cam-3 (device" in run.hub.out and "has left" in run.hub.out, "word of its loss")
    assert re.search(r"cam-3 \(device \d\) has left: silent for \d\.\d s", run.hub.out)
    lost_at = run.step("cam-1")
    run.until_step("cam-1", lost_at + 30)
    assert run.step("cam-3") <= lost_at, "it is cut off"
    run.networks.mend(NAMES.index("cam-3"))
    run.assert_all_is_well(steps)
    seat = run.seat("cam-3")
    changes = run.events("cam-1", Membership)
    assert [event.step for event in changes if seat in event.left], "the others went on without it"
    assert [event.step for event in changes if seat in event.joined and event.step > lost_at], "it came in again"
    assert "lost the hub at" in run.devices["cam-3"].err
    assert "found the hub at" in run.devices["cam-3"].err
    assert run.step("cam-3") == steps
    taken = [event.step for event in run.events("cam-1", Step)]
    assert taken == list(range(taken[0], steps + 1))
