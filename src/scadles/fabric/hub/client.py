"""A device's end of a hub: the views that it goes through, and the collectives over its connections."""

from __future__ import annotations

import secrets
import sys
from collections.abc import Callable, Mapping, Sequence
from itertools import count
from threading import Event
from typing import Any

import torch
from torch import Tensor

from scadles.clock import wall_seconds
from scadles.errors import FabricError, NotAdmittedError, PeerLostError, UntrustedError
from scadles.fabric.contract import View, check_length
from scadles.fabric.hub.answers import view_of
from scadles.fabric.hub.enrolment import Renewal
from scadles.fabric.hub.frames import Frame, Kind
from scadles.fabric.hub.hello import connect_limit_s, is_loopback
from scadles.fabric.hub.members import MOST_REASON, PULSE_S, reason_of
from scadles.fabric.hub.messages import HubMessages, bytes_of
from scadles.fabric.hub.session import Session
from scadles.security import DeviceCredentials

_LONGEST_PAUSE_S = 1.0
_GOODBYE_S = 2.0


class HubFabric(HubMessages):
    """One device's end of a hub.

    Until :meth:`enter` it is alone: sums are its own, and the rows of others are zeros. The number of a device is its
    seat, which it keeps when it comes back; a device that is not there counts as one that brings zeros.

    Args:
        host, port: the hub.
        name: of this device.
        run: what the run is called, where that is known.
        deadline_s: how long the first welcome may take, in wall seconds.
        say: told one line when the hub does not answer, is lost, or found again.
        credentials: of this device, which are renewed in time; None speaks plain text, to a hub that does.

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
        credentials: DeviceCredentials | None = None,
    ) -> None:
        super().__init__()
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
        self._over = self._distrusts = ""
        self._sent_before = 0
        self._owed: list[int] = []  # views whose receivers wait for this device's state
        self._took = False
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
            UntrustedError: the hub says what cannot be.
        """
        while True:
            if self._distrusts:
                raise UntrustedError(f"the hub says what no hub says, and is not asked again: {self._distrusts}")
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
        self._session.give(owed, lambda: bytes_of(make()))

    def take(self, most: int) -> Tensor:
        key = (self._present.number, 0, 0)
        self._arrivals.expect(key, bytearray(), most)
        session = self._session
        arrival = self._arrivals.wait(
            *(key, lambda found: found.is_here or found.is_too_long or session.over.is_set() or self.stopped()), PULSE_S
        )
        self._took = True
        if arrival.is_here or arrival.is_too_long:
            check_length(int(self._present.source or 0), arrival.total, most, "the state of the others")
            return torch.frombuffer(arrival.content(), dtype=torch.uint8)
        if session.over.is_set():
            raise self._void("the state of the others")
        raise NotAdmittedError("told to stop while it was given the state of the others")

    def bytes_sent(self) -> int:
        return self._sent_before + self._session.sent

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

    def hear_of_view(self, session: Session, content: dict[str, Any]) -> None:
        view = view_of(content)
        with self._changed:
            while not session.over.is_set() and self._is_behind():
                self._changed.wait(PULSE_S)
            if session.over.is_set():
                return
            if wanted := content.get("wanted"):
                self._say(f"nobody takes a step until {wanted} more of the devices are there (fabric.min_devices)")
            self._owe_state(self._next_view)
            self._next_view = view
            self._over = reason_of(content.get("ended_by", ""))
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

    def distrust(self, why: str) -> None:
        self._distrusts = why

    def end(self) -> None:
        with self._changed:
            self._changed.notify_all()

    def _connect(self, limit_s: float) -> Session:
        """Connect, within a time limit, and start the threads of a session."""
        give_up_s = wall_seconds() + limit_s
        pause_s = PULSE_S
        who = {"name": self._name, "process": self._process, "run": self.run, "again": self._was_welcome}
        for attempt in count(1):
            began_s = wall_seconds()
            try:
                connect_s = connect_limit_s(attempt, again=self._was_welcome)
                session = Session(self._address, who, self, self._credentials, connect_s)
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
            Event().wait(max(0.0, pause_s - (wall_seconds() - began_s)))
            pause_s = min(2 * pause_s, _LONGEST_PAUSE_S)
        welcome = session.welcome
        if self._was_welcome and welcome["seats"] != self.size:
            session.start()  # its threads let go of what it holds
            session.close("it has another number of seats")
            raise FabricError(f"the hub has {welcome['seats']} seats, and had {self.size}: start this device again")
        self._was_welcome = True
        self.rank, self.size = int(welcome["seat"]), int(welcome["seats"])
        self.run, self.settings = str(welcome["run"]), dict(welcome["settings"])
        exposed = self._credentials is None and not is_loopback(self._address[0])
        self.insecure = exposed or bool(welcome.get("insecure"))
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
