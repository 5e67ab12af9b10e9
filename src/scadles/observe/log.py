"""The file that one device's events go to."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING

from scadles.clock import wall_seconds
from scadles.errors import RunError
from scadles.files import FREE_SPACE, refuse_pipe
from scadles.observe.events import Event, Header
from scadles.observe.thinning import due, temporary_path, thin

if TYPE_CHECKING:
    from typing_extensions import Self

_BLOCK = 65_536
_CHECK_EVERY_S = 1.0


class EventLog:
    """Writes events to a file, one line of JSON each, every line at once, and thins what is old in it.

    Args:
        path: the file; its folder exists.
        header: the first line of a new file.
        most_bytes: the size that it stays below (:mod:`scadles.observe.thinning`); None sets no bound.
        append: go on with an existing file (a resumed run): its header stays, and a last line that a crash tore is
            cut off. A missing or empty file is begun like a new one.

    Raises:
        RunError: the file cannot be written, on opening or later (a full disk, a folder without permission).
    """

    def __init__(self, path: Path, header: Header, *, append: bool, most_bytes: int | None = None) -> None:
        self._path = path
        self._most_bytes = most_bytes
        self._not_before = 0
        self._check_due_s = 0.0
        with self._mapped():
            refuse_pipe(path)
            # Unbuffered: what a failed write left in a buffer would fail again on closing.
            self._file = path.open("ab" if append else "wb", buffering=0)
            temporary_path(path).unlink(missing_ok=True)
        try:
            if append:
                self._cut_torn_line()
            self._size = self._file_size()
            if not (append and self._size):
                self.write(header)
        except BaseException:
            self.close()
            raise

    def write(self, event: Event) -> None:
        """Append one event; when this returns, the operating system has it.

        Raises:
            RunError: the line could not be written.
        """
        line = memoryview(event.to_json().encode() + b"\n")
        self._size += len(line)
        with self._mapped():
            while line:
                line = line[self._file.write(line) :]
        if self._most_bytes is not None and due(self._size, self._most_bytes) and self._size > self._not_before:
            self._thin(self._most_bytes)

    def check(self, *, now: bool = False) -> None:
        """Make sure that the file is still where readers look for it; at most once a second, unless ``now``.

        Raises:
            RunError: it was deleted, moved or replaced, so that what is written goes nowhere.
        """
        if not now and wall_seconds() < self._check_due_s:
            return
        self._check_due_s = wall_seconds() + _CHECK_EVERY_S
        try:
            there = os.path.samestat(self._path.stat(), os.fstat(self._file.fileno()))
        except OSError:
            there = False
        if not there:
            raise RunError(f"{self._path} was deleted or replaced while the run was going on: nobody would see its end")

    def close(self) -> None:
        """Close the file. Closing twice is no error."""
        with self._mapped():
            self._file.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _thin(self, most_bytes: int) -> None:
        self.check(now=True)  # a file that was deleted must not come back
        with self._mapped():
            thin(self._path, most_bytes)
            old, self._file = self._file, self._path.open("ab", buffering=0)
            old.close()
        self._size = self._file_size()
        self._not_before = 2 * self._size  # of a file with few enormous lines little can be removed

    def _file_size(self) -> int:
        with self._mapped():
            return self._path.stat().st_size

    def _cut_torn_line(self) -> None:
        """Keep what ends with a newline, so that the next event begins a line of its own."""
        with self._mapped():
            with self._path.open("rb") as written:
                size = whole = written.seek(0, os.SEEK_END)
                while whole > 0:
                    start = max(0, whole - _BLOCK)
                    written.seek(start)
                    newline = written.read(whole - start).rfind(b"\n")
                    whole = start + newline + 1
                    if newline >= 0:
                        break
            if whole < size:
                self._file.truncate(whole)

    @contextmanager
    def _mapped(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise RunError(f"cannot write events to {self._path}: {error.strerror or error}; {FREE_SPACE}") from error
