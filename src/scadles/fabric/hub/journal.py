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
from scadles.files import private_opener, sync

JOURNAL_FILE = "hub.jsonl"
_MOST_BYTES = 1 << 23
_KEPT = 128
_SYNC_S = 1.0


class Journal:
    """What devices have said of themselves together with steps that were taken.

    A note counts once its step is whole, until somebody begins that step or an earlier one again: because messages of
    the step were still to come when a device was lost, or because all were lost and their checkpoints are older. Some
    notes of each device are kept, so that there is one for the step from which the others go on.

    Each is a line of JSON that is written before anybody hears of the step; a torn last line does not count. Where a
    line cannot be written the run goes on: what counts is in memory, and all of it is written anew once that can be.

    Notes are made and looked at by one thread at a time, as with a hub's lock; :meth:`sync` may be another's.

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
        left: names of those that have said goodbye, and have not come back.
        newest: the last step that is whole.
        ended_by: why the run ended, and a mark of the settings with which it did; empty before.
    """

    def __init__(
        self, path: Path | None = None, kept: int = _KEPT, say: Callable[[str], None] = lambda _: None
    ) -> None:
        self.run = secrets.token_hex(8) if path is not None else ""
        self.seats: dict[str, int] = {}
        self.left: set[str] = set()
        self.newest = 0
        self.ended_by = ("", "")
        self._kept = kept
        self._notes: dict[str, deque[tuple[int, dict[str, Any]]]] = {}
        self._path = path
        self._say = say
        self._lock, self._at_the_disk = Lock(), Lock()
        self._written = 0
        self._file: FileIO | None = None
        self._meanwhile: list[bytes] | None = None  # what is noted while the file is written anew
        self._is_unsynced = False
        self._sync_at_s = 0.0
        self._problem = self._told = ""
        if path is not None:
            self._read(path)
            self._write_anew(path)

    def seat(self, name: str, seat: int) -> None:
        """Take note of who sits where, and is there."""
        with self._lock:
            if self.seats.get(name) != seat or name in self.left:
                self.seats[name] = seat
                self.left.discard(name)
                self._write({"name": name, "seat": seat})

    def leave(self, name: str) -> None:
        """Take note that a device has said goodbye; it keeps its seat."""
        with self._lock:
            if name in self.seats and name not in self.left:
                self.left.add(name)
                self._write({"left": name})

    def free(self, name: str) -> None:
        """Take note that a device that never took part has no seat any more."""
        if self.seats.pop(name, None) is not None:
            self.left.discard(name)
            self._write({"free": name})

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
        if wall_seconds() < self._sync_at_s:
            return
        with self._at_the_disk:
            if self._path is not None:
                self._sync_at_s = wall_seconds() + _SYNC_S
                self._bring_to_disk(self._path)
                self._tell(self._path)

    def close(self) -> None:
        """Bring all to the disk, and close the file."""
        self._sync_at_s = 0.0
        self.sync()
        with self._at_the_disk, self._lock:
            self._path = None
            self._close_file()

    def _tell(self, path: Path) -> None:
        problem = self._problem
        with suppress(OSError):  # what is said may go to the same disk
            if problem and problem != self._told:
                self._say(
                    f"cannot write {path} ({problem}): the run goes on, and this is tried again every second; if "
                    "the hub is killed before that works, devices that are killed with it may train on samples twice"
                )
            elif self._told and not problem:
                self._say(f"{path} is written again, with all that counts")
        self._told = problem

    def _bring_to_disk(self, path: Path) -> None:
        """Wait for the disk while others go on making notes."""
        try:
            if self._file is None or self._written > _MOST_BYTES:
                self._write_anew(path)
            else:
                self._sync_file()
        except OSError as error:
            with self._lock:
                if self._file is None:  # else what has grown can be added to still
                    self._fail(error)

    def _write_anew(self, path: Path) -> None:
        """Write what counts into a file beside, then what has come meanwhile, and let that be the file.

        Raises:
            OSError: that cannot be; what was there is there still.
        """
        with self._lock:
            lines, self._meanwhile = self._lines(), []
        temporary, file = path.with_suffix(".tmp"), None
        try:
            temporary.unlink(missing_ok=True)
            file = FileIO(temporary, "a", opener=private_opener)
            _write_all(file, b"".join(map(_as_line, lines)))
            os.fsync(file.fileno())
            with self._lock:
                _write_all(file, b"".join(self._meanwhile))
                temporary.replace(path)
                self._close_file()
                self._file, self._written = file, 0
                self._is_unsynced, self._problem = bool(self._meanwhile), ""
        finally:
            if file is not None and file is not self._file:
                file.close()
            self._meanwhile = None
        sync(path.parent)

    def _sync_file(self) -> None:
        with self._lock:
            if self._file is None or not self._is_unsynced:
                return
            descriptor = os.dup(self._file.fileno())  # the file may be closed meanwhile
            self._is_unsynced = False
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
            self.left.discard(str(said["name"]))
        elif "left" in said:
            self.left.add(str(said["left"]))
        elif "free" in said:
            self.seats.pop(str(said["free"]), None)
            self.left.discard(str(said["free"]))
        elif "void_from" in said:
            self._void(int(said["void_from"]))
        elif "ended_by" in said:
            reason, mark = said["ended_by"]
            self.ended_by = (str(reason), str(mark))
        else:
            self._take(str(said["name"]), int(said["step"]), dict(said["note"]))

    def _lines(self) -> list[dict[str, Any]]:
        """Return what counts."""
        lines: list[dict[str, Any]] = [{"run": self.run}]
        lines += [{"name": name, "seat": seat} for name, seat in self.seats.items()]
        lines += [{"left": name} for name in sorted(self.left)]
        for name, notes in self._notes.items():
            lines += [{"name": name, "step": step, "note": content} for step, content in notes]
        if self.ended_by[0]:
            lines.append({"ended_by": list(self.ended_by)})
        return lines

    def _write(self, said: dict[str, Any]) -> None:
        if self._path is None:
            return
        line = _as_line(said)
        if self._meanwhile is not None:
            self._meanwhile.append(line)
        if self._file is None:
            return
        try:
            _write_all(self._file, line)
        except OSError as error:
            self._fail(error)
        self._written += len(line)
        self._is_unsynced = True


def _as_line(said: dict[str, Any]) -> bytes:
    return json.dumps(said).encode() + b"\n"


def _write_all(file: FileIO, content: bytes) -> None:
    rest = memoryview(content)
    while rest:
        if not (written := file.write(rest)):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        rest = rest[written:]


@contextmanager
def journal_of(folder: Path, kept: int = _KEPT, say: Callable[[str], None] = lambda _: None) -> Iterator[Journal]:
    """Yield the journal in a hub's folder; ``kept`` and ``say`` are those of :class:`Journal`.

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
