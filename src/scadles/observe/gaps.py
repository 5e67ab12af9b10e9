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
        missing: first and last of each run of steps that are not there.
        bad_lines: numbers of lines that are no events.
        models: the fingerprint that a checkpoint or the end wrote down, by step.
    """

    path: Path
    problem: str = ""
    header: dict[str, Any] = field(default_factory=dict)
    last: int = 0
    missing: list[tuple[int, int]] = field(default_factory=list)
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
        missing = [*self.missing, (self.last + 1, last_step)] if self.last < last_step else self.missing
        if missing:
            ranges = [str(first) if first == last else f"{first} to {last}" for first, last in missing]
            said.append(f"lacks steps {_listed(ranges)}")
        return [f"{self.path} {' and '.join(said)}"] if said else []


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
                _take(scan, number, line)
    except FileNotFoundError:
        scan.problem = "is missing"
    except OSError as error:
        scan.problem = f"cannot be read: {error.strerror or error}"
    return scan


def _take(scan: Scan, number: int, line: bytes) -> None:
    event = _parsed(line)
    step = event.get("step")
    if not isinstance(event.get("event"), str) or type(step) is not int:
        if len(scan.bad_lines) < _MOST_BAD_LINES:
            scan.bad_lines.append(number)
        return
    kind = event["event"]
    if kind == "header":
        scan.header = scan.header or event
    elif kind == "resumed":
        scan.missing = [(first, min(last, step)) for first, last in scan.missing if first <= step]
        scan.models = {at: model for at, model in scan.models.items() if at <= step}
        _expect(scan, step + 1)
        scan.last = step
    elif kind == "step":
        _expect(scan, step)
        scan.last = step
    elif kind in ("checkpoint", "finished"):
        scan.models[step] = str(event.get("model_sha256", ""))


def _expect(scan: Scan, step: int) -> None:
    """Note down the steps between the last one and ``step``."""
    if step > scan.last + 1:
        scan.missing.append((scan.last + 1, step - 1))


def _parsed(line: bytes) -> dict[str, Any]:
    try:
        found = json.loads(line)
    except (ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


def _listed(names: list[str]) -> str:
    more = f" and {len(names) - _MOST_NAMED} more" if len(names) > _MOST_NAMED else ""
    return ", ".join(names[:_MOST_NAMED]) + more
