"""The hub: one open port, to which every device connects, and what it does with what they send.

Threads: one that accepts, one that looks for silent devices, and for each device one that reads what it sends up, one
that writes what goes down to it, and one that answers its signs of life. A lock guards who is there; sums are added
up outside of it.
"""

from __future__ import annotations

import hmac
import json
import secrets
import socket
from collections.abc import Callable
from contextlib import suppress
from hashlib import sha256
from threading import Event, RLock, Thread
from typing import Any

from scadles.clock import wall_seconds
from scadles.errors import ConfigError
from scadles.fabric.hub.collectives import Collective, Delivery, Fold, FoldError
from scadles.fabric.hub.connection import ClosedError, Connection
from scadles.fabric.hub.frames import COLLECTIVES, Frame, FrameError, Kind
from scadles.fabric.hub.journal import Journal
from scadles.fabric.hub.members import MOST_NAME, PULSE_S, Member, Pulse, is_name
from scadles.fabric.hub.rooms import Room, Rooms
from scadles.fabric.hub.state import HubState

_HELLO_S = 10.0
_MOST_WAITING = 256
_MOST_NOTE_BYTES = 1 << 16
_MOST_AT_ONCE = 1024
_FROM_DEVICES = frozenset({Kind.READY, Kind.PULSE, Kind.GOODBYE})
_PATIENCE_S = 3.0
_LINGER_S = 30.0


class Hub:
    """Adds up what devices send, and sends the sum to all of them.

    A *view* is a set of devices that take part; it has a number, and a new one begins whenever somebody is lost, or is
    admitted after a step. What belongs to an older view than the present one is let go.

    Args:
        host, port: where to listen; port 0 takes a free one.
        seats: how many devices there may be.
        least: how many must be there for a step.
        deadline_s: how long a device for which others wait may send nothing and gather nothing.
        journal: says what the run is called, and keeps what must outlive this process; None keeps nothing.
        settings: what a device is told of the run when it joins.
        fold: makes one message for everybody of all devices', for :meth:`.HubFabric.fold`; called by one thread at a
            time for each step.
        say: told one line about whoever comes, goes or is refused.

    Attributes:
        address: host and port that it listens on.
        refused: connections that were turned away, or ended for what they sent.
        ended_by: why the run ended, as the first device said that came to its end; empty before.

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
        say: Callable[[str], None] = lambda _: None,
    ) -> None:
        try:
            self._listening = socket.create_server((host, port), backlog=128)
        except OSError as error:
            raise ConfigError(f"cannot listen on {host}:{port}: {error.strerror}; choose another --listen") from None
        self.address: tuple[str, int] = self._listening.getsockname()[:2]
        self.refused = 0
        self._seats = seats
        self._least = least
        self._deadline_s = deadline_s
        self._settings = settings or {}
        self._mark = sha256(json.dumps(self._settings, sort_keys=True).encode()).hexdigest()
        self._journal = journal or Journal()
        ended_by, mark = self._journal.ended_by
        self.ended_by = ended_by if mark == self._mark else ""
        self._fold = fold
        self._say = say
        self._lock = RLock()
        self._members: dict[int, Member] = {}
        self._names: dict[str, int] = dict(self._journal.seats)
        self._lost = set(self._names)  # who has not said goodbye
        self._processes: dict[str, object] = {}
        self._since_s = wall_seconds()  # nobody takes part
        self._greeting = 0
        self._view = 0
        self._here: tuple[int, ...] = ()
        self._collectives: dict[int, Collective] = {}
        self._rooms = Rooms()
        self._idle_s: dict[int, float] = {}
        self._received = self._sent = 0
        self._closed = Event()
        self._threads = [Thread(target=work, daemon=True) for work in (self._accept, self._look_for_silent)]

    def start(self) -> None:
        """Begin to answer."""
        for thread in self._threads:
            thread.start()

    def close(self) -> None:
        """Stop listening and close all connections."""
        self._closed.set()
        with suppress(OSError):
            self._listening.shutdown(socket.SHUT_RDWR)
        self._listening.close()
        with self._lock:
            members = list(self._members.values())
        for member in members:
            for connection in member.connections():
                connection.close()
            member.outgoing.put(None)

    def forget(self) -> None:
        """Close the listening socket of this process alone: for one that was forked before the hub began to answer."""
        self._listening.close()

    def need(self, least: int) -> None:
        """Let a step take so many devices from now on."""
        with self._lock:
            if least != self._least:
                self._least = least
                self._begin_anew()

    @property
    def is_over(self) -> bool:
        """Whether the run has ended and all devices have left, or are not heard of any more."""
        with self._lock:
            if not self.ended_by or self._members:
                return False
            return not self._lost or wall_seconds() - self._since_s > _LINGER_S

    def members(self) -> dict[int, str]:
        """Return who takes part now, name by seat."""
        with self._lock:
            return {seat: self._members[seat].name for seat in self._here}

    def state(self) -> HubState:
        """Return how things are."""
        with self._lock:
            first = self._collectives.get(min(self._collectives, default=0))
            awaited = [seat for seat in sorted(first.awaited()) if seat in self._members] if first is not None else []
            connections = [one for member in self._members.values() for one in member.connections()]
            return HubState(
                step=max(0, self._journal.newest),
                members=[self._members[seat].name for seat in self._here],
                seats=self._seats,
                least=self._least,
                waiting=[one.name for _, one in sorted(self._members.items()) if one.is_ready],
                awaited=[self._members[seat].name for seat in awaited],
                awaited_s=max((self._idle_s.get(seat, 0.0) for seat in awaited), default=0.0),
                known=sorted(self._names, key=self._names.__getitem__),
                refused=self.refused,
                received=self._received + sum(one.received for one in connections),
                sent=self._sent + sum(one.sent for one in connections),
                ended_by=self.ended_by,
            )

    def _accept(self) -> None:
        while not self._closed.is_set():
            try:
                sock, (peer, *_) = self._listening.accept()
            except OSError:
                if self._closed.wait(0.05):  # else out of descriptors, say
                    return
                continue
            with self._lock:
                self._greeting += 1
                too_many = self._greeting > _MOST_WAITING
            if too_many:
                sock.close()
                self._turn_away(peer, "too many connections that have not said hello")
                continue
            Thread(target=self._greet, args=(Connection(sock), str(peer)), daemon=True).start()

    def _greet(self, connection: Connection, peer: str) -> None:
        """Hear who is there, then serve the connection until it ends."""
        try:
            connection.limit(_HELLO_S)
            frame = connection.receive()
            if frame.kind is not Kind.HELLO:
                raise FrameError(f"it begins with {frame.kind.name}, not with a hello")
            hello = connection.receive_text(frame)
            serve = self._welcome(connection, hello)
            connection.limit(None)
        except (FrameError, ClosedError) as error:
            self._turn_away(peer, str(error))
            with suppress(ClosedError):
                connection.send_text(Kind.REFUSAL, {"why": str(error)})
            connection.close()
            return
        finally:
            with self._lock:
                self._greeting -= 1
        serve()

    def _turn_away(self, peer: str, why: str) -> None:
        with self._lock:
            self.refused += 1
        self._say(f"{peer} was refused: {why}")

    def _welcome(self, connection: Connection, hello: dict[str, Any]) -> Callable[[], None]:
        role = hello.get("role")
        if role == "control":
            member = self._seat(connection, hello)
            return lambda: self._answer(member)
        with self._lock:
            known = (one for one in self._members.values() if _same(one.session, hello.get("session")))
            member_or_none = next(known, None)
            if member_or_none is None or role not in ("up", "down"):
                raise FrameError("a second connection of no device that is here")
            member = member_or_none
            setattr(member, role, connection)
            connection.send_text(Kind.WELCOME, {})
        return (lambda: self._read(member)) if role == "up" else (lambda: self._write(member))

    def _seat(self, connection: Connection, hello: dict[str, Any]) -> Member:
        """Give a device its seat: the one that its name had, or a free one."""
        name, run = hello.get("name"), hello.get("run", "")
        if not isinstance(name, str) or not is_name(name):
            raise FrameError(f"a name must be 1 to {MOST_NAME} printable characters")
        if run and self._journal.run and run != self._journal.run:
            raise FrameError("it belongs to another run than this hub's")
        with self._lock:
            if (seat := self._names.get(name)) is None:
                seat = next((free for free in range(self._seats) if free not in self._names.values()), None)
                if seat is None:
                    taken = ", ".join(sorted(self._names))
                    raise FrameError(f"all {self._seats} seats are taken, by {taken}: set devices higher at the hub")
                self._names[name] = seat
                self._journal.seat(name, seat)
            process = hello.get("process")
            if hello.get("again") and self._processes.get(name, process) != process:
                raise FrameError("another process has taken its place under that name")
            self._processes[name] = process
            self._lost.add(name)
            if seat in self._members:
                self._lose(self._members[seat], "it has connected anew")
            member = Member(name, seat, secrets.token_hex(16), connection, Pulse(wall_seconds()))
            self._members[seat] = member
        welcome = {"seat": seat, "seats": self._seats, "session": member.session, "run": self._journal.run}
        connection.send_text(Kind.WELCOME, welcome | {"settings": self._settings})
        return member

    def _answer(self, member: Member) -> None:
        """Hear a device's signs of life and wishes until its control connection ends."""
        control = member.control
        why = "its connection ended"
        try:
            while not member.is_gone:
                frame = control.receive()
                if frame.kind not in _FROM_DEVICES:
                    raise FrameError(f"{frame.kind.name} on a control connection")
                content = control.receive_text(frame)
                with self._lock:
                    member.pulse.heard(wall_seconds())
                    if frame.kind is Kind.READY:
                        self._become_ready(member, content)
                if frame.kind is Kind.GOODBYE:
                    why = "it has said goodbye"
                    self._hear_goodbye(member, str(content.get("ended_by", ""))[:MOST_NAME])
                    break
                if frame.kind is Kind.PULSE:
                    member.moves = content.get("moves")
                    control.send_text(Kind.PULSE, {})
        except ClosedError:
            pass
        except FrameError as error:
            self._refuse(member, str(error))
        self._leave(member, why)

    def _become_ready(self, member: Member, content: dict[str, Any]) -> None:
        step = content.get("step")
        if not isinstance(step, int) or member.up is None or member.down is None:
            raise FrameError("READY without its step, or before all its connections are there")
        member.step, member.is_ready = step, True
        self._begin_anew()

    def _hear_goodbye(self, member: Member, ended_by: str) -> None:
        with self._lock:
            if not member.is_gone:
                self._lost.discard(member.name)
            if ended_by and not self.ended_by and member.has_state:  # else it has taken part in nothing
                self.ended_by = ended_by
                self._journal.end(ended_by, self._mark)

    def _begin_anew(self) -> None:
        """Let those who wait begin, where nobody takes part and enough are there."""
        waiting = [one for one in self._members.values() if one.is_ready]
        if self._here or not waiting or self._closed.is_set():
            return
        if self.ended_by:
            for member in (one for one in waiting if one.step < self._journal.newest):
                member.is_ready = False
                self._send_view(member, {"members": {}, "ended_by": self.ended_by})
            waiting = [one for one in waiting if one.is_ready]
        elif len(waiting) < self._least or self._somebody_is_further(waiting):
            return
        if waiting:
            self._journal.begun(max(one.step for one in waiting) + 1)
            self._change_view()

    def _somebody_is_further(self, waiting: list[Member]) -> bool:
        """Whether to wait a little for a device that has taken steps which none of those who wait has."""
        if max(one.step for one in waiting) >= self._journal.newest:
            return False
        missing = self._journal.took_the_newest().intersection(self._lost) - {one.name for one in waiting}
        return bool(missing) and wall_seconds() - self._since_s < _PATIENCE_S

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
                self._bring(member, frame, room)
                del room
        except ClosedError:
            pass
        except FrameError as error:
            self._refuse(member, str(error))
        self._leave(member, why)

    def _refuse(self, member: Member, why: str) -> None:
        """End the session of a device that has sent what cannot be."""
        with self._lock:
            if not member.is_gone:
                self.refused += 1
                self._lose(member, f"what it sent was refused: {why}")

    def _note(self, member: Member, frame: Frame, content: dict[str, Any]) -> None:
        step = content.get("step")
        if not isinstance(step, int) or frame.length > _MOST_NOTE_BYTES:
            raise FrameError("a note without its step, or one that is too long")
        with self._lock:
            if frame.view == self._view and member.seat in self._here:
                self._journal.begun(step)
                member.has_state = True
                member.note, member.boundary = (step, content), frame.sequence

    def _bring(self, member: Member, frame: Frame, room: Room) -> None:
        with self._lock:
            if frame.seat != member.seat or frame.view > self._view:
                raise FrameError(f"a frame of device {frame.seat} in view {frame.view}, which cannot be")
            if frame.view != self._view or member.seat not in self._here:
                return  # of a view that is over
            if frame.kind is Kind.RELAY:
                self._relay(member, frame, room)
                return
            self._members[member.seat].has_state = True  # which comes before all that is done together
            collective = self._collectives.get(frame.sequence)
            if collective is None:
                if len(self._collectives) >= _MOST_AT_ONCE:
                    raise FrameError(f"more than {_MOST_AT_ONCE} collectives at once")
                collective = Collective(frame, self._here, self._seats, self._fold)
                self._collectives[frame.sequence] = collective
        try:
            deliveries, complete = collective.bring(member.seat, frame, room)
        except FoldError as error:
            self._leave_out(error.seat, frame.view, str(error))
            return
        if deliveries or complete:
            self._deliver(frame, deliveries, complete=complete)

    def _relay(self, member: Member, frame: Frame, room: Room) -> None:
        """Pass a piece on to all others."""
        if not member.relays(frame):
            raise FrameError("a message for the others whose pieces are not in order")
        going = (frame._replace(seat=member.seat), room[: frame.length], room)
        for seat in self._here:
            if seat != member.seat:
                self._members[seat].outgoing.put(going)

    def _deliver(self, frame: Frame, deliveries: list[Delivery], *, complete: bool) -> None:
        with self._lock:
            if frame.view != self._view:
                return
            is_boundary = complete and self._end_of_step(frame.sequence)
            admits = is_boundary and any(one.is_ready for one in self._members.values())
            for delivery in deliveries:
                going = delivery.frame._replace(last=admits)
                for seat in delivery.seats:
                    self._members[seat].outgoing.put((going, delivery.piece, delivery.room))
            if complete:
                del self._collectives[frame.sequence]
            if admits:
                self._change_view()

    def _end_of_step(self, sequence: int) -> bool:
        """Whether a collective was the last one of a step; then what came with it counts."""
        noted = [self._members[seat] for seat in self._here if self._members[seat].boundary == sequence]
        for member in noted:
            if member.note is not None:
                self._journal.note(member.name, *member.note)
        return bool(noted)

    def _write(self, member: Member) -> None:
        """Send a device what is for it until the connection ends."""
        down = member.down or member.control
        with suppress(ClosedError):
            while (item := member.outgoing.get()) is not None:
                if isinstance(item, dict):
                    down.send_text(Kind.VIEW, item)
                else:
                    frame, piece, _ = item
                    down.send(frame, piece)
        self._leave(member, "its connection ended")

    def _look_for_silent(self) -> None:
        while not self._closed.wait(PULSE_S):
            now_s = wall_seconds()
            with self._lock:
                silent = [one for one in self._members.values() if one.pulse.is_gone(now_s)]
                awaited = {seat for one in self._collectives.values() for seat in one.awaited()}
                idle_s = {one: one.hangs_s(now_s, is_awaited=seat in awaited) for seat, one in self._members.items()}
                self._begin_anew()
            self._idle_s = {one.seat: seconds for one, seconds in idle_s.items()}
            for member in silent:
                self._leave(member, f"silent for {member.pulse.silent_s(now_s):.1f} s")
            for member in (one for one, seconds in idle_s.items() if seconds > self._deadline_s):
                self._leave(member, f"alive, but nothing has moved for {self._deadline_s:g} s while others wait for it")

    def _leave_out(self, seat: int, view: int, why: str) -> None:
        with self._lock:
            if view == self._view and seat in self._members:
                self._leave(self._members[seat], why)

    def _leave(self, member: Member, why: str) -> None:
        with self._lock:
            if not member.is_gone:
                self._lose(member, why)

    def _lose(self, member: Member, why: str) -> None:
        """Go on without a device; what its view had not finished is void."""
        member.is_gone = True
        self._received += sum(connection.received for connection in member.connections())
        self._sent += sum(connection.sent for connection in member.connections())
        if self._members.get(member.seat) is member:
            del self._members[member.seat]
        for connection in member.connections():
            connection.close()
        member.outgoing.put(None)
        if self._closed.is_set():
            return
        self._say(f"{member.name} (device {member.seat}) has left: {why}")
        if member.seat in self._here:
            self._here = tuple(seat for seat in self._here if seat != member.seat)
            if self._here:
                self._change_view(admit=False)
                return
            self._view += 1
            self._collectives.clear()
            self._since_s = wall_seconds()
        self._begin_anew()

    def _change_view(self, *, admit: bool = True) -> None:
        """Let a new view begin, with those who wait where they are admitted, or none where too few are left.

        Who came with an earlier view and has not been given the state of the others since is to be given it now.
        """
        stayed = list(self._here)
        settled = [seat for seat in stayed if self._members[seat].has_state]
        new = sorted(seat for seat, one in self._members.items() if one.is_ready) if admit else []
        self._view += 1
        self._collectives.clear()
        for member in self._members.values():
            member.boundary, member.note, member.relayed = -1, None, (0, 0)
        too_few = len(stayed) + len(new) < self._least and not self.ended_by
        if too_few or (stayed and not settled):
            self._here, self._since_s = (), wall_seconds()
            for seat in stayed:
                self._send_view(self._members[seat], {"members": {}})
            return
        self._here = tuple(sorted([*stayed, *new]))
        source = settled[0] if settled else max(new, key=lambda seat: (self._members[seat].step, -seat))
        for seat in new:
            self._members[seat].is_ready, self._members[seat].has_state = False, seat == source
        names = {str(seat): self._members[seat].name for seat in self._here}
        receivers = [seat for seat in self._here if not self._members[seat].has_state]
        for seat in self._here:
            member = self._members[seat]
            said = self._journal.of(member.name) if seat in new or seat in receivers else None
            note = said[1] if said is not None else None
            self._send_view(member, {"members": names, "source": source, "receivers": receivers, "note": note})
        for seat in new:
            self._say(f"{self._members[seat].name} (device {seat}) takes part")

    def _send_view(self, member: Member, content: dict[str, Any]) -> None:
        member.outgoing.put({"view": self._view, **content})


def _same(secret: str, given: object) -> bool:
    return isinstance(given, str) and hmac.compare_digest(secret.encode(), given.encode(errors="replace"))
