"""The common state on its way from one device to those that are to go on from it, while the others take steps."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from queue import Empty, Full, Queue

from scadles.fabric.hub.frames import Frame, FrameError, Kind
from scadles.fabric.hub.members import PULSE_S, Member
from scadles.fabric.hub.rooms import Room

_MOST_PIECES = 8

Piece = tuple[Frame, Room]


class HandOver:
    """A state that comes in pieces from one device and goes to others, in bounded memory: the slowest sets the pace.

    Args:
        view: with which it began.
        source: whose state it is.
        receivers: who gets it.

    Attributes:
        view, source, receivers: as given.
        is_begun: whether a connection brings it.
        is_whole: whether all of it has come, and waits for the receivers at most.
        moved: bytes that have come so far.
    """

    def __init__(self, view: int, source: Member, receivers: Sequence[Member]) -> None:
        self.view = view
        self.source = source
        self.receivers = tuple(receivers)
        self.is_begun = False
        self.is_whole = False
        self.moved = 0
        self._queues: dict[Member, Queue[Piece]] = {one: Queue(_MOST_PIECES) for one in receivers}

    def bring(self, frame: Frame, room: Room) -> None:
        """Pass on the next piece; waits where a receiver is slow.

        Raises:
            FrameError: it is not the next piece of this state.
        """
        if frame.kind is not Kind.STATE or frame.view != self.view or frame.offset != self.moved or self.is_whole:
            raise FrameError(f"{frame.kind.name} at {frame.offset} where {self.moved} bytes of a state have come")
        for receiver in self.receivers:
            self._put(receiver, (frame, room))
        self.moved += frame.length
        self.is_whole = self.moved == frame.total

    def pieces(self, receiver: Member) -> Iterator[Piece]:
        """Yield the pieces for a receiver as they come, until it has all of them or its connections have ended."""
        queue = self._queues[receiver]
        came = 0
        while not receiver.is_gone:
            try:
                piece = queue.get(timeout=PULSE_S)
            except Empty:
                continue
            yield piece
            came += piece[0].length
            if came == piece[0].total:
                return

    def _put(self, receiver: Member, piece: Piece) -> None:
        while not receiver.is_gone:
            try:
                self._queues[receiver].put(piece, timeout=PULSE_S)
            except Full:
                continue
            return
