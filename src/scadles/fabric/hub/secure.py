"""A connection over TLS."""

from __future__ import annotations

import json
import socket
import ssl
from contextlib import suppress
from typing import Any

from scadles.fabric.hub.connection import ClosedError, Connection
from scadles.fabric.hub.frames import Frame, FrameError, Kind
from scadles.security import in_plain_words
from scadles.security.authority import HUB_NAME

_RECORD_BYTES = 1 << 14
_FIRST_BYTE = b"\x16"  # of a handshake
_SPEAKS_PLAIN = "this hub speaks TLS: enrol this device with --token and --ca-hash, and leave --insecure out"


class SecureConnection(Connection):
    """A stream of frames over TLS.

    One thread at a time may use it, for reading or writing; once hands are shaken, one may read while nobody writes and
    the other way round. :meth:`close` may be called by any: it ends the connection, but keeps its descriptor until
    :meth:`release`, or until nobody refers to it any more: OpenSSL in another thread would go on with whatever has that
    number by then.

    Args:
        sock: connected.
        context: with which TLS is spoken.
        at_hub: whether this is the hub's end.
        hub_name: on a device, what the hub's certificate must be for.
        external: whether a device's certificate is of an authority that exists already, for messages.

    Raises:
        OSError: the connection has broken already.
    """

    def __init__(
        self,
        sock: socket.socket,
        context: ssl.SSLContext,
        *,
        at_hub: bool,
        hub_name: str = HUB_NAME,
        external: bool = False,
    ) -> None:
        name = None if at_hub else hub_name
        try:
            sock.getpeername()  # of a connection that is over already wrap_socket would leave a socket open
            secure = context.wrap_socket(sock, server_side=at_hub, do_handshake_on_connect=False, server_hostname=name)
        except (OSError, ValueError) as error:
            sock.close()
            raise ClosedError(str(error)) from None
        super().__init__(secure)
        self._secure = secure
        self._at_hub, self._external = at_hub, external
        self._has_shaken = False

    def __del__(self) -> None:
        if secure := getattr(self, "_secure", None):
            secure.close()

    @property
    def has_unread(self) -> bool:
        return self._secure.pending() > 0

    @property
    def certificate(self) -> bytes | None:
        return self._secure.getpeercert(binary_form=True)

    def shake_hands(self) -> None:
        try:
            first = socket.socket.recv(self._secure, 1, socket.MSG_PEEK) if self._at_hub else _FIRST_BYTE
            if not first:
                raise ClosedError("the other end has closed the connection")
            if first != _FIRST_BYTE:
                self._answer_plainly()
                raise FrameError("it does not speak TLS, and this hub does")
            self._secure.do_handshake()
        except ssl.SSLError as error:
            raise self._broken(error) from None
        except (OSError, ValueError) as error:
            raise ClosedError(str(error)) from None
        self._has_shaken = True

    def refuse(self, why: str, *, is_final: bool = True) -> None:
        if self._has_shaken:
            super().refuse(why, is_final=is_final)
        else:  # OpenSSL has said what there was to say
            self._let_read()
            self.close()

    def close(self) -> None:
        with suppress(OSError):  # SSLSocket's own shutdown would let other threads go on in plain text
            socket.socket.shutdown(self._secure, socket.SHUT_RDWR)

    def release(self) -> None:
        self.close()
        self._secure.close()

    def _put(self, header: bytes, rest: memoryview) -> None:
        begin = _RECORD_BYTES - len(header)
        self._secure.sendall(header + bytes(rest[:begin]))  # a header alone would be a record, and a packet, of its own
        if len(rest) > begin:
            self._secure.sendall(rest[begin:])

    def _take(self, view: memoryview, most: int) -> int:
        return self._secure.recv_into(view, most)

    def _broken(self, error: Exception) -> ClosedError | FrameError:
        if not isinstance(error, ssl.SSLError) or isinstance(error, (ssl.SSLEOFError, ssl.SSLZeroReturnError)):
            return ClosedError(str(error))
        return FrameError(in_plain_words(error, at_hub=self._at_hub, external=self._external))

    def _answer_plainly(self) -> None:
        """Tell a device that speaks without TLS what is wrong; there is nothing secret in it."""
        text = json.dumps({"why": _SPEAKS_PLAIN}).encode()
        head: Any = Frame(Kind.REFUSAL, total=len(text), length=len(text)).pack()
        with suppress(OSError):
            socket.socket.sendall(self._secure, head + text)
