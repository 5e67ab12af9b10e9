"""The open port of a hub: whoever connects must say hello soon, and those that do not are bounded in number."""

from __future__ import annotations

import socket
from collections.abc import Callable
from contextlib import suppress
from threading import Event, Lock, Thread
from typing import Any

from scadles.errors import ConfigError, ScadlesError
from scadles.fabric.hub.connection import ClosedError, Connection
from scadles.fabric.hub.frames import FrameError, Kind
from scadles.fabric.hub.members import is_name

_HELLO_S = 10.0
_MOST_WAITING = 256

#: Given a connection and what it said, returns what serves it until it ends; raises ScadlesError where it is refused.
Welcome = Callable[[Connection, dict[str, Any]], Callable[[], None]]


class Acceptor:
    """Accepts connections, hears their hellos, and gives each a thread.

    Of those that have not said hello the oldest is closed where there are too many: one that means well says hello at
    once.

    Args:
        host, port: where to listen; port 0 takes a free one.
        welcome: judges hellos.
        say: told one line about whoever is refused.
        make: makes a connection of a socket.

    Attributes:
        address: host and port that it listens on.
        refused: connections that were turned away.

    Raises:
        ConfigError: it cannot listen there.
    """

    def __init__(
        self,
        host: str,
        port: int,
        welcome: Welcome,
        say: Callable[[str], None],
        make: Callable[[socket.socket], Connection] = Connection,
    ) -> None:
        try:
            self._listening = socket.create_server((host, port), backlog=128)
        except OSError as error:
            raise ConfigError(f"cannot listen on {host}:{port}: {error.strerror}; choose another --listen") from None
        self.address: tuple[str, int] = self._listening.getsockname()[:2]
        self.refused = 0
        self._welcome = welcome
        self._say = say
        self._make = make
        self._lock = Lock()
        self._greeting: dict[Connection, None] = {}  # in the order in which they came
        self._closed = Event()

    def start(self) -> None:
        """Begin to accept."""
        Thread(target=self._accept, daemon=True).start()

    def close(self) -> None:
        """Stop listening."""
        self._closed.set()
        with suppress(OSError):
            self._listening.shutdown(socket.SHUT_RDWR)
        self._listening.close()

    def forget(self) -> None:
        """Close the listening socket of this process alone: for one that was forked before anything was accepted."""
        self._listening.close()

    def _accept(self) -> None:
        while not self._closed.is_set():
            try:
                sock, (peer, *_) = self._listening.accept()
            except OSError:
                if self._closed.wait(0.05):  # else out of descriptors, say
                    return
                continue
            try:
                connection = self._make(sock)
            except ClosedError:  # it has gone already
                continue
            with self._lock:
                self._greeting[connection] = None
                oldest = next(iter(self._greeting)) if len(self._greeting) > _MOST_WAITING else None
            if oldest is not None:
                oldest.close()
            try:
                Thread(target=self._greet, args=(connection, str(peer)), daemon=True).start()
            except RuntimeError as error:  # out of threads
                self._done(connection)
                self._turn_away(connection, str(peer), str(error))

    def _greet(self, connection: Connection, peer: str) -> None:
        """Hear who is there, then serve the connection until it ends."""
        who = peer
        try:
            connection.limit(_HELLO_S)
            connection.shake_hands()
            frame = connection.receive()
            if frame.kind is not Kind.HELLO:
                raise FrameError(f"it begins with {frame.kind.name}, not with a hello")
            hello = connection.receive_text(frame)
            if is_name(hello.get("name")):
                who = f"{hello['name']} ({peer})"
            serve = self._welcome(connection, hello)
            connection.limit(None)
        except (ScadlesError, ClosedError) as error:
            self._turn_away(connection, who, str(error))
            return
        finally:
            self._done(connection)
        serve()

    def _done(self, connection: Connection) -> None:
        with self._lock:
            self._greeting.pop(connection, None)

    def _turn_away(self, connection: Connection, peer: str, why: str) -> None:
        with self._lock:
            self.refused += 1
        self._say(f"{peer} was refused: {why}")
        connection.refuse(why)
