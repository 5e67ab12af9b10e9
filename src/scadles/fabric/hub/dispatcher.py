"""What comes of the frames that devices send up: sums for all, or what goes on to the others as it is."""

from __future__ import annotations

import numpy as np

from scadles.fabric.hub.collectives import CheckPiece, Collective, Delivery, Fold, FoldError, problem_of
from scadles.fabric.hub.frames import SUMS, Frame, FrameError, Kind
from scadles.fabric.hub.members import Member
from scadles.fabric.hub.rooms import Room
from scadles.fabric.hub.views import Views

_MOST_AT_ONCE = 1024


class Dispatcher:
    """Hands each frame to the collective that it belongs to, and what is whole to those that it is for.

    It takes the lock of the views itself, and lets go of it while something is added up.

    Args:
        views: who is there.
        fold: makes one message for everybody of all devices'; None where that is not asked for.
        check: looks at pieces of what ends a step.

    Attributes:
        refused: devices left out because of what became of their messages among those of the others.
    """

    def __init__(self, views: Views, fold: Fold | None, check: CheckPiece = lambda *_: "") -> None:
        self._views = views
        self._fold = fold
        self._check = check
        self.refused = 0

    def bring(self, member: Member, frame: Frame, room: Room) -> None:
        """Take a piece of what a member brings, and send on what is whole with it.

        Args:
            member: who brings it.
            frame: its header.
            room: where it lies; others may write to it from now on.

        Raises:
            FrameError: it cannot be.
        """
        views = self._views
        with views.lock:
            if frame.seat != member.seat or frame.view > views.number:
                raise FrameError(f"a frame of device {frame.seat} in view {frame.view}, which cannot be")
            if frame.view != views.number or member.seat not in views.here:
                return  # of a view that is over
            member.has_brought = True
            if frame.kind is Kind.RELAY:
                self._relay(member, frame, room)
                return
            collective = views.collectives.get(frame.sequence)
            if collective is None:
                if len(views.collectives) >= _MOST_AT_ONCE:
                    raise FrameError(f"more than {_MOST_AT_ONCE} collectives at once")
                collective = Collective(frame, views.here, views.seats, self._fold, views.following)
                views.collectives[frame.sequence] = collective
        if frame.kind in SUMS:
            self._look_at(member.seat, frame, np.frombuffer(room[: frame.length], frame.numpy_dtype))
        try:
            deliveries, complete = collective.bring(member.seat, frame, room)
        except FoldError as error:
            self._leave_out(error.seat, frame.view, str(error))
            return
        if deliveries or complete:
            self._deliver(frame, deliveries, complete=complete)

    def _look_at(self, seat: int, frame: Frame, values: np.ndarray) -> None:
        """Refuse numbers that must not be added to those of others."""
        why = problem_of(values)
        if frame.kind is Kind.STEP and not why:
            why = self._check(seat, values, (frame.total - frame.offset - frame.length) // values.itemsize)
        if why:
            raise FrameError(why)

    def _relay(self, member: Member, frame: Frame, room: Room) -> None:
        """Pass a piece on to all others."""
        if not member.relays(frame):
            raise FrameError("a message for the others whose pieces are not in order")
        going = Delivery((), frame._replace(seat=member.seat), room[: frame.length], room)
        for seat in (*self._views.here, *self._views.following):
            if seat != member.seat:
                self._views.members[seat].outbox.put(going, frame.length)

    def _deliver(self, frame: Frame, deliveries: list[Delivery], *, complete: bool) -> None:
        views = self._views
        with views.lock:
            if frame.view != views.number:
                return
            is_end = complete and views.end_of_step(frame.sequence)
            admits = is_end and views.admits
            for delivery in deliveries:
                going = delivery._replace(frame=delivery.frame._replace(last=admits))
                for seat in delivery.seats:
                    if seat in views.members:  # one that follows may be lost
                        views.members[seat].outbox.put(going, going.frame.length)
            if complete:
                del views.collectives[frame.sequence]
            # whoever has brought its part of a step has read all that came of those before
            behind = [views.members[seat] for seat in views.here if is_end and views.members[seat].outbox.is_behind()]
            if admits:
                views.change(admit=True)
            for member in behind:
                views.lose(member, "it takes steps, and does not read what comes of them")

    def _leave_out(self, seat: int, view: int, why: str) -> None:
        with self._views.lock:
            if view == self._views.number and seat in self._views.members:
                self.refused += 1
                self._views.lose(self._views.members[seat], f"what it sent was refused: {why}")
