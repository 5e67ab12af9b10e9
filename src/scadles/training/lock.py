"""One run in a folder at a time: a lock that ends with the processes that hold it, however they end.

All devices of one attempt that share a folder share its lock: each holds ``flock`` in shared mode on one file, which
says whose attempt it is. Only who finds nobody there may write that down.
"""

from __future__ import annotations

import errno
import json
import os
import secrets
import socket
import sys
import weakref
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

from scadles.clock import WallClock, timestamp, wall_seconds
from scadles.config.addresses import is_secret
from scadles.errors import ConfigError
from scadles.observe.console import print_note

try:
    import fcntl
except ImportError:  # not a Unix
    fcntl = None  # type: ignore[assignment]

if TYPE_CHECKING:
    from typing_extensions import Self

LOCK_FILE, HUB_LOCK_FILE = "run.lock", "hub.lock"
_WITHOUT_LOCKS = {errno.ENOLCK, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL}
_PATIENCE_S = 2.0
_PAUSE_S = 0.01
_MOST_BYTES = 4096
_MOST_OF_A_COMMAND = 120


class RunLock:
    """The lock of a run folder, for one device or hub.

    Args:
        run_dir: the run folder.
        attempt: a number that all devices of this start have in common, and no other start has.
        file: its name; devices and hubs do not exclude each other.

    Attributes:
        attempt: the number that was given.
        notice: what a user should know once it is acquired: that this file system has no locks; None otherwise.
    """

    def __init__(self, run_dir: Path, attempt: int, file: str = LOCK_FILE) -> None:
        self.notice: str | None = None
        self._run_dir = run_dir
        self._path = run_dir / file
        self.attempt = attempt
        self._descriptor: int | None = None
        self._close: Callable[[], object] = lambda: None

    def acquire(self) -> str | None:
        """Take the lock, and make the folder for it; return why that cannot be, None where it could."""
        try:
            self._run_dir.mkdir(parents=True, exist_ok=True)
            self._descriptor = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
            # also where nobody releases it
            self._close = weakref.finalize(self, os.close, self._descriptor)
            _held.add(self)
            problem = self._share()
        except OSError as error:
            if self._descriptor is not None and error.errno in _WITHOUT_LOCKS:
                self.notice = (
                    f"the file system of {self._run_dir} has no locks ({error.strerror}): nothing keeps a second run "
                    "out of this folder"
                )
                return None
            problem = f"cannot write the run folder {self._run_dir}: {error.strerror}"
        if problem is not None:
            self.release()
        return problem

    def in_use(self) -> str | None:
        """Return who uses the folder, in words; None where nobody does, or nobody can tell. Nothing is changed."""
        if fcntl is None:
            return None
        try:
            descriptor = os.open(self._path, os.O_RDWR | os.O_CLOEXEC)
        except OSError:
            return None
        # another device that asks the same thing at this moment holds the lock, too, but not for long
        give_up_s, clock = wall_seconds() + _PATIENCE_S, WallClock()
        try:
            while not _try(descriptor, fcntl.LOCK_EX):
                if wall_seconds() > give_up_s:
                    return self._told(_read(descriptor))
                clock.sleep(_PAUSE_S)
        except OSError:
            return None
        finally:
            os.close(descriptor)
        return None

    def release(self) -> None:
        """Let go of the folder. Releasing twice is no error."""
        _held.discard(self)
        self._descriptor = None
        self._close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.release()

    def _share(self) -> str | None:
        """Hold the lock with the devices of this attempt, or return who holds it."""
        descriptor = self._descriptor
        if fcntl is None or descriptor is None:
            raise OSError(errno.ENOSYS, "this system has none")
        if _try(descriptor, fcntl.LOCK_EX):
            self._sign(descriptor)
        # between the two locks, and while another device signs, nobody holds a shared one for a moment
        give_up_s, clock = wall_seconds() + _PATIENCE_S, WallClock()
        while not _try(descriptor, fcntl.LOCK_SH):
            if wall_seconds() > give_up_s:
                return self._told({})
            clock.sleep(_PAUSE_S)
        holder = _read(descriptor)
        return None if holder.get("attempt") == self.attempt else self._told(holder)

    def _sign(self, descriptor: int) -> None:
        mine = {
            "attempt": self.attempt,
            "pid": os.getpid(),
            "host": socket.gethostname(),
            "since": timestamp(),
            "command": " ".join(["scadles", *told(sys.argv[1:])])[:_MOST_OF_A_COMMAND],
        }
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, json.dumps(mine).encode() + b"\n", 0)

    def _told(self, holder: dict[str, Any]) -> str:
        who = "another run"
        if holder:
            who = (
                f"a run since {holder.get('since')} (process {holder.get('pid')} on {holder.get('host')}: "
                f"{holder.get('command')})"
            )
        return f"{self._run_dir} is in use by {who}: wait for its end, or choose another --out"


@contextmanager
def alone_in(run_dir: Path) -> Iterator[None]:
    """Let no other hub use a folder meanwhile; devices may, with a lock of their own.

    Raises:
        ConfigError: one does, or the folder cannot be written to.
    """
    with RunLock(run_dir, secrets.randbits(62), HUB_LOCK_FILE) as lock:
        if problem := lock.acquire():
            raise ConfigError(problem)
        if lock.notice is not None:
            print_note(lock.notice)
        yield


def told(words: Sequence[str]) -> Iterator[str]:
    """Yield the words of a command, those that are secrets by the names of their options left out.

    >>> " ".join(told(["join", "hub:29400", "--token", "5f0c", "--password=sesame", "--quiet"]))
    'join hub:29400 --token ... --password=... --quiet'
    """
    is_next = False
    for word in words:
        name, equals, _ = word.partition("=")
        told = f"{name}=..." if equals and is_secret(name) else word
        yield "..." if is_next else told
        is_next = word.startswith("-") and not equals and is_secret(name)


# a child that a user's loop forks must not keep the lock of a device that was killed
_held: weakref.WeakSet[RunLock] = weakref.WeakSet()


def _forget() -> None:
    for lock in list(_held):
        lock.release()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget)


def _try(descriptor: int, mode: int) -> bool:
    try:
        fcntl.flock(descriptor, mode | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _read(descriptor: int) -> dict[str, Any]:
    try:
        found = json.loads(os.pread(descriptor, _MOST_BYTES, 0))
    except (OSError, ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}
