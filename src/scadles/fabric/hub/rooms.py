"""Memory for pieces of messages, used again and again: fresh memory costs a page fault for each 4 kB of it."""

from __future__ import annotations

from collections import deque

import numpy as np

from scadles.fabric.hub.frames import PIECE_BYTES

#: Free rooms that are kept; what is freed beyond goes back to the system.
_MOST_FREE = 64


class Room:
    """Memory for one piece, which returns to its pool when nobody holds it any more.

    Attributes:
        memory: uint8 ``[PIECE_BYTES]``.
    """

    __slots__ = ("_free", "memory")

    def __init__(self, free: deque[np.ndarray]) -> None:
        self._free = free
        try:
            self.memory = free.pop()  # the latest one, which may still be in a cache
        except IndexError:
            self.memory = np.empty(PIECE_BYTES, np.uint8)

    def __del__(self) -> None:
        self._free.append(self.memory)

    def __getitem__(self, part: slice) -> memoryview:
        return self.memory.data[part]


class Rooms:
    """A pool of rooms that all threads of a hub share.

    >>> rooms = Rooms()
    >>> room = rooms.take()
    >>> memory = room.memory
    >>> del room
    >>> rooms.take().memory is memory
    True
    """

    def __init__(self) -> None:
        self._free: deque[np.ndarray] = deque(maxlen=_MOST_FREE)

    def take(self) -> Room:
        """Return a room, whatever it holds."""
        return Room(self._free)
