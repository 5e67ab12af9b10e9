"""A device's control connection: one thread owns it, and says on it what others wish to have said."""

from __future__ import annotations

import selectors
import socket
from collections.abc import Callable
from contextlib import suppress
from queue import Empty, SimpleQueue
from typing import Any

from scadles.clock import wall_seconds
from scadles.fabric.hub.connection import ClosedError, Connection
from scadles.fabric.hub.frames import Kind
from scadles.fabric.hub.members import PULSE_S, Pulse

#: A text is short: one whose end has not come by then will not come.
_TEXT_S = 10.0
#: Between two signs of life that are not due: a hub reads about a hundred texts a second from each device.
_LEAST_S = 0.02


class ControlLine:
    """Signs of life of both ends, and what a device wishes.

    A TLS connection must not be read and written by two threads at once, so that only the one in :meth:`serve` touches
    it; the others leave word and wake it up.

    Args:
        connection: over which the hub has said welcome.
        news: returns what the hub is to know with each sign of life.
        moves: says whether bytes come from the hub or reach it: on a thin link signs of life queue up behind them.
    """

    def __init__(self, connection: Connection, news: Callable[[], dict[str, Any]], moves: Callable[[], bool]) -> None:
        self._connection = connection
        self._news = news
        self._moves = moves
        self._words: SimpleQueue[tuple[Kind, dict[str, Any]]] = SimpleQueue()
        self._bell, self._ear = socket.socketpair()
        self._bell.settimeout(0.0)
        self._ear.settimeout(0.0)
        self._due_s = self._spoke_s = 0.0

    def say(self, kind: Kind, content: dict[str, Any]) -> None:
        """Leave word for the hub; what comes after the end is lost."""
        self._words.put((kind, content))
        self.wake()

    def pulse_now(self) -> None:
        """Give a sign of life soon, without waiting until it is due."""
        self._due_s = min(self._due_s, self._spoke_s + _LEAST_S)
        self.wake()

    def wake(self) -> None:
        """Let :meth:`serve` look at once whether it is over."""
        with suppress(OSError):  # it rings already, or nobody listens any more
            self._bell.send(b"\0")

    def serve(self, is_over: Callable[[], bool]) -> None:
        """Speak and listen until it is over.

        Raises:
            ClosedError: the connection has ended, or the hub is silent.
            FrameError: the hub sends what cannot be.
        """
        pulse = Pulse(wall_seconds())
        self._connection.limit(_TEXT_S)
        with selectors.DefaultSelector() as selector:
            try:
                selector.register(self._connection, selectors.EVENT_READ)
            except ValueError:
                raise ClosedError("the connection is closed") from None
            selector.register(self._ear, selectors.EVENT_READ)
            while not is_over():
                self._speak()
                wait_s = 0.0 if self._connection.has_unread else max(0.0, self._due_s - wall_seconds())
                ready = [key.fileobj for key, _ in selector.select(wait_s)]
                if self._ear in ready:
                    with suppress(OSError):
                        self._ear.recv(1 << 10)
                if self._connection in ready or self._connection.has_unread:
                    self._connection.receive_text(self._connection.receive())
                    pulse.heard(wall_seconds())
                elif pulse.is_gone(wall_seconds()) and not self._moves():
                    raise ClosedError(f"silent for {pulse.silent_s(wall_seconds()):.1f} s")

    def close(self) -> None:
        """Let go of what wakes it up, when nobody serves it any more."""
        self._bell.close()
        self._ear.close()

    def _speak(self) -> None:
        """Say what others wish to have said, and give a sign of life if it is due."""
        with suppress(Empty):
            while True:
                self._connection.send_text(*self._words.get_nowait())
        if (now_s := wall_seconds()) >= self._due_s:
            self._spoke_s, self._due_s = now_s, now_s + PULSE_S
            self._connection.send_text(Kind.PULSE, self._news())
