"""Small JSON files with secrets beside them: private, written whole or not at all, changed by one process at a time."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from threading import Lock
from typing import Any

from scadles.errors import ConfigError
from scadles.files import read_file

try:
    import fcntl
except ImportError:  # no such thing on Windows: one process at a time must be seen to there
    fcntl = None  # type: ignore[assignment]

_MOST_BYTES = 1 << 24


def private_folder(path: Path) -> None:
    """Make a folder that only its owner can enter.

    Raises:
        ConfigError: that cannot be.
    """
    try:
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
        path.chmod(0o700)
    except OSError as error:
        raise ConfigError(f"cannot make the folder {path}: {error.strerror}") from None


def write_private(path: Path, content: bytes) -> None:
    """Write a file that only its owner can read; it is there whole, or as it was before.

    Raises:
        ConfigError: it cannot be written.
    """
    temporary = path.with_name(f"{path.name}.tmp")
    try:
        temporary.unlink(missing_ok=True)
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(descriptor)
        temporary.replace(path)
    except OSError as error:
        raise ConfigError(f"cannot write {path}: {error.strerror}") from None


class Store:
    """A file with one JSON object in it, read again whenever somebody has changed it.

    Args:
        path: the file; one that is not there is an empty object.

    Raises:
        ConfigError: by every method, where the file holds something else or cannot be used.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._lock, self._changing = Lock(), Lock()
        self._stamp: tuple[int, ...] | None = None
        self._content: dict[str, Any] = {}

    def read(self) -> dict[str, Any]:
        """Return what is in it, not to be changed; does not wait for a disk to which somebody writes."""
        with self._lock:
            return self._read()

    @contextmanager
    def changing(self) -> Iterator[dict[str, Any]]:
        """Yield what is in it, to be changed, and write that; no other thread or process changes it meanwhile."""
        with self._changing, self._alone():
            with self._lock:
                self._stamp = None
                before = json.dumps(self._read())
            content = json.loads(before)
            yield content
            if json.dumps(content) != before:
                write_private(self._path, json.dumps(content, indent=1).encode())
                with self._lock:
                    self._stamp = None

    def _read(self) -> dict[str, Any]:
        try:
            found = self._path.stat()
            stamp = (found.st_ino, found.st_mtime_ns, found.st_size)
            if stamp == self._stamp:
                return self._content
            content = json.loads(read_file(self._path, _MOST_BYTES))
        except FileNotFoundError:
            stamp, content = None, {}
        except OSError as error:
            raise ConfigError(f"cannot read {self._path}: {error.strerror}") from None
        except (ValueError, RecursionError):
            content = None
        if not isinstance(content, dict):
            raise ConfigError(f"{self._path} is no file of this program: put back one that was saved, or remove it")
        self._stamp, self._content = stamp, content
        return content

    @contextmanager
    def _alone(self) -> Iterator[None]:
        if fcntl is None:
            yield
            return
        try:
            descriptor = os.open(f"{self._path}.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise ConfigError(f"cannot write beside {self._path}: {error.strerror}") from None
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            yield
        finally:
            with suppress(OSError):
                os.close(descriptor)
