"""The open port of a hub: whoever connects must say hello soon, and strangers are bounded in number, rate and size."""

from __future__ import annotations

import socket
import struct
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from threading import Event, Lock, Thread
from typing import Any

from scadles.clock import wall_seconds
from scadles.errors import ConfigError, ScadlesError
from scadles.fabric.hub.connection import BusyError, ClosedError, Connection
from scadles.fabric.hub.frames import FrameError, Kind
from scadles.fabric.hub.members import is_name
from scadles.fabric.hub.refusals import Refusals
from scadles.security import Bucket, Limits, Rate, origin

#: A handshake costs a hub about a millisecond of CPU time: what all strangers together cost in the long run is 5 % of
#: a core, and each address by itself 2 %. A fleet behind one address may come at once.
_OF_ONE_ADDRESS = Rate(hz=20.0, burst=512)
_OF_STRANGERS = Rate(hz=50.0, burst=1024)
#: Connections that are closed unheard; those beyond wait in the backlog of the kernel, or never get there.
_UNHEARD = Rate(hz=1000.0, burst=1000)
_BACKLOG = 1024
#: For each read of a hello, and for all of it.
_READ_S, _HELLO_S = 10.0, 30.0
_MOST_WAITING = 256
_MOST_HELLO_BYTES = 1 << 14
_LOOK_S = 1.0
#: Closes with a reset, of which no memory remains in the kernel.
_AT_ONCE = struct.pack("ii", 1, 0)

_TOO_OFTEN = "too many connections in too short a time"
_NO_HELLO = "it has not said hello"
_OWN_FAULT = "the hub cannot read or write its list of devices; whoever looks after it is told why"

#: Given a connection and what it said, returns what serves it until it ends, None where all is said; raises
#: ScadlesError where it is refused.
Welcome = Callable[[Connection, dict[str, Any]], Callable[[], None] | None]


@dataclass(eq=False)
class _Greeting:
    """A connection whose hello has yet to be answered.

    Attributes:
        connection, address: which, and from where.
        since_s: when it was accepted.
        why: it was closed by this end; empty where it was not.
    """

    connection: Connection
    address: str
    since_s: float
    why: str = ""


class Acceptor:
    """Accepts connections, hears their hellos, and gives each a thread.

    A stranger costs little: connections are heard so often only, of one address, and of all addresses together from
    which nobody has been welcome yet; those beyond that are closed at once. Of those that have not said hello a bounded
    number is kept, each for a bounded time. Where there are too many the oldest of the address that has most is closed,
    so that nobody can push out those of others. A hello is short.

    Args:
        host, port: where to listen; port 0 takes a free one.
        welcome: judges hellos.
        say: told one line about whoever is refused, of very many one a minute.
        make: makes a connection of a socket.

    Attributes:
        address: host and port that it listens on.

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
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        both = host == "::" and socket.has_dualstack_ipv6()  # IPv4 reaches it too
        try:
            self._listening = socket.create_server((host, port), family=family, backlog=_BACKLOG, dualstack_ipv6=both)
        except OSError as error:
            raise ConfigError(f"cannot listen on {host}:{port}: {error.strerror}; choose another --listen") from None
        self._listening.settimeout(_LOOK_S)
        self.address: tuple[str, int] = self._listening.getsockname()[:2]
        self._welcome = welcome
        self._make = make
        self._refusals = Refusals(say)
        self._limits = Limits(_OF_ONE_ADDRESS, _OF_STRANGERS)
        self._unheard = Bucket(_UNHEARD, wall_seconds())
        self._lock = Lock()
        self._greetings: dict[_Greeting, None] = {}  # in the order in which they came
        self._closed = Event()

    @property
    def refused(self) -> int:
        """Connections that were turned away."""
        return self._refusals.count

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
        look_at_s = wall_seconds()
        while not self._closed.is_set():
            if wall_seconds() >= look_at_s:
                look_at_s = wall_seconds() + _LOOK_S
                self._close_late()
                self._refusals.tell()
            try:
                sock, (address, *_) = self._listening.accept()
            except TimeoutError:
                continue
            except OSError:
                self._closed.wait(0.05)  # out of descriptors, say
                continue
            who = origin(address)
            if self._limits.take(who, wall_seconds()):
                self._begin(sock, who)
            else:
                self._close_unheard(sock, who)

    def _begin(self, sock: socket.socket, address: str) -> None:
        """Let a thread hear who is there."""
        try:
            greeting = _Greeting(self._make(sock), address, wall_seconds())
        except ClosedError:  # it has gone already
            return
        with self._lock:
            self._greetings[greeting] = None
        self._make_room()
        try:
            Thread(target=self._greet, args=(greeting,), daemon=True).start()
        except RuntimeError as error:  # out of threads
            self._done(greeting)
            self._turn_away(greeting, str(error), tell=BusyError(str(error)))

    def _close_unheard(self, sock: socket.socket, address: str) -> None:
        with suppress(OSError):
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _AT_ONCE)
        sock.close()
        self._refusals.add(address, _TOO_OFTEN)
        while not self._unheard.take(wall_seconds()):
            self._closed.wait(self._unheard.wait_s(wall_seconds()))

    def _make_room(self) -> None:
        """Close the oldest greeting of the address that has most of them, where there are too many."""
        with self._lock:
            if len(self._greetings) <= _MOST_WAITING:
                return
            [(most, many)] = Counter(one.address for one in self._greetings).most_common(1)
            oldest = next(one for one in self._greetings if one.address == most)
            oldest.why = f"{_NO_HELLO}, and {many} connections of its address have not"
            del self._greetings[oldest]
        oldest.connection.close()

    def _close_late(self) -> None:
        """Close connections that take too long to say hello."""
        with self._lock:
            late = [one for one in self._greetings if wall_seconds() - one.since_s > _HELLO_S]
            for one in late:
                one.why = one.why or f"{_NO_HELLO} within {_HELLO_S:g} s"
                del self._greetings[one]
        for one in late:
            one.connection.close()

    def _greet(self, greeting: _Greeting) -> None:
        """Hear who is there, then serve the connection until it ends."""
        try:
            serve = self._hear(greeting)
        finally:
            self._done(greeting)
        if serve is not None:
            serve()

    def _hear(self, greeting: _Greeting) -> Callable[[], None] | None:
        """Hear a hello, and return what serves the connection; None where it is refused, or all is said."""
        connection, who = greeting.connection, ""
        try:
            connection.limit(_READ_S)
            connection.shake_hands()
            frame = connection.receive()
            if frame.kind is not Kind.HELLO:
                raise FrameError(f"it begins with {frame.kind.name}, not with a hello")
            if frame.length > _MOST_HELLO_BYTES:
                raise FrameError(f"a hello of {frame.length} bytes, at most {_MOST_HELLO_BYTES} are agreed")
            hello = connection.receive_text(frame)
            if is_name(hello.get("name")):
                who = f"{hello['name']} ({greeting.address})"
            serve = self._welcome(connection, hello)
        except ConfigError as error:  # of files, whose names are nobody else's business
            self._turn_away(greeting, str(error), who, tell=BusyError(_OWN_FAULT))
            return None
        except (ScadlesError, ClosedError) as error:
            self._turn_away(greeting, str(error), who, tell=error)
            return None
        if serve is None:
            connection.release()
            return None
        self._limits.trust(greeting.address)
        connection.limit(None)
        return serve

    def _done(self, greeting: _Greeting) -> None:
        with self._lock:
            self._greetings.pop(greeting, None)

    def _turn_away(self, greeting: _Greeting, why: str, who: str = "", tell: Exception | None = None) -> None:
        """Refuse a connection, and wait a little until the other end has heard it.

        Args:
            greeting: which.
            why: as it is said here.
            who: what it calls itself, with its address.
            tell: what it is told; None for the same.
        """
        self._refusals.add(greeting.address, greeting.why or why, who)
        greeting.connection.refuse(str(tell or why), is_final=not isinstance(tell, BusyError))
