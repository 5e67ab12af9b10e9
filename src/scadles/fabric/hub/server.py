"""The hub: one open port, to which every device connects, and what it does with what they send.

Threads: one that accepts, one that looks for silent devices, one for the journal, and for each device one that reads
what it sends up, one that writes what goes down to it, and one that answers its signs of life; one more while a device
gives its state to others. A lock guards who is there; sums are added up outside of it.
"""

from __future__ import annotations

import json
import socket
from collections.abc import Callable
from contextlib import suppress
from hashlib import sha256
from threading import Event, Thread
from typing import Any

from scadles.clock import wall_seconds
from scadles.fabric.hub.acceptor import Acceptor
from scadles.fabric.hub.collectives import CheckPiece, Fold
from scadles.fabric.hub.connection import ClosedError, Connection
from scadles.fabric.hub.dispatcher import Dispatcher
from scadles.fabric.hub.frames import COLLECTIVES, Frame, FrameError, Kind
from scadles.fabric.hub.handover import HandOver
from scadles.fabric.hub.hello import is_loopback
from scadles.fabric.hub.journal import Journal
from scadles.fabric.hub.members import MOST_NAME, PULSE_S, Member, reason_of
from scadles.fabric.hub.reception import Reception
from scadles.fabric.hub.rooms import Rooms
from scadles.fabric.hub.secure import SecureConnection
from scadles.fabric.hub.state import HubState, state_of
from scadles.fabric.hub.views import Views
from scadles.fabric.hub.watch import Watch
from scadles.security import Authenticator, Bucket, Rate

_MOST_NOTE_BYTES = 1 << 16
_FROM_DEVICES = frozenset({Kind.READY, Kind.PULSE, Kind.GOODBYE})
_LINGER_S = 30.0
#: What is read from a control connection; a device has something to say ten times a second.
_TEXTS = Rate(hz=100.0, burst=200)


class Hub:
    """Adds up what devices send, and sends the sum to all of them.

    Who takes part is decided by :class:`.Views`.

    Args:
        host, port: where to listen; port 0 takes a free one.
        seats: how many devices there may be.
        least: how many must be there for a step.
        deadline_s: how long a device for which others wait may send nothing and gather nothing.
        journal: says what the run is called, and keeps what must outlive this process; None keeps nothing.
        settings: what a device is told of the run when it joins.
        fold: makes one message for everybody of all devices', for :meth:`.HubFabric.fold`; called by one thread at a
            time for each step.
        check: looks at what devices say of themselves at the end of a step's sum, before it is added.
        say: told one line about whoever comes, goes or is refused.
        guard: judges who may take part; connections are TLS then. None lets in whoever comes, in plain text.

    Attributes:
        address: host and port that it listens on.

    Raises:
        ConfigError: it cannot listen there.
    """

    def __init__(
        self,
        host: str,
        port: int,
        seats: int,
        *,
        least: int = 1,
        deadline_s: float = 120.0,
        journal: Journal | None = None,
        settings: dict[str, Any] | None = None,
        fold: Fold | None = None,
        check: CheckPiece = lambda *_: "",
        say: Callable[[str], None] = lambda _: None,
        guard: Authenticator | None = None,
    ) -> None:
        self._guard = guard
        self._acceptor = Acceptor(host, port, self._welcome, say, self._make_connection)
        self.address = self._acceptor.address
        self._journal = journal or Journal()
        mark = sha256(json.dumps(settings or {}, sort_keys=True).encode()).hexdigest()
        self._views = Views(seats, least, self._journal, mark, say)
        told = {
            "run": self._journal.run,
            "settings": settings or {},
            "insecure": guard is None and not is_loopback(host),
        }
        self._reception = Reception(self._views, told, guard)
        self._dispatcher = Dispatcher(self._views, fold, check)
        self._watch = Watch(self._views, deadline_s)
        self._lock = self._views.lock
        self._rooms = Rooms()
        self._refused = 0
        self._closed = Event()

    def start(self) -> None:
        """Begin to answer."""
        self._acceptor.start()
        for work in (self._look_after, self._keep_journal):
            Thread(target=work, daemon=True).start()

    def close(self) -> None:
        """Stop listening and close all connections."""
        self._closed.set()
        self._acceptor.close()
        with self._lock:
            self._views.closed = True
            members = list(self._views.members.values())
        for member in members:
            for connection in member.connections():
                connection.close()
            member.outbox.put(None)

    def forget(self) -> None:
        """Close the listening socket of this process alone: for one that was forked before the hub began to answer."""
        self._acceptor.forget()

    def need(self, least: int) -> None:
        """Let a step take so many devices from now on."""
        with self._lock:
            if least != self._views.least:
                self._views.least = least
                self._views.begin_anew()

    @property
    def refused(self) -> int:
        """Connections that were turned away, or ended for what they sent."""
        return self._refused + self._acceptor.refused + self._dispatcher.refused

    @property
    def ended_by(self) -> str:
        """Why the run ended, as the first device said that came to its end; empty before."""
        return self._views.ended_by

    @property
    def is_over(self) -> bool:
        """Whether the run has ended and all devices have left, or are not heard of any more."""
        views = self._views
        with self._lock:
            if not views.ended_by or views.members:
                return False
            return not views.lost or wall_seconds() - views.since_s > _LINGER_S

    def members(self) -> dict[int, str]:
        """Return who takes part now, name by seat."""
        with self._lock:
            return {seat: self._views.members[seat].name for seat in self._views.here}

    def state(self) -> HubState:
        """Return how things are."""
        with self._lock:
            return state_of(self._views, self._watch.idle_s, self.refused)

    def _make_connection(self, sock: socket.socket) -> Connection:
        if self._guard is None:
            return Connection(sock)
        return SecureConnection(sock, self._guard.context, at_hub=True)

    def _welcome(self, connection: Connection, hello: dict[str, Any]) -> Callable[[], None] | None:
        found = self._reception.answer(connection, hello)
        if isinstance(found, HandOver):
            return lambda: self._hand_over(found, connection)
        if found is None:
            return None
        serve = {found.control: self._answer, found.up: self._read, found.down: self._write}[connection]
        return lambda: serve(found)

    def _answer(self, member: Member) -> None:
        """Hear a device's signs of life and wishes until its control connection ends."""
        control, texts = member.control, Bucket(_TEXTS, wall_seconds())
        why = "its connection ended"
        try:
            while not member.is_gone:
                while not texts.take(wall_seconds()):  # what floods waits on the device
                    self._closed.wait(texts.wait_s(wall_seconds()))
                frame = control.receive()
                if frame.kind not in _FROM_DEVICES:
                    raise FrameError(f"{frame.kind.name} on a control connection")
                content = control.receive_text(frame)
                with self._lock:
                    member.pulse.heard(wall_seconds())
                    if frame.kind is Kind.READY:
                        self._become_ready(member, content)
                    elif frame.kind is Kind.GOODBYE:
                        failure = reason_of(content.get("failure", ""))
                        why = f"it has failed: {failure}" if failure else "it has said goodbye"
                        self._views.goodbye(member, reason_of(content.get("ended_by", ""))[:MOST_NAME])
                        break
                    else:
                        self._hear_pulse(member, content)
                if frame.kind is Kind.PULSE:
                    control.send_text(Kind.PULSE, {})
        except ClosedError:
            pass
        except FrameError as error:
            self._refuse(member, str(error))
        self._leave(member, why)
        control.release()

    def _become_ready(self, member: Member, content: dict[str, Any]) -> None:
        step = content.get("step")
        if not isinstance(step, int) or member.up is None or member.down is None:
            raise FrameError("READY without its step, or before all its connections are there")
        self._views.ready(member, step)

    def _hear_pulse(self, member: Member, content: dict[str, Any]) -> None:
        member.moves = content.get("moves")
        step = content.get("step")
        if member.follows and member.has_state and isinstance(step, int):
            member.follow_up(step, self._journal.newest)

    def _read(self, member: Member) -> None:
        """Take what a device sends up until the connection ends."""
        up, why = member.up or member.control, "its connection ended"
        try:
            while not member.is_gone:
                frame = up.receive()
                if frame.kind is Kind.NOTE:
                    self._note(member, frame, up.receive_text(frame))
                    continue
                if frame.kind not in COLLECTIVES:
                    raise FrameError(f"{frame.kind.name} among the messages of collectives")
                room = self._rooms.take()
                up.read_into(room[: frame.length])
                self._dispatcher.bring(member, frame, room)
                del room
        except ClosedError:
            pass
        except FrameError as error:
            self._refuse(member, str(error))
        self._leave(member, why)
        up.release()

    def _hand_over(self, handover: HandOver, connection: Connection) -> None:
        """Take the state that a device gives, and pass it on."""
        handover.source.giving = connection
        why = "its connection ended"
        try:
            while not handover.is_whole:
                frame = connection.receive()
                room = self._rooms.take()
                connection.read_into(room[: frame.length])
                handover.bring(frame, room)
                del room
        except ClosedError:
            pass
        except FrameError as error:
            why = str(error)
            self._refuse(handover.source, why)
        connection.release()
        with self._lock:
            self._views.received += connection.received
            self._views.sent += connection.sent
            if handover.is_whole:
                self._views.handed_over(handover)
            else:
                self._views.give_up(handover, f"the state that {handover.source.name} gave broke off: {why}")

    def _refuse(self, member: Member, why: str) -> None:
        """End the session of a device that has sent what cannot be."""
        with self._lock:
            if not member.is_gone:
                self._refused += 1
                self._views.lose(member, f"what it sent was refused: {why}")

    def _note(self, member: Member, frame: Frame, content: dict[str, Any]) -> None:
        step = content.get("step")
        if not isinstance(step, int) or frame.length > _MOST_NOTE_BYTES:
            raise FrameError("a note without its step, or one that is too long")
        with self._lock:
            if frame.view == self._views.number and member.seat in self._views.here:
                if frame.sequence <= member.boundary or (member.note is not None and not member.has_brought):
                    raise FrameError("a second note of one step")
                if not self._views.may_be_step(step):
                    raise FrameError(f"a note of step {step}, and this is step {self._views.step}")
                if self._views.is_agreed:
                    self._journal.begun(step)
                member.note, member.boundary, member.has_brought = (step, content), frame.sequence, False
                for other in self._views.agree_on_step():
                    self._refuse(other, f"a note of another step than {self._views.step}, which most devices begin")

    def _write(self, member: Member) -> None:
        """Send a device what is for it until the connection ends."""
        down = member.down or member.control
        with suppress(ClosedError, FrameError):
            while (item := member.outbox.get()) is not None:
                if isinstance(item, dict):
                    down.send_text(Kind.VIEW, item)
                elif isinstance(item, HandOver):
                    for frame, room in item.pieces(member):
                        down.send(frame, room[: frame.length])
                else:
                    down.send(item.frame, item.piece)
                del item
        self._leave(member, "its connection ended")
        down.release()

    def _look_after(self) -> None:
        while not self._closed.wait(PULSE_S):
            with self._lock:
                self._watch.look(wall_seconds())
                self._look_for_revoked()
                self._views.begin_anew()

    def _keep_journal(self) -> None:
        """Bring the journal to the disk, which may take its time."""
        while not self._closed.wait(PULSE_S):
            self._journal.sync()

    def _look_for_revoked(self) -> None:
        """End the sessions of devices that the registry, which may have changed, does not let in any more."""
        if self._guard is None:
            return
        for member in list(self._views.members.values()):
            if why := self._guard.problem(member.name):
                self._refused += 1
                self._views.lose(member, why)

    def _leave(self, member: Member, why: str) -> None:
        with self._lock:
            self._views.lose(member, why)
