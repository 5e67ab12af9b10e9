"""Messages on their way to a device, in pieces: those that it waits for, and some that come before it does."""

from __future__ import annotations

from collections.abc import Callable
from threading import Condition

from scadles.fabric.hub.connection import Connection
from scadles.fabric.hub.frames import SUMS, Frame, FrameError, pieces
from scadles.fabric.hub.members import PULSE_S

#: Memory for messages that nobody waits for yet.
_MOST_AHEAD = 1 << 26

#: View, sequence, and the sender where the message is of one device.
Key = tuple[int, int, int]


class Arrival:
    """A message on its way here.

    Args:
        room: where it goes; an empty bytearray grows as it comes.
        most: it is not longer.

    Attributes:
        room: as given.
        total: its length, once that is known.
        ends_view: whether the view ends with it.
    """

    def __init__(self, room: memoryview | bytearray, most: int) -> None:
        self.room = room
        self.total = -1
        self.ends_view = False
        self._most = most
        self._left = -1
        self._into: memoryview | None = None

    @property
    def is_here(self) -> bool:
        """Whether all of it has come."""
        return self._left == 0

    @property
    def is_too_long(self) -> bool:
        """Whether it is longer than agreed; then nothing of it is kept."""
        return self.total > self._most

    def take(self, frame: Frame, connection: Connection) -> None:
        """Read a piece from where its header came from.

        Raises:
            FrameError: its pieces are not in order.
        """
        self.total, self.ends_view = frame.total, self.ends_view or frame.last
        if self._left < 0:
            self._left = len(pieces(frame.total))
        if self.is_too_long:
            connection.read_into(memoryview(bytearray(frame.length)))
        else:
            if isinstance(self.room, bytearray):
                if frame.offset != len(self.room):
                    raise FrameError(f"a piece at {frame.offset} where {len(self.room)} bytes have come")
                self.room.extend(bytes(frame.length))
            connection.read_into(memoryview(self.room)[frame.offset : frame.offset + frame.length])
        self._left -= 1

    def goes_into(self, room: memoryview | bytearray, most: int) -> None:
        """Say where it belongs, and how long it may be, after it has begun to come."""
        self._most = most
        if isinstance(room, memoryview):
            self._into = room

    def content(self) -> memoryview | bytearray:
        """Return where it lies, once it is here."""
        if self._into is not None:
            self._into[:] = self.room
            return self._into
        return self.room


class Arrivals:
    """All messages on their way here.

    A device that takes part is sent what it waits for, and messages of others that may be early. One that only follows
    may be sent much that it has not come to; then nothing more is read until it has, so that the hub knows.

    Args:
        changed: guards all of this; notified when a message is here.
    """

    def __init__(self, changed: Condition) -> None:
        self._changed = changed
        self._all: dict[Key, Arrival] = {}
        self._early: dict[Key, int] = {}  # bytes of messages that nobody waits for yet
        self._early_bytes = 0
        self._awaited: list[Arrival] = []

    def expect(self, key: Key, room: memoryview | bytearray, most: int) -> None:
        """Say where a message is to go, whether it has begun to come or not."""
        with self._changed:
            early = self._forget_early(key)
            arrival = self._all.get(key)
            if arrival is None or not early:
                self._all[key] = Arrival(room, most)
            else:
                arrival.goes_into(room, most)
            self._changed.notify_all()

    def wait(self, key: Key, give_up: Callable[[Arrival], bool], pause_s: float) -> Arrival:
        """Wait until a message is here, and return it; or where ``give_up`` says so, whatever has come of it.

        Args:
            key: expected before.
            give_up: asked again and again with the lock held.
            pause_s: between two times at most.
        """
        with self._changed:
            arrival = self._all[key]
            self._awaited.append(arrival)
            self._changed.notify_all()
            try:
                while not give_up(arrival):
                    self._changed.wait(pause_s)
            finally:
                self._awaited.remove(arrival)
                self._all.pop(key, None)
        return arrival

    def take(self, key: Key, frame: Frame, connection: Connection, over: Callable[[], bool], *, early: bool) -> bool:
        """Read a piece where it belongs; return whether it belongs anywhere.

        Args:
            key, frame: of the piece.
            connection: from which it is read.
            over: whether it is too late to wait for room.
            early: whether it is kept where nobody waits for it yet.
        """
        with self._changed:
            while early and key not in self._all and self._is_full(frame) and not over():
                self._changed.wait(PULSE_S)
            arrival = self._all.get(key)
            if arrival is None and early:
                arrival = self._all[key] = Arrival(_room_for(frame), frame.total)
                self._early[key] = frame.total
                self._early_bytes += frame.total
        if arrival is None:
            return False
        arrival.take(frame, connection)
        if arrival.is_here:
            with self._changed:
                self._changed.notify_all()
        return True

    @property
    def are_early(self) -> bool:
        """Whether something has come for which nobody waits yet, though nobody waits for what may be behind it."""
        return bool(self._early) and not self._somebody_waits

    @property
    def _somebody_waits(self) -> bool:
        return any(not arrival.is_here for arrival in self._awaited)

    def discard_before(self, view: int) -> None:
        """Let go of the messages of older views."""
        with self._changed:
            for key in [key for key in self._all if key[0] < view]:
                self._forget_early(key)
                del self._all[key]

    def _forget_early(self, key: Key) -> bool:
        size = self._early.pop(key, None)
        self._early_bytes -= size or 0
        return size is not None

    def _is_full(self, frame: Frame) -> bool:
        """Whether there is no room for one more that is early; there is where somebody waits for what may be behind."""
        return self._early_bytes + frame.total > _MOST_AHEAD and not self._somebody_waits


def _room_for(frame: Frame) -> memoryview | bytearray:
    """Return room for a message that nobody waits for yet; pieces of sums may come in any order."""
    try:
        return memoryview(bytearray(frame.total)) if frame.kind in SUMS else bytearray()
    except MemoryError:
        raise FrameError(f"a sum of {frame.total} bytes, for which there is no memory") from None
