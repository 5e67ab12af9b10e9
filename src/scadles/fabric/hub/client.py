"""A device's end of a hub: three connections that it opens itself, and the collectives over them."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from queue import SimpleQueue
from threading import Condition, Event, Thread
from typing import Any

import torch
from torch import Tensor

from scadles.clock import wall_seconds
from scadles.errors import FabricError, MembershipChangedError, NotAdmittedError, PeerLostError
from scadles.fabric.contract import ElasticFabric, Pending, View, check_length, copy_flat_bytes, flat_bytes
from scadles.fabric.hub.connection import ClosedError, Connection
from scadles.fabric.hub.frames import DTYPES, PIECE_BYTES, Frame, FrameError, Kind, pieces
from scadles.fabric.hub.members import PULSE_S, Pulse

_CONNECT_S = 10.0
_LONGEST_PAUSE_S = 1.0
_GOODBYE_S = 2.0


@dataclass
class _Arrival:
    """A message on its way here, in pieces."""

    room: memoryview | bytearray
    left: int
    total: int = -1
    ends_view: bool = False

    def take(self, frame: Frame, connection: Connection) -> None:
        if isinstance(self.room, bytearray):
            if frame.offset != len(self.room):
                raise FrameError(f"a piece at {frame.offset} where {len(self.room)} bytes have come")
            self.room.extend(bytes(frame.length))
        connection.read_into(memoryview(self.room)[frame.offset : frame.offset + frame.length])
        self.total, self.ends_view = frame.total, self.ends_view or frame.last
        self.left -= 1


@dataclass
class _Session:
    """The connections of a device, from one welcome to their end."""

    control: Connection
    up: Connection
    down: Connection
    pulse: Pulse
    outgoing: SimpleQueue[Any] = field(default_factory=SimpleQueue)
    over: Event = field(default_factory=Event)
    why: str = ""

    def close(self, why: str) -> None:
        if not self.over.is_set():
            self.why = why
            self.over.set()
        for connection in (self.control, self.up, self.down):
            connection.close()
        self.outgoing.put(None)


class HubFabric(ElasticFabric):
    """One device's end of a hub.

    Until :meth:`enter` it is alone: sums are its own, and the rows of others are zeros. The number of a device is its
    seat, which it keeps when it comes back; a device that is not there counts as one that brings zeros.

    Args:
        host, port: the hub.
        name: of this device.
        run: what the run is called, where that is known.
        deadline_s: how long the first welcome may take, in wall seconds.
        say: told one line when the hub does not answer, is lost, or found again.

    Attributes:
        run: what the run is called.
        settings: of the run, as the hub tells them.
        members: names of those who take part in the present view, by seat.

    Raises:
        PeerLostError: nobody answers there.
        FabricError: the hub refuses this device.
    """

    bytes_counted_by = "messages to the hub, headers included"

    def __init__(
        self,
        host: str,
        port: int,
        name: str,
        *,
        run: str = "",
        deadline_s: float = 120.0,
        say: Callable[[str], None] = lambda _: None,
    ) -> None:
        self._address = (host, port)
        self._name = name
        self.run = run
        self.stopped: Callable[[], bool] = lambda: False
        self._say = say
        self._process = secrets.token_hex(8)
        self._was_welcome = False
        self._over = ""
        self._changed = Condition()
        self._closed = False
        self._collectives = 0
        self._sent_before = 0
        self._sequence = 0
        self._arriving: dict[tuple[int, int, int], _Arrival] = {}
        self._view: View | None = None
        self._next_view: View | None = None
        self.settings: dict[str, Any] = {}
        self.moves: Callable[[], object] = lambda: None
        self.rank, self.size = 0, 1
        self._session = self._connect(deadline_s)

    @property
    def members(self) -> Mapping[int, str]:
        return self._view.members if self._view is not None else {self.rank: self._name}

    @property
    def present(self) -> Sequence[int]:
        return sorted(self.members)

    @property
    def changed(self) -> bool:
        return self._view is not None and (self._next_view is not None or self._session.over.is_set())

    def enter(self, step: int) -> View:
        """Go over to the newest view, as :meth:`.ElasticFabric.enter` does; a lost hub is looked for until it is found.

        Raises:
            FabricError: the hub refuses this device.
            NotAdmittedError: the run has ended, or this device was told to stop while it waited.
        """
        while True:
            with self._changed:
                if self._next_view is None and not self._session.over.is_set() and self._view is not None:
                    return self._view
                waits = self._next_view is None or self._session.over.is_set()
                if not waits and self._next_view is not None and self._next_view.members:
                    return self._begin(self._next_view)
                if self._over:
                    raise NotAdmittedError(f"the run has ended ({self._over}) while this device was away")
            if self._session.over.is_set():
                self._reconnect()
            with self._changed:
                self._next_view = None
            with suppress(ClosedError):
                self._session.control.send_text(Kind.READY, {"step": step})
            with self._changed:
                while self._next_view is None and not self._session.over.is_set():
                    if self.stopped() or self._closed:
                        raise NotAdmittedError("told to stop while it waited to be admitted")
                    self._changed.wait(PULSE_S)

    def _begin(self, view: View) -> View:
        self._arriving = {key: arrival for key, arrival in self._arriving.items() if key[0] >= view.number}
        self._sequence = 0
        self._view, self._next_view = view, None
        return view

    def note(self, step: int, content: Mapping[str, Any]) -> None:
        if self._view is not None:
            self._session.outgoing.put((Kind.NOTE, {"step": step, **content}, self._view.number, self._sequence + 1))

    def reduce(self, bucket: Tensor, phase: str) -> Pending:
        self._count()
        if self._view is None:
            return _Nothing()
        dtype = DTYPES.index(bucket.dtype)
        here = bucket.detach()
        on_cpu = here if here.device.type == "cpu" and here.is_contiguous() else here.cpu().contiguous()
        memory = _bytes_of(on_cpu)
        arrival = self._send(Kind.REDUCE, memory, memory, dtype)
        return _HubPending(self, arrival, phase, (here, on_cpu) if on_cpu is not here else None)

    def gather(self, values: Tensor, phase: str) -> Tensor:
        self._count()
        mine = values.detach().cpu().contiguous()
        if self._view is None:
            rows = torch.zeros(self.size, len(mine), dtype=mine.dtype)
            rows[self.rank] = mine
            return rows
        arrival = self._send(Kind.GATHER, bytes(_bytes_of(mine)), bytearray())
        return torch.frombuffer(self.wait_for(arrival, phase), dtype=mine.dtype).view(self.size, -1)

    def swap(self, rows: Tensor, phase: str) -> Tensor:
        self._count()
        mine = rows.detach().cpu().contiguous()
        if self._view is None:
            arrived = torch.zeros_like(mine)
            arrived[self.rank] = mine[self.rank]
            return arrived
        arrival = self._send(Kind.SWAP, bytes(_bytes_of(mine)), bytearray())
        return torch.frombuffer(self.wait_for(arrival, phase), dtype=torch.uint8).view(self.size, -1)

    def fold(self, message: Tensor, phase: str) -> Tensor:
        """Send a message to the hub, and return the one that it makes of everybody's, uint8 ``[m]``.

        Args:
            message: uint8, of the same length on all devices.
            phase: what is being exchanged, for errors.

        Raises:
            FabricError: this device takes part in nothing yet.
            MembershipChangedError: as every collective.
        """
        self._count()
        arrival = self._send(Kind.FOLD, bytes(_bytes_of(message.detach().cpu().contiguous())), bytearray())
        return torch.frombuffer(self.wait_for(arrival, phase), dtype=torch.uint8)

    def share(self, message: Tensor | None, senders: Sequence[int], most: int, phase: str) -> dict[int, Tensor]:
        self._count()
        if message is not None:
            check_length(self.rank, len(message), most, phase)
        if self._view is None:
            return {}
        view, sequence = self._view.number, self._next()
        if message is not None:
            self._queue(Kind.RELAY, bytes(_bytes_of(message.detach().cpu().contiguous())), sequence)
        received: dict[int, Tensor] = {}
        for sender in senders:
            if sender == self.rank or sender not in self._view.members:
                continue
            with self._changed:
                arrival = self._arriving.setdefault((view, sequence, sender), _Arrival(bytearray(), -1))
                # who is lost meanwhile has shared nothing
                while not _is_here(arrival) and not self.changed:
                    self._changed.wait(PULSE_S)
                del self._arriving[view, sequence, sender]
            if _is_here(arrival):
                check_length(sender, arrival.total, most, phase)
                received[sender] = torch.frombuffer(arrival.room or bytearray(1), dtype=torch.uint8)[: arrival.total]
        return received

    def broadcast(self, tensors: Sequence[Tensor], phase: str) -> None:
        if not tensors:
            return
        if self._view is None:
            self._count()
            return
        source = min(self._view.members)
        most = sum(tensor.nbytes for tensor in tensors)
        received = self.share(flat_bytes(tensors, "cpu") if self.rank == source else None, [source], most, phase)
        if self.rank == source:
            return
        if source not in received:
            raise self._void(phase)
        if len(received[source]) != most:
            raise FabricError(f"{phase}: device {source} sends {len(received[source])} bytes where {most} are expected")
        copy_flat_bytes(received[source], tensors)

    def bytes_sent(self) -> int:
        session = self._session
        return self._sent_before + session.control.sent + session.up.sent + session.down.sent

    @property
    def collectives(self) -> int:
        return self._collectives

    def close(self) -> None:
        if self._closed:
            return
        self._closed = True
        with suppress(ClosedError):
            self._session.control.send_text(Kind.GOODBYE, {"ended_by": self.ended_by})
            self._session.over.wait(_GOODBYE_S)  # the hub hears it before it sees that a connection has ended
        self._session.close("this device has left")
        with self._changed:
            self._changed.notify_all()

    def wait_for(self, arrival: tuple[int, int, int], phase: str) -> bytearray:
        """Return a message once all of it is here.

        Raises:
            MembershipChangedError: it will not come, because somebody came or went.
        """
        with self._changed:
            arrived = self._arriving[arrival]
            # whoever ends a view with a step knows of the next one before it goes on
            while (not _is_here(arrived) or arrived.ends_view) and not self._is_void(arrival[0]):
                self._changed.wait(PULSE_S)
            del self._arriving[arrival]
        if not _is_here(arrived):
            raise self._void(phase)
        return arrived.room  # type: ignore[return-value]

    def _is_void(self, view: int) -> bool:
        return self._closed or self.changed or self._view is None or self._view.number != view

    def _void(self, phase: str) -> FabricError:
        if self._closed:
            return FabricError(f"device {self.rank} has left the fabric")
        if self._session.over.is_set():
            return MembershipChangedError(f"lost the hub during {phase}: {self._session.why}", detached=True)
        return MembershipChangedError(f"somebody came or went during {phase}")

    def _count(self) -> None:
        if self._closed:
            raise FabricError(f"device {self.rank} has left the fabric")
        self._collectives += 1

    @property
    def _present(self) -> View:
        if self._view is None:
            raise FabricError(f"device {self.rank} takes part in nothing yet")
        return self._view

    def _next(self) -> int:
        self._sequence += 1
        return self._sequence

    def _send(self, kind: Kind, content: Any, room: memoryview | bytearray, dtype: int = 0) -> tuple[int, int, int]:
        """Send a message, and make room for what comes back."""
        key = (self._present.number, self._next(), 0)
        with self._changed:
            self._arriving[key] = _Arrival(room, -1)
        self._queue(kind, content, key[1], dtype)
        return key

    def _queue(self, kind: Kind, content: Any, sequence: int, dtype: int = 0) -> None:
        frame = Frame(kind, dtype, self.rank, self._present.number, sequence, total=len(content))
        self._session.outgoing.put((frame, memoryview(content)))

    def _connect(self, limit_s: float) -> _Session:
        """Connect, within a time limit, and start the threads of a session."""
        give_up_s = wall_seconds() + limit_s
        pause_s = PULSE_S
        while True:
            try:
                return self._open_session()
            except OSError as error:
                why = getattr(error, "strerror", None) or str(error)
            host, port = self._address
            if self.stopped():
                raise NotAdmittedError(f"told to stop while it looked for the hub at {host}:{port}")
            if wall_seconds() > give_up_s or self._closed:
                raise PeerLostError([], "joining", f"the hub at {host}:{port} does not answer: {why}") from None
            if pause_s == PULSE_S and limit_s < float("inf"):
                self._say(f"the hub at {host}:{port} does not answer ({why}); trying for {limit_s:g} s")
            Event().wait(pause_s)
            pause_s = min(2 * pause_s, _LONGEST_PAUSE_S)

    def _open_session(self) -> _Session:
        with ExitStack() as failing:

            def connect(**hello: Any) -> tuple[Connection, dict[str, Any]]:
                connection = Connection.open(*self._address, _CONNECT_S)
                failing.callback(connection.close)
                return connection, self._hello(connection, hello)

            who = {"name": self._name, "run": self.run, "process": self._process, "again": self._was_welcome}
            control, welcome = connect(role="control", **who)
            self._was_welcome = True
            self.rank, self.size = int(welcome["seat"]), int(welcome["seats"])
            self.run, self.settings = str(welcome["run"]), dict(welcome["settings"])
            up, _ = connect(role="up", session=welcome["session"])
            down, _ = connect(role="down", session=welcome["session"])
            failing.pop_all()
        session = _Session(control, up, down, Pulse(wall_seconds()))
        for work in (self._send_up, self._take_down, self._beat, self._hear):
            Thread(target=work, args=(session,), daemon=True).start()
        return session

    def _hello(self, connection: Connection, hello: dict[str, Any]) -> dict[str, Any]:
        connection.limit(_CONNECT_S)
        connection.send_text(Kind.HELLO, hello)
        frame = connection.receive()
        answer = connection.receive_text(frame)
        connection.limit(None)
        if frame.kind is Kind.REFUSAL:
            raise FabricError(f"the hub refuses {self._name}: {answer.get('why')}")
        if frame.kind is not Kind.WELCOME:
            raise FrameError(f"the hub answers a hello with {frame.kind.name}")
        return dict(answer)

    def _reconnect(self) -> None:
        if self._closed:
            raise FabricError(f"device {self.rank} has left the fabric")
        host, port = self._address
        self._say(f"lost the hub at {host}:{port} ({self._session.why}); looking for it")
        self._sent_before = self.bytes_sent()
        self._session = self._connect(float("inf"))
        self._say(f"found the hub at {host}:{port} again")
        with self._changed:
            self._view = self._next_view = None
            self._arriving.clear()

    def _send_up(self, session: _Session) -> None:
        """Send what is queued, as long as its view lasts."""
        try:
            while (item := session.outgoing.get()) is not None:
                head, content, *rest = item
                if head is Kind.NOTE:
                    session.up.send_text(Kind.NOTE, content, view=rest[0], sequence=rest[1])
                    continue
                for begin in pieces(head.total):
                    if self._next_view is not None and self._next_view.number > head.view:
                        break
                    length = min(PIECE_BYTES, head.total - begin)
                    frame = head._replace(offset=begin, length=length)
                    session.up.send(frame, content[begin : begin + length])
        except ClosedError as error:
            self._end(session, str(error))

    def _take_down(self, session: _Session) -> None:
        """Take what the hub sends until the connection ends."""
        drain = memoryview(bytearray(PIECE_BYTES))
        try:
            while True:
                frame = session.down.receive()
                if frame.kind is Kind.VIEW:
                    self._hear_of_view(session, session.down.receive_text(frame))
                    continue
                key = (frame.view, frame.sequence, frame.seat if frame.kind is Kind.RELAY else 0)
                with self._changed:
                    arrival = self._arriving.get(key)
                    if arrival is None and frame.kind is Kind.RELAY:
                        arrival = self._arriving.setdefault(key, _Arrival(bytearray(), -1))
                if arrival is None:
                    session.down.read_into(drain[: frame.length])
                    continue
                if arrival.left < 0:
                    arrival.left = len(pieces(frame.total))
                arrival.take(frame, session.down)
                if not arrival.left:
                    with self._changed:
                        self._changed.notify_all()
        except (ClosedError, FrameError) as error:
            self._end(session, str(error))

    def _hear_of_view(self, session: _Session, content: dict[str, Any]) -> None:
        members = {int(seat): str(name) for seat, name in content["members"].items()}
        view = View(
            int(content["view"]),
            members,
            content.get("source"),
            tuple(content.get("receivers", ())),
            content.get("note"),
        )
        with self._changed:
            if session.over.is_set():
                return
            self._next_view = view
            self._over = str(content.get("ended_by", ""))
            self._changed.notify_all()

    def _beat(self, session: _Session) -> None:
        """Give signs of life, and look for those of the hub."""
        try:
            while not session.over.wait(PULSE_S):
                session.control.send_text(Kind.PULSE, {"moves": self.moves()})
                if session.pulse.is_gone(wall_seconds()):
                    raise ClosedError(f"silent for {session.pulse.silent_s(wall_seconds()):.1f} s")
        except ClosedError as error:
            self._end(session, str(error))

    def _hear(self, session: _Session) -> None:
        try:
            while True:
                session.control.receive_text(session.control.receive())
                session.pulse.heard(wall_seconds())
        except (ClosedError, FrameError) as error:
            self._end(session, str(error))

    def _end(self, session: _Session, why: str) -> None:
        session.close(why)
        with self._changed:
            self._changed.notify_all()


class _HubPending(Pending):
    def __init__(
        self, fabric: HubFabric, arrival: tuple[int, int, int], phase: str, copied: tuple[Tensor, Tensor] | None
    ) -> None:
        self._fabric = fabric
        self._arrival = arrival
        self._phase = phase
        self._copied = copied

    def wait(self) -> None:
        self._fabric.wait_for(self._arrival, self._phase)
        if self._copied is not None:
            bucket, came = self._copied
            bucket.copy_(came)


class _Nothing(Pending):
    def wait(self) -> None:
        return


def _is_here(arrival: _Arrival) -> bool:
    return arrival.left == 0


def _bytes_of(tensor: Tensor) -> memoryview:
    flat: Any = tensor.reshape(-1).view(torch.uint8).numpy()
    return memoryview(flat)
