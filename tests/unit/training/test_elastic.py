"""Devices in threads that come and go through a hub."""

from threading import Event, Thread

import pytest
import torch
from torch.nn.functional import cross_entropy

import scadles
from scadles.clock import wall_seconds
from scadles.config import load_config
from scadles.fabric.hub import Hub, HubFabric, journal_of, views
from scadles.observe import Finished, Resumed, Step, read_events

LIMIT_S = 60.0
BATCH = 8
SETTINGS = {
    "method": "ddl",
    "devices": 2,
    "steps": 80,
    "picture": False,
    "target_accuracy": None,
    "stop_at_target": False,
    "stream": {"rates": [100, 100]},
    "batch": {"size": BATCH, "max_wait_s": 600},
    "clock": {"speed": 20},
    "checkpoint": {"every_steps": 10},
    "fabric": {"backend": "hub"},
}


class Device:
    """A device in a thread; ``pause_at`` is the step after which it stands still, as a stopped process does."""

    def __init__(self, address, name, out, pause_at=1000, before_gather=lambda fabric, phase: None):
        self.out, self.error = out, None
        self._before_gather = before_gather
        self.step, self.pause_at, self.paused, self.goes_on = 0, pause_at, Event(), Event()
        self._dies = False
        self._thread = Thread(target=self._run, args=(address, name), daemon=True)
        self._thread.start()

    def _run(self, address, name):
        torch.set_num_threads(1)
        try:
            fabric = HubFabric(*address, name=name, deadline_s=LIMIT_S)
            gather = fabric.gather

            def gather_after(values, phase):
                self._before_gather(fabric, phase)
                return gather(values, phase)

            fabric.gather = gather_after
            with scadles.join(load_config(SETTINGS), out=self.out, quiet=True, fabric=fabric) as device:
                for batch in device.batches():
                    outputs = device.model(batch.x)
                    device.step(cross_entropy(outputs, batch.y), outputs)
                    self.step = device.step_number
                    if self.step >= self.pause_at:
                        self.pause_at = 1000
                        self.paused.set()
                        assert self.goes_on.wait(LIMIT_S)
                        if self._dies:
                            raise KeyboardInterrupt
        except BaseException as error:  # noqa: BLE001 - looked at by the test
            self.error = error

    def die(self):
        """End without another word, as one that is killed does."""
        self._dies = True
        self.goes_on.set()
        self.join()

    def join(self):
        self._thread.join(LIMIT_S)
        assert not self._thread.is_alive()

    def events(self, kind):
        [path] = self.out.glob("events-*.jsonl")
        return [event for event in read_events(path) if isinstance(event, kind)]

    def assert_trained_once(self):
        following = 0
        for step in self.events(Step):
            if step.offsets is not None:
                assert step.offsets[0] == following, f"step {step.step}"
                following = step.offsets[1] + 1
        ledger = self.events(Finished)[-1].ledger
        assert (ledger["trained"], ledger["dropped"], ledger["rejected"]) == (following, 0, 0)
        assert ledger["received"] == ledger["trained"] + ledger["held"]


@pytest.fixture
def start_hub(tmp_path):
    """Start a hub, after that it is started anew with the same journal."""
    running = []

    def start(port=0, least=2):
        end()
        journal = journal_of(tmp_path / "hub")
        hub = Hub("127.0.0.1", port, 2, least=least, journal=journal.__enter__())
        hub.start()
        running.append((hub, journal))
        return hub

    def end():
        while running:
            hub, journal = running.pop()
            hub.close()
            journal.__exit__(None, None, None)

    yield start
    end()


def begin_together(hub):
    """Let the first step wait for both devices, and later ones for none that is lost."""
    until(lambda: len(hub.members()) == 2, "both devices")
    hub._views.least = 1


def until(condition, what):
    give_up_s = wall_seconds() + LIMIT_S
    while not condition():
        assert wall_seconds() < give_up_s, f"waited {LIMIT_S} s for {what}"
        Event().wait(0.01)


def test_steps_that_nobody_has_any_more_are_taken_back(start_hub, tmp_path, monkeypatch):
    """The hub and one device are killed, the other one stands still. The first one's checkpoint is of an earlier step.

    When the other one goes on, it has taken steps that do not count: it trains on their samples again.
    """
    monkeypatch.setattr(views, "_PATIENCE_S", 0.3)
    hub = start_hub()
    address = hub.address
    one = Device(address, "cam-1", tmp_path / "one", pause_at=25)
    two = Device(address, "cam-2", tmp_path / "two", pause_at=25)
    begin_together(hub)
    assert one.paused.wait(LIMIT_S)
    assert two.paused.wait(LIMIT_S)
    one.die()
    start_hub(address[1], least=1)
    again = Device(address, "cam-1", tmp_path / "one", pause_at=22)
    assert again.paused.wait(LIMIT_S), "it is not waited for longer than a little"
    assert len(again.events(Step)) == 22
    again.goes_on.set()
    two.goes_on.set()
    for device in (again, two):
        device.join()
        assert device.error is None
        device.assert_trained_once()
    assert two.events(Resumed)[-1].away_since == 20
    ends = [device.events(Finished)[-1] for device in (again, two)]
    assert [(end.reason, end.step) for end in ends] == [("steps", 80)] * 2
    assert ends[0].model_sha256 == ends[1].model_sha256


@pytest.mark.parametrize("where", ["test after", "comparing models"])
def test_a_device_is_cut_off_in_the_middle_of_what_all_do_after_a_step(start_hub, tmp_path, where):
    """It comes in again when the others have done that, and does with them what they do then; its clock goes on."""
    hub, cut = start_hub(), []

    def cut_off(fabric, phase):
        if phase.startswith(where) and int(phase.split()[-1]) > 10 and not cut:
            cut.append(phase)
            [member] = [member for member in hub._views.members.values() if member.name == "cam-2"]
            hub._leave(member, "a test")
            until(lambda: fabric.changed, "news of it")

    one = Device(hub.address, "cam-1", tmp_path / "one")
    two = Device(hub.address, "cam-2", tmp_path / "two", before_gather=cut_off)
    begin_together(hub)
    for device in (one, two):
        device.join()
        assert device.error is None
        device.assert_trained_once()
    ends = [device.events(Finished)[-1] for device in (one, two)]
    assert cut
    assert [(end.reason, end.step) for end in ends] == [("steps", 80)] * 2
    assert ends[0].model_sha256 == ends[1].model_sha256


def test_a_device_that_is_away_at_the_end_leaves(start_hub, tmp_path):
    hub = start_hub()
    one = Device(hub.address, "cam-1", tmp_path / "one")
    two = Device(hub.address, "cam-2", tmp_path / "two", pause_at=25)
    begin_together(hub)
    assert two.paused.wait(LIMIT_S)
    [member] = [member for member in hub._views.members.values() if member.name == "cam-2"]
    hub._leave(member, "a test")
    one.join()
    assert (one.error, one.events(Finished)[-1].reason) == (None, "steps")
    assert not hub.is_over
    two.goes_on.set()
    two.join()
    assert (two.error, two.events(Finished)[-1].reason) == (None, "left")
    two.assert_trained_once()
    until(lambda: hub.is_over, "the end")
