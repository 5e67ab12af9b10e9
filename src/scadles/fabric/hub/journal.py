"""What a hub must not forget when it is killed: which run this is, and what devices said with steps that counted."""

from __future__ import annotations

import json
import secrets
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from io import TextIOWrapper
from pathlib import Path
from typing import Any

from scadles.errors import ConfigError

JOURNAL_FILE = "hub.jsonl"
_MOST_BYTES = 1 << 23
_KEPT = 128


class Journal:
    """What devices have said of themselves together with steps that were taken.

    A note counts once its step is whole, until somebody begins that step or an earlier one again: because messages of
    the step were still to come when a device was lost, or because all were lost and their checkpoints are older. Some
    notes of each device are kept, so that there is one for the step from which the others go on.

    Each is a line of JSON that is written before anybody hears of the step; a torn last line does not count.

    Args:
        path: the file; made where there is none, and rewritten with what still counts where it has grown. None keeps
            all in memory.
        kept: notes of a device that are kept; more than steps between two checkpoints.

    Attributes:
        run: what the run is called; empty where nothing is written.
        seats: which seat each device has, by name.
        newest: the last step that is whole.
        ended_by: why the run ended, and a mark of the settings with which it did; empty before.
    """

    def __init__(self, path: Path | None = None, kept: int = _KEPT) -> None:
        self.run = secrets.token_hex(8) if path is not None else ""
        self.seats: dict[str, int] = {}
        self.newest = 0
        self.ended_by = ("", "")
        self._kept = kept
        self._notes: dict[str, deque[tuple[int, dict[str, Any]]]] = {}
        self._path = path
        self._written = 0
        self._file: TextIOWrapper | None = None
        if path is not None:
            self._read(path)
            self._file = self._rewritten(path)

    def seat(self, name: str, seat: int) -> None:
        """Take note of who sits where."""
        if self.seats.get(name) != seat:
            self.seats[name] = seat
            self._write({"name": name, "seat": seat})

    def note(self, name: str, step: int, content: dict[str, Any]) -> None:
        """Take what a device said with a step for which all messages are here."""
        self._take(name, step, content)
        self._write({"name": name, "step": step, "note": content})

    def begun(self, step: int) -> None:
        """Somebody begins a step: those before are taken, and notes of this one or later are void."""
        if step <= self.newest:
            self._void(step)
            self._write({"void_from": step})

    def end(self, reason: str, mark: str) -> None:
        """Take note of the end of the run.

        Args:
            reason: for it.
            mark: of the settings; with others the run may go on.
        """
        self.ended_by = (reason, mark)
        self._write({"ended_by": [reason, mark]})

    def of(self, name: str) -> tuple[int, dict[str, Any]] | None:
        """Return the newest note of a device that counts."""
        notes = self._notes.get(name)
        return notes[-1] if notes else None

    def took_the_newest(self) -> set[str]:
        """Return the names of those who took part in the newest step: nobody's model can have come further."""
        return {name for name, notes in self._notes.items() if notes and notes[-1][0] == self.newest}

    def sync(self) -> None:
        """Let what is written outlive a loss of power, if some time has gone by since the last time."""

    def close(self) -> None:
        """Close the file."""
        if self._file is not None:
            self._file.close()

    def _take(self, name: str, step: int, content: dict[str, Any]) -> None:
        self._notes.setdefault(name, deque(maxlen=self._kept)).append((step, content))
        self.newest = max(self.newest, step)

    def _void(self, step: int) -> None:
        self.newest = step - 1
        for notes in self._notes.values():
            while notes and notes[-1][0] >= step:
                notes.pop()

    def _read(self, path: Path) -> None:
        try:
            lines = path.read_bytes().split(b"\n")[:-1]
        except FileNotFoundError:
            return
        for line in lines:
            try:
                self._read_line(json.loads(line))
            except (ValueError, KeyError, TypeError, RecursionError) as error:
                raise ConfigError(f"{path} is no journal of a hub ({error!r}): give another --out") from None

    def _read_line(self, said: dict[str, Any]) -> None:
        if "run" in said:
            self.run = str(said["run"])
        elif "seat" in said:
            self.seats[str(said["name"])] = int(said["seat"])
        elif "void_from" in said:
            self._void(int(said["void_from"]))
        elif "ended_by" in said:
            reason, mark = said["ended_by"]
            self.ended_by = (str(reason), str(mark))
        else:
            self._take(str(said["name"]), int(said["step"]), dict(said["note"]))

    def _rewritten(self, path: Path) -> TextIOWrapper:
        temporary = path.with_suffix(".tmp")
        lines: list[dict[str, Any]] = [{"run": self.run}]
        lines += [{"name": name, "seat": seat} for name, seat in self.seats.items()]
        for name, notes in self._notes.items():
            lines += [{"name": name, "step": step, "note": content} for step, content in notes]
        if self.ended_by[0]:
            lines.append({"ended_by": list(self.ended_by)})
        temporary.write_text("".join(json.dumps(line) + "\n" for line in lines))
        temporary.replace(path)
        self._written = 0
        return path.open("a")

    def _write(self, said: dict[str, Any]) -> None:
        if self._file is None or self._path is None:
            return
        line = json.dumps(said) + "\n"
        self._file.write(line)
        self._file.flush()
        self._written += len(line)
        if self._written > _MOST_BYTES:
            self._file.close()
            self._file = self._rewritten(self._path)


@contextmanager
def journal_of(folder: Path, kept: int = _KEPT) -> Iterator[Journal]:
    """Yield the journal in a hub's folder.

    Args:
        folder: of the hub.
        kept: notes of a device that are kept.

    Raises:
        ConfigError: the folder cannot be written to, or holds something else under that name.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        journal = Journal(folder / JOURNAL_FILE, kept)
    except OSError as error:
        raise ConfigError(f"cannot write the hub's folder {folder}: {error.strerror}") from None
    try:
        yield journal
    finally:
        journal.close()
