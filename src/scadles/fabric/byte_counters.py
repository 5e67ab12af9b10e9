"""Bytes that really left, read from the kernel's own counters of a process's TCP connections."""

from __future__ import annotations

import socket
import struct
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

_TCP_INFO_BYTES_SENT = 200  # offset of tcpi_bytes_sent in struct tcp_info (Linux 4.19 and later)
_FD_DIR = Path("/proc/self/fd")


class SocketCounter:
    """Counts what this process sends over the TCP connections opened between :meth:`start` and :meth:`watch`.

    Retransmissions count, TCP/IP headers do not. Connections that others open in between would be counted as well.
    """

    def __init__(self) -> None:
        self._before: set[str] = set()
        self._watched: dict[str, int] = {}
        self._sent: dict[str, int] = {}

    @staticmethod
    def available() -> bool:
        """Whether this system has the counters."""
        return sys.platform == "linux" and _FD_DIR.is_dir()

    def start(self) -> None:
        """Remember which connections are none of ours."""
        self._before = {name for _, name in _open_sockets()}

    def watch(self) -> None:
        """Watch every connection opened since :meth:`start`."""
        self._watched = {name: fd for fd, name in _open_sockets() if name not in self._before}

    def bytes_sent(self) -> int:
        """Return the bytes sent since the watched connections were opened; a closed one counts as last seen."""
        still_open = {name for _, name in _open_sockets()}
        for name in self._watched.keys() & still_open:
            with suppress(OSError):  # the transport may close it at any moment
                self._sent[name] = _bytes_sent(self._watched[name])
        return sum(self._sent.values())


def _open_sockets() -> Iterator[tuple[int, str]]:
    """Yield file descriptor and name (``socket:[inode]``) of every socket of this process."""
    for entry in _FD_DIR.iterdir():
        try:
            name = entry.readlink().name
        except OSError:  # the descriptor that listed the folder is closed again
            continue
        if name.startswith("socket:"):
            yield int(entry.name), name


def _bytes_sent(fd: int) -> int:
    connection = socket.socket(fileno=fd)
    try:
        if connection.type != socket.SOCK_STREAM or connection.family not in (socket.AF_INET, socket.AF_INET6):
            return 0
        info = connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _TCP_INFO_BYTES_SENT + 8)
    finally:
        connection.detach()  # it stays the transport's
    return int(struct.unpack_from("=Q", info, _TCP_INFO_BYTES_SENT)[0]) if len(info) > _TCP_INFO_BYTES_SENT else 0
