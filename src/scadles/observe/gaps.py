"""What is missing in a file of events: lines that are no events, steps that were not written, another device's file."""

from __future__ import annotations

import errno
import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

from scadles.files import open_file

_MOST_NAMED = 3
_MOST_BAD_LINES = 1000
_MOST_LINE_BYTES = 16_000_000
_MOST_EVENTS_BYTES = 4_000_000_000


@dataclass
class Scan:
    """What one pass over a device's events found, what a resumption made void left out.

    Attributes:
        path: the file.
        problem: why it cannot be read as a whole; empty where it can.
        header: its first line, where that is a header.
        last: the last step.
        thinned_to, every: of steps up to the former only those are expected that the latter divides.
        missing: first and last of each run of steps that should be there and are not.
        away: first and last of each run of steps that were taken without this device.
        bad_lines: numbers of lines that are no events.
        models: the fingerprint that a checkpoint or the end wrote down, by step.
    """

    path: Path
    problem: str = ""
    header: dict[str, Any] = field(default_factory=dict)
    last: int = 0
    thinned_to: int = 0
    every: int = 1
    missing: list[tuple[int, int]] = field(default_factory=list)
    away: list[tuple[int, int]] = field(default_factory=list)
    bad_lines: list[int] = field(default_factory=list)
    models: dict[int, str] = field(default_factory=dict)

    def gaps(self, device: int, last_step: int, model_sha256: str) -> list[str]:
        """Return in words what is missing or foreign, of a file that should be ``device``'s up to ``last_step``.

        Args:
            device: whose events these should be.
            last_step: how many steps the run is known to have made.
            model_sha256: the fingerprint of its model after that step; empty where it is unknown.
        """
        if self.problem:
            return [f"{self.path} {self.problem}"]
        if self.header and self.header.get("device") != device:
            return [f"{self.path} holds the events of device {self.header.get('device')}"]
        written = self.models.get(last_step, model_sha256)
        if model_sha256 and written and written != model_sha256:
            return [f"{self.path} is of another run: after step {last_step} its model is another one"]
        said = []
        if not self.header:
            said.append("does not begin with a header")
        if self.bad_lines:
            said.append(f"has lines that are no events: {_listed([str(line) for line in self.bad_lines])}")
        if missing := self.lacking(last_step):
            ranges = [str(first) if first == last else f"{first} to {last}" for first, last in missing]
            said.append(f"lacks steps {_listed(ranges)}")
        return [f"{self.path} {' and '.join(said)}"] if said else []

    def lacking(self, last_step: int) -> list[tuple[int, int]]:
        """Return first and last of each run of steps up to ``last_step`` that are not there and should be."""
        return _united([*self.missing, *self.expected(self.last + 1, last_step)])

    def expected(self, first: int, last: int) -> Iterator[tuple[int, int]]:
        """Yield first and last of the steps from ``first`` to ``last`` that should be in the file.

        Those that were taken without this device should not, nor those that thinning removed.
        """
        present = [(first, last)]
        for away in self.away:
            present = [rest for ends in present for rest in _outside(ends, away)]
        for begin, end in present:
            yield from self._not_thinned(begin, end)

    def _not_thinned(self, first: int, last: int) -> Iterator[tuple[int, int]]:
        thinned, every = min(last, self.thinned_to), self.every
        begin, end = -(-first // every) * every, thinned // every * every
        if begin <= end:
            yield begin, end
        if (begin := max(first, self.thinned_to + 1)) <= last:
            yield begin, last

    def take(self, number: int, line: bytes) -> dict[str, Any]:
        """Take note of a line of the file, by its number; return the event, empty where it is none."""
        event = _parsed(line)
        step = event.get("step")
        if not isinstance(event.get("event"), str) or type(step) is not int:
            if len(self.bad_lines) < _MOST_BAD_LINES:
                self.bad_lines.append(number)
            return {}
        kind = event["event"]
        if kind == "header":
            self.header = self.header or event
        elif kind == "thinned":
            self._take_thinned(step, event)
        elif kind == "resumed":
            self._take_resumed(step, event)
        elif kind == "step":
            self.take_step(step)
        elif kind in ("checkpoint", "finished"):
            self.models[step] = str(event.get("model_sha256", ""))
        return event

    def take_step(self, step: int) -> None:
        """Take note of a step that is there."""
        if step > self.last + 1:
            self.missing += self.expected(self.last + 1, step - 1)
        self.last = step

    def _take_resumed(self, step: int, event: dict[str, Any]) -> None:
        until = last_kept(event)
        self.missing = [(first, min(last, until)) for first, last in self.missing if first <= until]
        self.away = [(first, min(last, until)) for first, last in self.away if first <= until]
        self.models = {at: model for at, model in self.models.items() if at <= until}
        self.missing += self.expected(self.last + 1, until)
        self.last, self.thinned_to = step, min(until, self.thinned_to)
        if until < step:
            self.away.append((until + 1, step))

    def _take_thinned(self, step: int, event: dict[str, Any]) -> None:
        every, missing = event.get("every"), event.get("missing")
        self.thinned_to, self.every = step, every if type(every) is int and every > 0 else 1
        self.last, self.missing = 0, []  # what stands before it, resumptions, was there before it
        for pair in missing if isinstance(missing, list) else []:
            if isinstance(pair, list) and [type(end) for end in pair] == [int, int]:
                self.missing.append((pair[0], pair[1]))


def last_kept(resumed: dict[str, Any]) -> int:
    """Return the last step of which a resumption leaves what was written before it."""
    since, step = resumed.get("away_since"), int(resumed["step"])
    return min(since, step) if type(since) is int else step


def read_lines(file: BinaryIO) -> Iterator[bytes]:
    """Yield whole lines; a torn last one is left out."""
    read = 0
    while (line := file.readline(_MOST_LINE_BYTES)).endswith(b"\n"):
        yield line
        read += len(line)
        if read > _MOST_EVENTS_BYTES:
            raise OSError(errno.EFBIG, f"more than {_MOST_EVENTS_BYTES:,} bytes")
    if len(line) == _MOST_LINE_BYTES:
        raise OSError(errno.EFBIG, f"a line of more than {_MOST_LINE_BYTES:,} bytes")


def scan_events(path: Path) -> Scan:
    """Look through a file of events, whatever it holds; a torn last line is no problem."""
    scan = Scan(path)
    try:
        with open_file(path) as file:
            for number, line in enumerate(read_lines(file), start=1):
                scan.take(number, line)
    except FileNotFoundError:
        scan.problem = "is missing"
    except OSError as error:
        scan.problem = f"cannot be read: {error.strerror or error}"
    return scan


def _united(ranges: list[tuple[int, int]]) -> list[tuple[int, int]]:
    """Return ranges in order, those that overlap as one."""
    found: list[tuple[int, int]] = []
    for first, last in sorted(ranges):
        if found and first <= found[-1][1]:
            found[-1] = (found[-1][0], max(last, found[-1][1]))
        else:
            found.append((first, last))
    return found


def _outside(ends: tuple[int, int], other: tuple[int, int]) -> Iterator[tuple[int, int]]:
    """Yield what is left of a range without another one."""
    if ends[0] < other[0]:
        yield ends[0], min(ends[1], other[0] - 1)
    if ends[1] > other[1]:
        yield max(ends[0], other[1] + 1), ends[1]


def _parsed(line: bytes) -> dict[str, Any]:
    try:
        found = json.loads(line)
    except (ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


def _listed(names: list[str]) -> str:
    more = f" and {len(names) - _MOST_NAMED} more" if len(names) > _MOST_NAMED else ""
    return ", ".join(names[:_MOST_NAMED]) + more
