"""A device's connections to its hub, from one welcome to their end, and the threads that serve them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack, suppress
from functools import partial
from queue import SimpleQueue
from threading import Event, Thread
from typing import Any, Protocol

from scadles.errors import FabricError
from scadles.fabric.hub.answers import checked_welcome
from scadles.fabric.hub.connection import ClosedError, Connection
from scadles.fabric.hub.control import ControlLine
from scadles.fabric.hub.frames import PIECE_BYTES, FalseFrameError, Frame, FrameError, Kind, pieces
from scadles.fabric.hub.hello import LONGEST_CONNECT_S, say_hello
from scadles.fabric.hub.members import LEAST_S
from scadles.security import DeviceCredentials


class Receiving(Protocol):
    """What becomes of what a hub sends; called by a thread of the session."""

    def hear_of_view(self, session: Session, content: dict[str, Any]) -> None:
        """Take note of a new view."""

    def take_piece(self, session: Session, frame: Frame) -> None:
        """Read the piece that follows a header from ``session.down``."""

    def is_over(self, view: int) -> bool:
        """Whether messages of a view need not be sent any more."""

    def news(self) -> dict[str, Any]:
        """Return what the hub is to know with each sign of life."""

    def distrust(self, why: str) -> None:
        """Take note that the hub says what no hub says, before the session ends for it."""

    def end(self) -> None:
        """Take note that the session has ended."""


class Session:
    """Three connections to a hub: for signs of life, for what goes up, and for what comes down.

    Args:
        address: of the hub.
        who: what is said of this device in its hello.
        receiving: what becomes of what the hub sends.
        credentials: what is shown to the hub over TLS; None speaks plain text.
        connect_s: how long it may take until the hub answers for the first time.

    Attributes:
        welcome: what the hub answered.
        over: set once the session has ended.
        why: it has.

    Raises:
        OSError: nobody answers, or a connection broke.
        FabricError: the hub refuses this device.
    """

    def __init__(
        self,
        address: tuple[str, int],
        who: dict[str, Any],
        receiving: Receiving,
        credentials: DeviceCredentials | None,
        connect_s: float,
    ) -> None:
        self._address = address
        self._name = str(who["name"])
        self._receiving = receiving
        self._credentials = credentials
        self._outgoing: SimpleQueue[Any] = SimpleQueue()
        self._sent_beside = 0
        self.welcome: dict[str, Any] = {}
        self.over = Event()
        self.why = ""
        with ExitStack() as failing:

            def connect(limit_s: float = LONGEST_CONNECT_S, **hello: Any) -> Connection:
                connection = self._connect(hello, limit_s)
                failing.callback(connection.close)
                return connection

            self.control = connect(connect_s, role="control", **who)
            self.welcome = checked_welcome(self.welcome)
            self.up = connect(role="up", session=self.welcome["session"])
            self.down = connect(role="down", session=self.welcome["session"])
            failing.pop_all()
        self._giving = self.up
        self._line = ControlLine(self.control, receiving.news, self._moves)

    def start(self) -> None:
        """Begin to serve the connections."""
        for work in (self._send_up, self._take_down, self._talk):
            Thread(target=work, daemon=True).start()

    @property
    def sent(self) -> int:
        """Bytes that have left, headers included."""
        return self._sent_beside + self.control.sent + self.up.sent + self.down.sent

    def send(self, frame: Frame, content: memoryview) -> None:
        """Send a message up, in pieces, when those before it are sent."""
        self._outgoing.put((frame, content))

    def send_note(self, content: dict[str, Any], view: int, sequence: int) -> None:
        """Send a note up, when the messages before it are sent."""
        self._outgoing.put((Frame(Kind.NOTE, view=view, sequence=sequence), content))

    def waits(self) -> bool:
        """Whether messages have yet to be sent."""
        return self._outgoing.qsize() > 0

    def say(self, kind: Kind, content: dict[str, Any]) -> None:
        """Tell the hub something of this device beside what goes up; it is lost where the session ends."""
        self._line.say(kind, content)

    def pulse_now(self) -> None:
        """Give a sign of life without waiting until it is due."""
        self._line.pulse_now()

    def give(self, views: Sequence[int], make: Callable[[], memoryview]) -> None:
        """Send a state over connections of its own, in a thread; where one breaks, the hub sees to those who wait.

        Args:
            views: with which its receivers came.
            make: makes the bytes, in that thread.
        """

        def work() -> None:
            content = make()
            for view in views:
                try:
                    connection = self._connect({"role": "give", "session": self.welcome["session"], "view": view})
                except (OSError, FabricError):  # nobody waits for it any more, or the hub is lost
                    continue
                self._giving = connection
                head = Frame(Kind.STATE, view=view, total=len(content))
                with suppress(ClosedError, FrameError):
                    _send_in_pieces(connection, head, content, self.over.is_set)
                self._sent_beside += connection.sent
                connection.release()

        Thread(target=work, daemon=True).start()

    def close(self, why: str) -> None:
        """End the session."""
        if not self.over.is_set():
            self.why = why
            self.over.set()
        for connection in (self.control, self.up, self.down):
            connection.close()
        self._line.wake()
        self._outgoing.put(None)

    def _connect(self, hello: dict[str, Any], limit_s: float = LONGEST_CONNECT_S) -> Connection:
        """Open a connection, and say hello; the answer to the first one is the welcome."""
        shown = self._credentials
        context, hub_name = (None, None) if shown is None else (shown.context, shown.hub_name)
        connection, answer = say_hello(self._address, self._name, hello, context, hub_name, limit_s)
        if hello["role"] == "control":
            self.welcome = answer
        return connection

    def _send_up(self) -> None:
        """Send what is queued, as long as its view lasts."""
        try:
            while (item := self._outgoing.get()) is not None:
                frame, content = item
                if frame.kind is Kind.NOTE:
                    self.up.send_text(Kind.NOTE, content, view=frame.view, sequence=frame.sequence)
                else:
                    _send_in_pieces(self.up, frame, content, partial(self._receiving.is_over, frame.view))
        except (ClosedError, FrameError) as error:
            self._end(error)
        finally:
            self.up.release()

    def _take_down(self) -> None:
        """Take what the hub sends until the connection ends."""
        try:
            while True:
                frame = self.down.receive()
                if frame.kind is Kind.VIEW:
                    self._receiving.hear_of_view(self, self.down.receive_text(frame))
                else:
                    self._receiving.take_piece(self, frame)
        except (ClosedError, FrameError) as error:
            self._end(error)
        finally:
            self.down.release()

    def _talk(self) -> None:
        """Give signs of life, look for those of the hub, and pass on what others wish to say."""
        try:
            self._line.serve(self.over.is_set)
        except (ClosedError, FrameError) as error:
            self._end(error)
        finally:
            self.control.release()
            self._line.close()

    def _moves(self) -> bool:
        """Whether bytes come from the hub or reach it: on a thin link signs of life queue up behind them."""
        return min(self.down.since_data_s(), self.up.since_taken_s(), self._giving.since_taken_s()) <= LEAST_S

    def _end(self, error: Exception) -> None:
        if isinstance(error, FalseFrameError):
            self._receiving.distrust(str(error))
        self.close(str(error))
        self._receiving.end()


def _send_in_pieces(connection: Connection, head: Frame, content: memoryview, stop: Callable[[], bool]) -> None:
    for begin in pieces(head.total):
        if stop():
            return
        length = min(PIECE_BYTES, head.total - begin)
        connection.send(head._replace(offset=begin, length=length), content[begin : begin + length])
