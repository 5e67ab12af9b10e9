"""One connection: frames out, frames in, counted and with sizes known before memory is taken."""

from __future__ import annotations

import json
import math
import socket
import struct
from contextlib import suppress
from typing import Any

from scadles.clock import wall_seconds
from scadles.fabric.hub.frames import HEADER_BYTES, Frame, FrameError, Kind, parse

#: Wake up for less only where a timeout is set, or the connection ends.
_WHOLE = getattr(socket, "MSG_WAITALL", 0)
#: Read at once, so that the count of what has come moves on slow links.
_MOST_AT_ONCE = 1 << 18
#: ``tcpi_last_data_recv`` and ``tcpi_last_ack_recv`` in Linux's ``struct tcp_info``, milliseconds.
_LAST_HEARD = struct.Struct("=52xII")
_LINGER_S = 1.0


class ClosedError(ConnectionError):
    """The other end has closed the connection, or it broke."""


class BusyError(ClosedError):
    """The hub refuses this connection for now: trying again later helps."""


class Connection:
    """A stream of frames over a socket, which one thread at a time reads and one at a time writes.

    Args:
        sock: connected, blocking.

    Attributes:
        sent, received: bytes so far, headers included.
    """

    def __init__(self, sock: socket.socket) -> None:
        self._socket = sock
        self._header = bytearray(HEADER_BYTES)
        self.sent = 0
        self.received = 0
        with suppress(OSError):  # not for every kind of socket
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)

    @classmethod
    def open(cls, host: str, port: int, timeout_s: float) -> Connection:
        """Connect to a hub, without TLS.

        Raises:
            OSError: nobody answers within the timeout.
        """
        sock = socket.create_connection((host, port), timeout_s)
        sock.settimeout(None)
        return cls(sock)

    def fileno(self) -> int:
        """Return the descriptor, to wait for what comes; -1 once it is closed."""
        return self._socket.fileno()

    @property
    def has_unread(self) -> bool:
        """Whether bytes are here already that waiting for the descriptor would not tell of."""
        return False

    def limit(self, seconds: float | None) -> None:
        """Let every later read or write take at most so long; None lets it take any time."""
        with suppress(OSError):
            self._socket.settimeout(seconds)

    def send(self, frame: Frame, piece: Any = b"") -> None:
        """Send a frame and its piece.

        Raises:
            ClosedError: the connection is broken.
            FrameError: somebody has altered what travels.
        """
        header = frame.pack()
        rest = memoryview(piece).cast("B") if frame.length else memoryview(b"")
        try:
            self._put(header, rest)
        except (OSError, ValueError) as error:
            raise self._broken(error) from None
        self.sent += len(header) + len(rest)

    def send_text(self, kind: Kind, content: Any, *, view: int = 0, sequence: int = 0) -> None:
        """Send a message of JSON."""
        text = json.dumps(content).encode()
        self.send(Frame(kind, view=view, sequence=sequence, total=len(text), length=len(text)), text)

    def receive(self) -> Frame:
        """Return the next frame's header; its piece must be read next.

        Raises:
            ClosedError: the connection has ended.
            FrameError: what came is no frame.
        """
        self.read_into(memoryview(self._header))
        return parse(self._header)

    def receive_text(self, frame: Frame) -> Any:
        """Return the content of a message of text.

        Raises:
            FrameError: it is no JSON object.
        """
        data = bytearray(frame.length)
        self.read_into(memoryview(data))
        try:
            content = json.loads(data)
        except (ValueError, RecursionError):
            content = None
        if not isinstance(content, dict):
            raise FrameError(f"{frame.kind.name}: what it says is no JSON object")
        return content

    def read_into(self, view: memoryview) -> None:
        """Fill ``view``."""
        filled = 0
        while filled < len(view):
            try:
                count = self._take(view[filled:], min(_MOST_AT_ONCE, len(view) - filled))
            except (OSError, ValueError) as error:
                raise self._broken(error) from None
            if not count:
                raise ClosedError("the other end has closed the connection")
            filled += count
            self.received += count

    def since_data_s(self) -> float:
        """Return how long ago the last byte came in, read or not; inf where the system does not tell."""
        return self._since_heard_s()[0]

    def since_taken_s(self) -> float:
        """Return how long ago the other end's system last said that bytes have reached it; inf likewise."""
        return self._since_heard_s()[1]

    def _since_heard_s(self) -> tuple[float, float]:
        try:
            info = self._socket.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _LAST_HEARD.size)
            data_ms, taken_ms = _LAST_HEARD.unpack(info)
        except (OSError, AttributeError, struct.error):  # no TCP, or no Linux
            return math.inf, math.inf
        return data_ms / 1000, taken_ms / 1000

    def shake_hands(self) -> None:
        """Agree with the other end on how to speak, before the first frame.

        Raises:
            ClosedError: the connection has ended.
            FrameError: the other end is not trusted, or does not trust this one.
        """

    @property
    def certificate(self) -> bytes | None:
        """What the other end has shown, DER, found to be of an authority that this end trusts; None where nothing."""
        return None

    def refuse(self, why: str, *, is_final: bool = True) -> None:
        """Say why the other end is refused, and whether for good, and close so that it can still read that."""
        with suppress(ClosedError):
            self.send_text(Kind.REFUSAL, {"why": why} if is_final else {"why": why, "again": True})
        self._let_read()
        self.close()

    def close(self) -> None:
        """Close both directions; whoever reads or writes gets :class:`ClosedError`."""
        with suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)
        self._socket.close()

    def release(self) -> None:
        """Close, and let go of the descriptor: for the thread that was the last to read or write."""
        self.close()

    def _put(self, header: bytes, rest: memoryview) -> None:
        sent = self._socket.sendmsg([header, rest])
        if sent < len(header):
            self._socket.sendall(header[sent:])
            sent = len(header)
        if sent - len(header) < len(rest):
            self._socket.sendall(rest[sent - len(header) :])

    def _take(self, view: memoryview, most: int) -> int:
        return self._socket.recv_into(view, most, _WHOLE)

    def _broken(self, error: Exception) -> ClosedError | FrameError:
        """Return what an error of the socket means."""
        return ClosedError(str(error))

    def _let_read(self) -> None:
        """Wait a little until the other end has closed: unread bytes at a close would undo what was sent last."""
        give_up_s = wall_seconds() + _LINGER_S
        with suppress(OSError, ValueError):
            socket.socket.shutdown(self._socket, socket.SHUT_WR)
            while (left_s := give_up_s - wall_seconds()) > 0:
                self._socket.settimeout(left_s)
                if not socket.socket.recv(self._socket, _MOST_AT_ONCE):
                    return
