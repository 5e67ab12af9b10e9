"""What a hub makes of the messages of one collective; nothing in here knows of sockets or of who comes and goes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from threading import Lock
from typing import NamedTuple

import numpy as np

from scadles.fabric.hub.frames import PIECE_BYTES, SUMS, Frame, FrameError, Kind, pieces
from scadles.fabric.hub.rooms import Room

#: Makes one message for everybody of those that members bring, by seat; None of who is no member.
Fold = Callable[[Sequence[bytearray | None]], bytes]


#: Says what is wrong with a piece of a step's sum, given the seat that brings it, its numbers, and how many numbers of
#: the message come after them; empty where nothing is.
CheckPiece = Callable[[int, np.ndarray, int], str]


class FoldError(FrameError):
    """A message that cannot be made part of the one for everybody.

    Attributes:
        seat: whose.
    """

    def __init__(self, seat: int, why: str) -> None:
        super().__init__(why)
        self.seat = seat


class Delivery(NamedTuple):
    """A frame for some devices.

    Attributes:
        seats: whose.
        frame, piece: what goes there.
        room: where the piece lies; None for memory of its own.
    """

    seats: Sequence[int]
    frame: Frame
    piece: memoryview
    room: Room | None = None


@dataclass
class _Sum:
    """One piece of a reduction.

    Attributes:
        seats: who has brought it.
        room: what has been added up and nobody is adding to just now; None while there is none.
        brought: of how many devices that is.
    """

    seats: set[int] = field(default_factory=set)
    room: Room | None = None
    brought: int = 0


class Collective:
    """One collective of a view.

    All members bring messages of one kind and length, in any order and in pieces; what a member brings twice counts
    once. The sum of a piece goes out as soon as it is whole.

    Args:
        first: the header of the first piece of any member.
        members: seats of all who take part.
        seats: how many seats there are; who is no member counts as one who brings zeros.
        following: seats of those who bring nothing, and get what comes of it.
        fold: makes one message of all, where that is asked for.

    Raises:
        FrameError: a fold is asked for where there is none.
    """

    def __init__(
        self,
        first: Frame,
        members: Sequence[int],
        seats: int,
        fold: Fold | None = None,
        following: Sequence[int] = (),
    ) -> None:
        if first.kind is Kind.FOLD and fold is None:
            raise FrameError("this hub adds up no compressed messages: its run has no compression.ratio")
        self._fold = fold
        self._first = first
        self._members = tuple(members)
        self._receivers = (*members, *following)
        self._seats = seats
        self._lock = Lock()
        self._sums: dict[int, _Sum] = {}
        self._rows: dict[int, bytearray] = {}
        self._brought: set[tuple[int, int]] = set()
        self._claims: dict[int, tuple[int, int, int]] = {}
        self._is_disputed = False
        self._left = len(pieces(first.total)) * (1 if first.kind in SUMS else len(members))

    def bring(self, seat: int, frame: Frame, room: Room) -> tuple[list[Delivery], bool]:
        """Add a member's piece; return what goes out, and whether this completes the collective.

        Args:
            seat: of the member.
            frame: the piece's header.
            room: where it lies; the collective keeps it, and may write to it.

        Raises:
            FoldError: somebody's message is not what it should be, or what most others bring.
        """
        if not self._agrees(seat, (frame.kind, frame.dtype, frame.total)):
            return [], False  # somebody is going to be left out, and this will be void
        if frame.kind in SUMS:
            return self._add(seat, frame, room)
        return self._collect(seat, frame, room[: frame.length])

    def _agrees(self, seat: int, claim: tuple[int, int, int]) -> bool:
        """Whether all bring one kind of message so far.

        Raises:
            FoldError: one of the few brings another one than most do, who need not have come first.
        """
        with self._lock:
            claims = self._claims
            if claims.setdefault(seat, claim) != claim:
                raise FoldError(seat, "it brings two kinds of messages to one collective")
            if claim == (self._first.kind, self._first.dtype, self._first.total) and not self._is_disputed:
                return True
            self._is_disputed = True
            (usual, count), *_ = Counter(claims.values()).most_common()
            if 2 * count <= len(self._members) and len(claims) < len(self._members):
                return False
            wrong = next((one for one, said in reversed(claims.items()) if said != usual), None)
            if wrong is None:
                return False  # only whoever began the collective brings another kind, and has not been here yet
        kind, _, total = claims[wrong]
        raise FoldError(
            wrong,
            f"device {wrong} brings {total} bytes to a {Kind(kind).name.lower()} where others bring {usual[2]} to a "
            f"{Kind(usual[0]).name.lower()}",
        )

    def awaited(self) -> set[int]:
        """Return the seats of which something is still to come."""
        with self._lock:
            if self._first.kind not in SUMS:
                last = pieces(self._first.total)[-1]
                return {seat for seat in self._members if (seat, last) not in self._brought}
            whole = len(self._sums) == len(pieces(self._first.total))
            return {
                seat for seat in self._members if not whole or any(seat not in s.seats for s in self._sums.values())
            }

    def _add(self, seat: int, frame: Frame, room: Room) -> tuple[list[Delivery], bool]:
        """Add up without a lock: whoever brings a piece takes the sum so far out, adds it, and puts it back."""
        with self._lock:
            entry = self._sums.setdefault(frame.offset, _Sum())
            if seat in entry.seats:
                return [], False
            entry.seats.add(seat)
        brought, piece = 1, room[: frame.length]
        values = np.frombuffer(piece, frame.numpy_dtype)
        while brought < len(self._members):
            with self._lock:
                if entry.room is None:
                    entry.room, entry.brought = room, brought
                    return [], False
                other, more, entry.room = entry.room, entry.brought, None
            np.add(values, np.frombuffer(other[: frame.length], frame.numpy_dtype), out=values)
            brought += more
        return [Delivery(self._receivers, frame, piece, room)], self._count()

    def _count(self) -> bool:
        with self._lock:
            self._left -= 1
            return self._left == 0

    def _collect(self, seat: int, frame: Frame, piece: memoryview) -> tuple[list[Delivery], bool]:
        with self._lock:
            row = self._rows.setdefault(seat, bytearray())
            if frame.offset != len(row) or (seat, frame.offset) in self._brought:
                return [], False
            self._brought.add((seat, frame.offset))
            row += piece
            self._left -= 1
            if self._left:
                return [], False
        frame = frame._replace(seat=0)
        if frame.kind is Kind.FOLD and self._fold is not None:
            folded = self._fold([self._rows.get(other) for other in range(self._seats)])
            return _cut(self._receivers, frame, folded), True
        if frame.kind is Kind.GATHER:
            table = b"".join(self._rows.get(other, bytearray(frame.total)) for other in range(self._seats))
            return _cut(self._receivers, frame, table), True
        width = frame.total // self._seats
        empty = bytes(width)
        deliveries: list[Delivery] = []
        for receiver in self._receivers:
            rows = (self._rows.get(sender) for sender in range(self._seats))
            here = [empty if row is None else row[receiver * width : (receiver + 1) * width] for row in rows]
            deliveries += _cut([receiver], frame, b"".join(here))
        return deliveries, True


def problem_of(values: np.ndarray) -> str:
    """Return what is wrong with numbers that are to be added up; empty where nothing is.

    The scalar product of numbers with themselves is finite where they are, unless large ones overflow it.
    """
    if not np.issubdtype(values.dtype, np.floating):
        return ""
    with np.errstate(over="ignore", invalid="ignore"):
        if np.isfinite(np.dot(values, values)) or np.isfinite(values).all():
            return ""
    return "NaN or infinity in a sum, which no device sends"


def _cut(seats: Sequence[int], frame: Frame, content: bytes) -> list[Delivery]:
    """Return a message in pieces."""
    total, view = len(content), memoryview(content)
    lengths = ((begin, min(PIECE_BYTES, total - begin)) for begin in pieces(total))
    return [
        Delivery(seats, frame._replace(offset=begin, total=total, length=length), view[begin : begin + length])
        for begin, length in lengths
    ]
