"""Files that somebody else may have written are read whole, within a bound; ours are brought to the disk."""

from __future__ import annotations

import errno
import os
import stat
from contextlib import suppress
from io import BufferedWriter, FileIO
from pathlib import Path
from typing import BinaryIO, Literal

#: The way on where a file cannot be written.
FREE_SPACE = "free some space and use --resume (at a hub: the same command again)"

_PRIVATE = 0o600
_KINDS = (
    (stat.S_ISDIR, "a folder, not a file"),
    (stat.S_ISFIFO, "a named pipe, not a file"),
    (stat.S_ISSOCK, "a socket, not a file"),
)


def open_file(path: Path) -> BinaryIO:
    """Open a file for reading; what is no file, such as a named pipe, is refused and never waited for.

    Raises:
        OSError: ``strerror`` says what is wrong in words.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except ValueError:
        raise OSError(errno.EINVAL, "no file has such a name") from None
    mode = os.fstat(descriptor).st_mode
    if not stat.S_ISREG(mode):
        os.close(descriptor)
        raise OSError(errno.EINVAL, next((name for is_one, name in _KINDS if is_one(mode)), "a device, not a file"))
    return os.fdopen(descriptor, "rb")


def refuse_pipe(path: Path) -> None:
    """Raise OSError where a file that is to be written is a named pipe, whose opening waits for a reader."""
    if path.is_fifo():
        raise OSError(errno.EINVAL, "a named pipe, not a file")


def read_file(path: Path, most_bytes: int) -> bytes:
    """Return what is in a file.

    Raises:
        OSError: as of :func:`open_file`, or the file is larger than ``most_bytes``.
    """
    with open_file(path) as file:
        content = file.read(most_bytes + 1)
    if len(content) > most_bytes:
        raise OSError(errno.EFBIG, f"more than {most_bytes:,} bytes, which is more than such a file ever needs")
    return content


def open_private(path: Path, mode: Literal["w", "a"]) -> BinaryIO:
    """Open a file for writing that only its owner can read, whatever the umask, and whoever could until now."""
    return BufferedWriter(FileIO(path, mode, opener=private_opener))


def private_opener(path: str, flags: int) -> int:
    """Open a file as :func:`open_private` does, for what takes an ``opener``."""
    descriptor = os.open(path, flags, _PRIVATE)
    with suppress(OSError):  # a file system without modes
        os.fchmod(descriptor, _PRIVATE)
    return descriptor


def sync(path: Path) -> None:
    """Make sure that what was written to a file or folder is on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
