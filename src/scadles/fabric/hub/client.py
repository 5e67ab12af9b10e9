"""A device's end of a hub: the views that it goes through, and the collectives over its connections."""

from __future__ import annotations

import secrets
import sys
from collections.abc import Callable, Mapping, Sequence
from threading import Condition, Event
from typing import Any

import torch
from torch import Tensor

from scadles.clock import wall_seconds
from scadles.errors import FabricError, MembershipChangedError, NotAdmittedError, PeerLostError
from scadles.fabric.contract import ElasticFabric, Pending, View, check_length, copy_flat_bytes, flat_bytes
from scadles.fabric.hub.arrivals import Arrivals, Key
from scadles.fabric.hub.enrolment import Renewal
from scadles.fabric.hub.frames import DTYPES, MOST_BYTES, Frame, Kind
from scadles.fabric.hub.members import MOST_REASON, PULSE_S
from scadles.fabric.hub.session import Session
from scadles.security import Credentials

_LONGEST_PAUSE_S = 1.0
_GOODBYE_S = 2.0


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
        credentials: of this device, which are renewed at half their life; None speaks plain text, to a hub that does.

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
        credentials: Credentials | None = None,
    ) -> None:
        self._credentials = credentials
        self._renewal = Renewal((host, port), name, credentials, say) if credentials is not None else None
        self._address = (host, port)
        self._name = name
        self.run = run
        self.stopped: Callable[[], bool] = lambda: False
        self.progress: Callable[[], object] = lambda: None
        self._say = say
        self._process = secrets.token_hex(8)
        self._was_welcome = False
        self._over = ""
        self._changed = Condition()
        self._closed = False
        self._collectives = 0
        self._sent_before = 0
        self._sequence = 0
        self._step = 0
        self._owed: list[int] = []  # views whose receivers wait for this device's state
        self._took = False
        self._arrivals = Arrivals(self._changed)
        self._view: View | None = None
        self._next_view: View | None = None
        self.settings: dict[str, Any] = {}
        self.rank, self.size = 0, 1
        self._session = self._connect(deadline_s)

    @property
    def members(self) -> Mapping[int, str]:
        return self._view.members if self._view is not None else {self.rank: self._name}

    @property
    def present(self) -> Sequence[int]:
        return sorted(self.members)

    @property
    def away(self) -> Mapping[int, Mapping[str, Any]]:
        return self._view.away if self._view is not None else {}

    @property
    def changed(self) -> bool:
        return self._view is not None and (self._next_view is not None or self._session.over.is_set())

    @property
    def follows(self) -> bool:
        return self._view is not None and self.rank not in self._view.members

    def enter(self, step: int) -> View:
        """Go over to the next view, as :meth:`.ElasticFabric.enter` does; a lost hub is looked for until it is found.

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
            self._session.say(Kind.READY, {"step": step})
            with self._changed:
                while self._next_view is None and not self._session.over.is_set():
                    if self.stopped() or self._closed:
                        raise NotAdmittedError("told to stop while it waited to be admitted")
                    self._changed.wait(PULSE_S)

    def _begin(self, view: View) -> View:
        self._arrivals.discard_before(view.number)
        self._sequence, self._took = 0, False
        self._owe_state(view)
        self._view, self._next_view = view, None
        return view

    def _owe_state(self, view: View | None) -> None:
        """Take note of a view whose receivers wait for the state of this device, which may never enter it."""
        if view is not None and view.receivers and view.source == self.rank:
            self._owed.append(view.number)

    @property
    def gives(self) -> bool:
        return bool(self._owed)

    def give(self, make: Callable[[], Tensor]) -> None:
        owed, self._owed = self._owed, []
        self._session.give(owed, lambda: _bytes_of(make()))

    def take(self, most: int) -> Tensor:
        key = (self._present.number, 0, 0)
        self._arrivals.expect(key, bytearray(), most)
        session = self._session
        arrival = self._arrivals.wait(
            key, lambda arrival: arrival.is_here or session.over.is_set() or self.stopped(), PULSE_S
        )
        self._took = True
        if arrival.is_here:
            check_length(int(self._present.source or 0), arrival.total, most, "the state of the others")
            return torch.frombuffer(arrival.content(), dtype=torch.uint8)
        if session.over.is_set():
            raise self._void("the state of the others")
        raise NotAdmittedError("told to stop while it was given the state of the others")

    def note(self, step: int, content: Mapping[str, Any]) -> None:
        self._step = step
        if self._view is not None and not self.follows:
            self._session.send_note({"step": step, **content}, self._view.number, self._sequence + 1)

    def reduce(self, bucket: Tensor, phase: str) -> Pending:
        self._count()
        if self._view is None:
            return _Nothing()
        dtype = DTYPES.index(bucket.dtype)
        here = bucket.detach()
        on_cpu = here if here.device.type == "cpu" and here.is_contiguous() else here.cpu().contiguous()
        memory = _bytes_of(on_cpu)
        key = self._send(Kind.REDUCE, memory, memory, len(memory), dtype)
        return _HubPending(self, key, phase, (here, on_cpu) if on_cpu is not here else None)

    def gather(self, values: Tensor, phase: str) -> Tensor:
        self._count()
        mine = values.detach().cpu().contiguous()
        if self._view is None:
            rows = torch.zeros(self.size, len(mine), dtype=mine.dtype)
            rows[self.rank] = mine
            return rows
        key = self._send(Kind.GATHER, bytes(_bytes_of(mine)), bytearray(), self.size * mine.nbytes)
        return torch.frombuffer(self.wait_for(key, phase), dtype=mine.dtype).view(self.size, -1)

    def swap(self, rows: Tensor, phase: str) -> Tensor:
        self._count()
        mine = rows.detach().cpu().contiguous()
        if self._view is None:
            arrived = torch.zeros_like(mine)
            arrived[self.rank] = mine[self.rank]
            return arrived
        key = self._send(Kind.SWAP, bytes(_bytes_of(mine)), bytearray(), mine.nbytes)
        return torch.frombuffer(self.wait_for(key, phase), dtype=torch.uint8).view(self.size, -1)

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
        key = self._send(Kind.FOLD, bytes(_bytes_of(message.detach().cpu().contiguous())), bytearray(), MOST_BYTES)
        return torch.frombuffer(self.wait_for(key, phase), dtype=torch.uint8)

    def share(self, message: Tensor | None, senders: Sequence[int], most: int, phase: str) -> dict[int, Tensor]:
        self._count()
        if message is not None:
            check_length(self.rank, len(message), most, phase)
        if self._view is None:
            return {}
        others = [sender for sender in senders if sender != self.rank and sender in self.members]
        with self._changed:
            view, sequence = self._view.number, self._next()
            keys = {sender: (view, sequence, sender) for sender in others}
            for key in keys.values():
                self._arrivals.expect(key, bytearray(), most)
        if message is not None and not self.follows:
            self._queue(Kind.RELAY, bytes(_bytes_of(message.detach().cpu().contiguous())), sequence)
        received: dict[int, Tensor] = {}
        for sender, key in keys.items():
            # who is lost meanwhile has shared nothing
            arrival = self._arrivals.wait(key, lambda arrival: arrival.is_here or self.changed, PULSE_S)
            if arrival.is_here:
                check_length(sender, arrival.total, most, phase)
                received[sender] = torch.frombuffer(arrival.content() or bytearray(1), dtype=torch.uint8)
                received[sender] = received[sender][: arrival.total]
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
        return self._sent_before + self._session.sent

    @property
    def collectives(self) -> int:
        return self._collectives

    def close(self) -> None:
        if self._closed:
            return
        self._closed = True
        if self._renewal is not None:
            self._renewal.close()
        self._session.say(Kind.GOODBYE, {"ended_by": self.ended_by, "failure": self.failure[:MOST_REASON]})
        self._session.over.wait(_GOODBYE_S)  # the hub hears it before it sees that a connection has ended
        self._session.close("this device has left")
        with self._changed:
            self._changed.notify_all()

    def wait_for(self, key: Key, phase: str) -> memoryview | bytearray:
        """Return a message once all of it is here.

        Raises:
            MembershipChangedError: it will not come, because somebody came or went.
        """
        if self.follows:
            self._session.pulse_now()  # the hub hears how far this device is
        # whoever ends a view with a step knows of the next one before it goes on
        arrival = self._arrivals.wait(
            key, lambda arrival: (arrival.is_here and not arrival.ends_view) or self._is_void(key[0]), PULSE_S
        )
        if not arrival.is_here:
            raise self._void(phase)
        if arrival.is_too_long:
            raise FabricError(f"{phase}: {arrival.total} bytes come from the hub, which are too many")
        return arrival.content()

    def hear_of_view(self, session: Session, content: dict[str, Any]) -> None:
        members = {int(seat): str(name) for seat, name in content["members"].items()}
        view = View(
            *(int(content["view"]), members, content.get("source")),
            *(tuple(content.get("receivers", ())), content.get("note")),
            {int(seat): note for seat, note in content.get("away", {}).items()},
        )
        with self._changed:
            while not session.over.is_set() and self._is_behind():
                self._changed.wait(PULSE_S)
            if session.over.is_set():
                return
            if wanted := content.get("wanted"):
                self._say(f"nobody takes a step until {wanted} more of the devices are there (fabric.min_devices)")
            self._owe_state(self._next_view)
            self._next_view = view
            self._over = str(content.get("ended_by", ""))
            self._changed.notify_all()

    def _is_behind(self) -> bool:
        """Whether this device has yet to come to something before the next view: a state, or what it only follows."""
        pending = self._next_view
        if pending is not None and pending.members:
            return self.rank not in pending.members or self.rank in pending.receivers
        if self._view is not None and self.rank in self._view.receivers and not self._took:
            return True
        return self.follows and self._arrivals.are_early

    def take_piece(self, session: Session, frame: Frame) -> None:
        if frame.kind is Kind.STATE:
            key, early = (frame.view, 0, 0), True
        else:
            key = (frame.view, frame.sequence, frame.seat if frame.kind is Kind.RELAY else 0)
            early = frame.kind is Kind.RELAY or self._will_follow(frame)
        if not self._arrivals.take(key, frame, session.down, session.over.is_set, early=early):
            session.down.read_into(memoryview(bytearray(frame.length)))

    def _will_follow(self, frame: Frame) -> bool:
        """Whether this device only follows in a frame's view, and has not come to it yet."""
        view = self._next_view or self._view
        if view is None or view.number != frame.view or self.rank in view.members:
            return False
        return view is self._next_view or frame.sequence > self._sequence

    def is_over(self, view: int) -> bool:
        return self._next_view is not None and self._next_view.number > view

    def news(self) -> dict[str, Any]:
        return {"moves": self.progress(), **({"step": self._step} if self.follows else {})}

    def end(self) -> None:
        with self._changed:
            self._changed.notify_all()

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

    def _send(self, kind: Kind, content: Any, room: memoryview | bytearray, most: int, dtype: int = 0) -> Key:
        """Send a message, unless this device only follows, and make room for what comes back, of ``most`` bytes."""
        with self._changed:
            key = (self._present.number, self._next(), 0)
            self._arrivals.expect(key, room, most)
        if not self.follows:
            self._queue(kind, content, key[1], dtype)
        return key

    def _queue(self, kind: Kind, content: Any, sequence: int, dtype: int = 0) -> None:
        frame = Frame(kind, dtype, self.rank, self._present.number, sequence, total=len(content))
        self._session.send(frame, memoryview(content))

    def _connect(self, limit_s: float) -> Session:
        """Connect, within a time limit, and start the threads of a session."""
        give_up_s = wall_seconds() + limit_s
        pause_s = PULSE_S
        who = {"name": self._name, "process": self._process}
        while True:
            try:
                session = Session(
                    self._address, {**who, "run": self.run, "again": self._was_welcome}, self, self._credentials
                )
                break
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
        welcome, self._was_welcome = session.welcome, True
        self.rank, self.size = int(welcome["seat"]), int(welcome["seats"])
        self.run, self.settings = str(welcome["run"]), dict(welcome["settings"])
        if self._renewal is not None and "lifetime" in welcome:
            self._renewal.learn(welcome["lifetime"])
        session.start()
        return session

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
            self._owed = []
            self._arrivals.discard_before(sys.maxsize)


class _HubPending(Pending):
    def __init__(self, fabric: HubFabric, key: Key, phase: str, copied: tuple[Tensor, Tensor] | None) -> None:
        self._fabric = fabric
        self._key = key
        self._phase = phase
        self._copied = copied

    def wait(self) -> None:
        self._fabric.wait_for(self._key, self._phase)
        if self._copied is not None:
            bucket, came = self._copied
            bucket.copy_(came)


class _Nothing(Pending):
    def wait(self) -> None:
        return


def _bytes_of(tensor: Tensor) -> memoryview:
    flat: Any = tensor.reshape(-1).view(torch.uint8).numpy()
    return memoryview(flat)
