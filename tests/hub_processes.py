"""A hub and its devices as processes, by name."""

import re

from scadles.observe import Finished, Step

BATCH, _SEATS = 8, 4


def settings_of(steps, *, least):
    """Of a run with compression in which so many devices must be there for a step."""
    return {
        "method": "ddl",
        "devices": _SEATS,
        "steps": steps,
        "target_accuracy": None,
        "stop_at_target": False,
        "stream": {"rates": [50] * _SEATS},
        "batch": {"size": BATCH, "max_wait_s": 600},
        "clock": {"speed": 10},
        "checkpoint": {"every_steps": 25},
        "fabric": {"min_devices": least},
        "compression": {"ratio": 0.1, "gate": "always"},
    }


class Fleet:
    """A hub and its devices, by name."""

    def __init__(self, start, folder, config, finding):
        self._start, self._folder, self._config, self._finding = start, folder, config, finding
        self._address = "127.0.0.1:0"
        self.running = {}
        self.start_hub()

    def start_hub(self):
        arguments = ("hub", self._config, "--listen", self._address, "--out", "hub")
        self.hub = self._start(self._folder, "-m", "scadles", *arguments, PYTHONUNBUFFERED="1")
        said = self.hub.until(lambda: re.search(r"on (127\.0\.0\.1:\d+)\n", self.hub.out), "an address")
        self._address = said[1]

    def join(self, name):
        arguments = ("join", self._address, "--name", name, "--out", name, "--quiet", "--allow", "data.dataset=npz:*")
        self.running[name] = self._start(self._folder, "-m", "scadles", *arguments)

    def folder(self, name):
        return self._folder / name

    def found(self, name):
        """What a device left in its folder, and its number."""
        folder = self._folder / name
        numbers = [int(re.findall(r"\d+", path.name)[0]) for path in folder.glob("events-*.jsonl")]
        return self._finding(folder, _SEATS), (numbers or [0])[0]

    def events(self, name, kind):
        found, number = self.found(name)
        return found.events(number, kind)

    def until_step(self, name, step):
        self.running[name].until(lambda: any(e.step >= step for e in self.events(name, Step)), f"step {step} of {name}")

    def last_step(self, name):
        return self.events(name, Step)[-1].step

    def assert_each_trained_once(self, name, unseen=0):
        """A device has trained on each sample of its stream, but for ``unseen`` of a step that it has not written."""
        found, number = self.found(name)
        following = missing = 0
        for step in found.events(number, Step):
            if step.offsets is None:  # it was given the others' state in the middle of the step, or began after it
                continue
            first, last = step.offsets
            missing += first - following
            assert first >= following, f"step {step.step}"
            following = last + 1
        ledger = found.events(number, Finished)[-1].ledger
        assert (ledger["trained"], ledger["dropped"], ledger["rejected"]) == (following, 0, 0)
        assert missing in (0, unseen)
        for event in found.raw(number):
            if "ledger" in event:
                spent = sum(event["ledger"][where] for where in ("trained", "dropped", "held", "rejected"))
                assert event["ledger"]["received"] == spent
