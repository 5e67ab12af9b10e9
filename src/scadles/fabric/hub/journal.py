"""What a hub must not forget when it is killed: which run this is, and what devices said with steps that counted."""

from __future__ import annotations

import json
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from io import TextIOWrapper
from pathlib import Path
from typing import Any

from scadles.errors import ConfigError

_FILE = "hub.jsonl"
_MOST_BYTES = 1 << 23


class Journal:
    """Lines of JSON that are written before anybody hears of a step; a torn last one does not count.

    Args:
        path: the file; made where there is none, and rewritten with what still counts where it has grown.

    Attributes:
        run: what the run is called.
        last: of each device, by name, its last two notes with their steps, the older one first.
        seats: which seat each has, by name.
    """

    def __init__(self, path: Path) -> None:
        self.run = secrets.token_hex(8)
        self.last: dict[str, list[tuple[int, dict[str, Any]]]] = {}
        self.seats: dict[str, int] = {}
        self._path = path
        self._written = 0
        self._read()
        self._file = self._rewritten()

    def seat(self, name: str, seat: int) -> None:
        """Take note of who sits where."""
        if self.seats.get(name) != seat:
            self.seats[name] = seat
            self._write({"name": name, "seat": seat})

    def note(self, name: str, step: int, content: dict[str, Any]) -> None:
        """Take note of what a device said with a step."""
        self._keep(name, step, content)
        self._write({"name": name, "step": step, "note": content})
        if self._written > _MOST_BYTES:
            self._file.close()
            self._file = self._rewritten()

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def _keep(self, name: str, step: int, content: dict[str, Any]) -> None:
        before = [kept for kept in self.last.get(name, []) if kept[0] < step]
        self.last[name] = [*before[-1:], (step, content)]

    def _read(self) -> None:
        try:
            lines = self._path.read_bytes().split(b"\n")[:-1]
        except FileNotFoundError:
            return
        for line in lines:
            try:
                said = json.loads(line)
                if "run" in said:
                    self.run = str(said["run"])
                elif "seat" in said:
                    self.seats[str(said["name"])] = int(said["seat"])
                else:
                    self._keep(str(said["name"]), int(said["step"]), dict(said["note"]))
            except (ValueError, KeyError, TypeError, RecursionError) as error:
                raise ConfigError(f"{self._path} is no journal of a hub ({error!r}): give another --out") from None

    def _rewritten(self) -> TextIOWrapper:
        temporary = self._path.with_suffix(".tmp")
        lines: list[dict[str, Any]] = [{"run": self.run}]
        lines += [{"name": name, "seat": seat} for name, seat in self.seats.items()]
        for name, notes in self.last.items():
            lines += [{"name": name, "step": step, "note": content} for step, content in notes]
        temporary.write_text("".join(json.dumps(line) + "\n" for line in lines))
        temporary.replace(self._path)
        self._written = 0
        return self._path.open("a")

    def _write(self, said: dict[str, Any]) -> None:
        line = json.dumps(said) + "\n"
        self._file.write(line)
        self._file.flush()
        self._written += len(line)


@contextmanager
def journal_of(folder: Path) -> Iterator[Journal]:
    """Yield the journal in a hub's folder.

    Raises:
        ConfigError: the folder cannot be written to, or holds something else under that name.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        journal = Journal(folder / _FILE)
    except OSError as error:
        raise ConfigError(f"cannot write the hub's folder {folder}: {error.strerror}") from None
    try:
        yield journal
    finally:
        journal.close()
