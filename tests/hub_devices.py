"""Devices in threads, for tests in which they come and go through a hub."""

from contextlib import contextmanager
from threading import Event, Thread

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
    """A device in a thread.

    Args:
        address: of the hub.
        name: at the hub.
        out: its run folder.
        pause_at: the step after which it stands still, as a stopped process does.
        before_gather: called before each gather.
        settings: of the run.
        prepare: called with the device before its first step.

    Attributes:
        live: what ``scadles.join`` returned.
    """

    def __init__(
        self,
        address,
        name,
        out,
        pause_at=1000,
        before_gather=lambda fabric, phase: None,
        settings=SETTINGS,
        prepare=lambda device: None,
    ):
        self.out, self.error, self._settings = out, None, settings
        self._before_gather, self._prepare = before_gather, prepare
        self.live = None
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
            with scadles.join(load_config(self._settings), out=self.out, quiet=True, fabric=fabric) as device:
                self.live = device
                self._prepare(device)
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

    def until_paused(self):
        """Wait until it stands still."""
        until(lambda: self.paused.is_set() or self.error is not None, f"step {self.pause_at}")
        assert self.error is None, repr(self.error)

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


@contextmanager
def hub_starter(folder):
    """Yield what starts a hub for two devices, and after that starts it anew with the same journal."""
    running = []

    def start(port=0, least=2, fold=None):
        end()
        journal = journal_of(folder)
        hub = Hub("127.0.0.1", port, 2, least=least, journal=journal.__enter__(), fold=fold)
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


def lose_steps(start_hub, folder, monkeypatch, settings=SETTINGS):
    """Kill the hub and one device, whose checkpoint is of step 20, while the other one stands still after step 25.

    When that one goes on, the last steps that it took do not count.

    Returns:
        Both devices, at the end of the run.
    """
    monkeypatch.setattr(views, "_PATIENCE_S", 0.3)
    hub = start_hub()
    address = hub.address
    one = Device(address, "cam-1", folder / "one", pause_at=25, settings=settings)
    two = Device(address, "cam-2", folder / "two", pause_at=25, settings=settings)
    begin_together(hub)
    one.until_paused()
    two.until_paused()
    one.die()
    start_hub(address[1], least=1)
    again = Device(address, "cam-1", folder / "one", pause_at=22, settings=settings)
    again.until_paused()  # what the other one has is not waited for longer than a little
    assert len(again.events(Step)) == 22
    again.goes_on.set()
    two.goes_on.set()
    for device in (again, two):
        device.join()
        assert device.error is None
    assert two.events(Resumed)[-1].away_since == 20
    ends = [device.events(Finished)[-1] for device in (again, two)]
    assert [(end.reason, end.step) for end in ends] == [("steps", 80)] * 2
    assert ends[0].model_sha256 == ends[1].model_sha256
    return again, two
