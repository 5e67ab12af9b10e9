"""What devices of a hub wrote of a run: is every sample trained once, does every ledger balance?"""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

from scadles.observe import Finished, Resumed, Step, read_events

WHERE = ("trained", "dropped", "held", "rejected")


def look_at_events(folders: dict[str, Path], batch: int) -> tuple[list[str], dict[str, int]]:
    """Return what is wrong with what the devices wrote, and how many steps they took, missed and repeated.

    Args:
        folders: of the devices, by name.
        batch: samples in each device's batch.
    """
    wrong: list[str] = []
    counts: Counter[str] = Counter()
    ends: dict[str, Finished] = {}
    for name, folder in folders.items():
        paths = list(folder.glob("events-*.jsonl"))
        if len(paths) != 1:
            wrong.append(f"{name}: {len(paths)} files of events")
            continue
        wrong += raw_lines(name, paths[0], counts)
        events = read_events(paths[0])
        wrong += Steps(name, batch, counts).look(events)
        if isinstance(events[-1], Finished):
            ends[name] = events[-1]
        else:
            wrong.append(f"{name}: the last event is {events[-1]}")
    if len(ends) == len(folders):
        for what in ("reason", "step", "model_sha256"):
            if len({getattr(end, what) for end in ends.values()}) > 1:
                wrong.append(f"{what}: {', '.join(f'{name} {getattr(end, what)}' for name, end in ends.items())}")
    return wrong, dict(counts)


def raw_lines(name: str, path: Path, counts: Counter[str]) -> list[str]:
    """Look at every line that was ever written, of steps that are void now too."""
    wrong, last = [], 0
    for line in path.read_bytes().split(b"\n")[:-1]:
        if not line.startswith(b"{"):
            continue  # torn by a kill, and then ended
        said = json.loads(line)
        ledger = said.get("ledger")
        if ledger and ledger["received"] != sum(map(ledger.get, WHERE)):
            wrong.append(f"{name}: does not balance: {said}")
        if said["event"] == "step":
            counts["taken"] += 1
            counts["repeated"] += said["step"] <= last
            last = max(last, said["step"])
    return wrong


def last_ledger(path: Path) -> dict[str, int]:
    """Return the ledger with which a device ended, nothing where it has not."""
    last = read_events(path)[-1]
    return last.ledger if isinstance(last, Finished) else {}


class Steps:
    """Whether steps and offsets of a device follow each other, but for what it was away for."""

    def __init__(self, name: str, batch: int, counts: Counter[str]) -> None:
        self._name, self._batch, self._counts = name, batch, counts
        self._step = self._following = 0
        self._was_away = False
        self._wrong: list[str] = []

    def look(self, events: list[Any]) -> list[str]:
        for event in events:
            self._was_away |= isinstance(event, Resumed)
            if isinstance(event, Step):
                self._look_at(event)
        if isinstance(events[-1], Finished):
            ledger = events[-1].ledger
            if ledger["trained"] != self._following or ledger["dropped"] or ledger["rejected"]:
                self._say(f"offsets up to {self._following}, and {ledger}")
        return self._wrong

    def _look_at(self, step: Step) -> None:
        if step.step != self._step + 1:
            self._counts["missed"] += step.step - self._step - 1
            if self._step and not self._was_away:
                self._say(f"step {step.step} follows {self._step}, and it was not away")
        self._step = step.step
        if step.offsets is None:
            return
        first, last = step.offsets
        passed_over = first - self._following
        if passed_over < 0 or (passed_over and not self._was_away) or passed_over > self._batch:
            self._say(f"step {step.step} is on offsets from {first}, and {self._following} was next")
        elif passed_over:  # in a step that counted; the device was cut off before it wrote it down
            self._counts["counted, not written down"] += 1
        self._following, self._was_away = last + 1, False

    def _say(self, what: str) -> None:
        self._wrong.append(f"{self._name}: {what}")
