"""What a hub must not forget when it is killed: which run this is, and what devices said with steps that counted."""

from __future__ import annotations

import errno
import json
import os
import secrets
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from io import FileIO
from pathlib import Path
from threading import Lock
from typing import Any

from scadles.clock import wall_seconds
from scadles.errors import ConfigError
from scadles.files import sync

JOURNAL_FILE = "hub.jsonl"
_MOST_BYTES = 1 << 23
_KEPT = 128
_SYNC_S = 1.0


def _nobody(_: str) -> None:
    """Tell nobody."""


class Journal:
    """What devices have said of themselves together with steps that were taken.

    A note counts once its step is whole, until somebody begins that step or an earlier one again: because messages of
    the step were still to come when a device was lost, or because all were lost and their checkpoints are older. Some
    notes of each device are kept, so that there is one for the step from which the others go on.

    Each is a line of JSON that is written before anybody hears of the step; a torn last line does not count. Where a
    line cannot be written the run goes on: what counts is in memory, and all of it is written anew once that can be.

    Any thread may call; notes are made and looked at by one at a time, as with a hub's lock, :meth:`sync` by another.

    Args:
        path: the file; made where there is none, and rewritten with what still counts where it has grown. None keeps
            all in memory.
        kept: notes of a device that are kept; more than steps between two checkpoints.
        say: told one line, by :meth:`sync`, when it cannot be written, and when it can again.

    Raises:
        OSError: it cannot be written to begin with.
        ConfigError: there is something else.

    Attributes:
        run: what the run is called; empty where nothing is written.
        seats: which seat each device has, by name.
        newest: the last step that is whole.
        ended_by: why the run ended, and a mark of the settings with which it did; empty before.
    """

    def __init__(self, path: Path | None = None, kept: int = _KEPT, say: Callable[[str], None] = _nobody) -> None:
        self.run = secrets.token_hex(8) if path is not None else ""
        self.seats: dict[str, int] = {}
        self.newest = 0
        self.ended_by = ("", "")
        self._kept = kept
        self._notes: dict[str, deque[tuple[int, dict[str, Any]]]] = {}
        self._path = path
        self._say = say
        self._lock = Lock()
        self._written = 0
        self._file: FileIO | None = None
        self._is_unsynced = False
        self._sync_at_s = 0.0
        self._problem = self._told = ""
        if path is not None:
            self._read(path)
            self._file = self._rewritten(path)

    def seat(self, name: str, seat: int) -> None:
        """Take note of who sits where."""
        with self._lock:
            if self.seats.get(name) != seat:
                self.seats[name] = seat
                self._write({"name": name, "seat": seat})

    def note(self, name: str, step: int, content: dict[str, Any]) -> None:
        """Take what a device said with a step for which all messages are here."""
        with self._lock:
            self._take(name, step, content)
            self._write({"name": name, "step": step, "note": content})

    def begun(self, step: int) -> None:
        """Somebody begins a step: those before are taken, and notes of this one or later are void."""
        with self._lock:
            if step <= self.newest:
                self._void(step)
                self._write({"void_from": step})

    def end(self, reason: str, mark: str) -> None:
        """Take note of the end of the run.

        Args:
            reason: for it.
            mark: of the settings; with others the run may go on.
        """
        with self._lock:
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
        """Let what is written outlive a loss of power, or write it after all, if a second has gone by since last time.

        Never raises; what goes wrong is said.
        """
        now_s = wall_seconds()
        if self._path is None or now_s < self._sync_at_s:
            return
        self._sync_at_s = now_s + _SYNC_S
        self._bring_to_disk(self._path)
        problem = self._problem
        with suppress(OSError):  # what is said may go to the same disk
            if problem and problem != self._told:
                self._say(
                    f"cannot write {self._path} ({problem}): the run goes on, and this is tried again every second; if "
                    "the hub is killed before that works, devices that are killed with it may train on samples twice"
                )
            elif self._told and not problem:
                self._say(f"{self._path} is written again, with all that counts")
        self._told = problem

    def close(self) -> None:
        """Bring all to the disk, and close the file."""
        self._sync_at_s = 0.0
        self.sync()
        with self._lock:
            self._path = None
            self._close_file()

    def _bring_to_disk(self, path: Path) -> None:
        descriptor = None
        with self._lock:
            try:
                if self._file is None:
                    self._file = self._rewritten(path)
                if self._is_unsynced:
                    descriptor = os.dup(self._file.fileno())  # the file may be closed meanwhile
            except OSError as error:
                self._fail(error)
                return
            self._is_unsynced, self._problem = False, ""
        if descriptor is None:
            return
        try:
            os.fsync(descriptor)
        except OSError as error:
            with self._lock:
                self._fail(error)
        finally:
            os.close(descriptor)

    def _fail(self, error: OSError) -> None:
        """Take note that the file does not hold what it should: it is to be written anew."""
        self._problem = error.strerror or str(error)
        self._close_file()

    def _close_file(self) -> None:
        file, self._file = self._file, None
        if file is not None:
            with suppress(OSError):
                file.close()

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

    def _rewritten(self, path: Path) -> FileIO:
        """Return the file, written anew and on the disk.

        Raises:
            OSError: it cannot be written; what was there is there still.
        """
        temporary = path.with_suffix(".tmp")
        lines: list[dict[str, Any]] = [{"run": self.run}]
        lines += [{"name": name, "seat": seat} for name, seat in self.seats.items()]
        for name, notes in self._notes.items():
            lines += [{"name": name, "step": step, "note": content} for step, content in notes]
        if self.ended_by[0]:
            lines.append({"ended_by": list(self.ended_by)})
        temporary.write_text("".join(json.dumps(line) + "\n" for line in lines))
        sync(temporary)
        temporary.replace(path)
        sync(path.parent)
        self._written, self._is_unsynced = 0, False
        return FileIO(path, "a")

    def _write(self, said: dict[str, Any]) -> None:
        if self._file is None or self._path is None:
            return
        line = json.dumps(said).encode() + b"\n"
        try:
            if self._file.write(line) != len(line):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            self._written += len(line)
            self._is_unsynced = True
            if self._written > _MOST_BYTES:
                self._close_file()
                self._file = self._rewritten(self._path)
        except OSError as error:
            self._fail(error)


@contextmanager
def journal_of(folder: Path, kept: int = _KEPT, say: Callable[[str], None] = _nobody) -> Iterator[Journal]:
    """Yield the journal in a hub's folder.

    Args:
        folder: of the hub.
        kept, say: those of :class:`Journal`.

    Raises:
        ConfigError: the folder cannot be written to, or holds something else under that name.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        journal = Journal(folder / JOURNAL_FILE, kept, say)
    except OSError as error:
        raise ConfigError(f"cannot write the hub's folder {folder}: {error.strerror}") from None
    try:
        yield journal
    finally:
        journal.close()
