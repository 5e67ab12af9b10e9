"""How many different records have ever left a device, known in bounded memory."""

from __future__ import annotations

import base64
import zlib
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any

import numpy as np

Numbers = Callable[[np.ndarray], np.ndarray]


class History(ABC):
    """Remembers of the records that a device has sent as much as it takes to count each of them once."""

    __slots__ = ()

    @property
    @abstractmethod
    def distinct(self) -> int:
        """How many different records have left."""

    @abstractmethod
    def add(self, offsets: np.ndarray, batch_begins: int) -> None:
        """Take note that the records at these stream offsets leave, int64 ascending, and where their batch begins."""

    @abstractmethod
    def state(self) -> dict[str, Any]:
        """Return what a checkpoint needs, as JSON can hold it."""

    @abstractmethod
    def load(self, state: dict[str, Any]) -> None:
        """Go on from what :meth:`state` returned."""


class Numbered(History):
    """One bit for each sample of a finite data set that is played again and again.

    A record is the same one in every pass, so it is known by its number in the data set, not by its offset.

    Args:
        numbers: stream offsets to numbers in the data set, int64 ``[n]`` both.
        size: of the data set.

    >>> history = Numbered(lambda offsets: offsets % 5, size=5)
    >>> history.add(np.array([1, 2]), 0); history.add(np.array([6, 9]), 5); history.distinct
    3
    """

    __slots__ = ("_bits", "_numbers", "_size")

    def __init__(self, numbers: Numbers, size: int) -> None:
        self._numbers = numbers
        self._size = size
        self._bits: np.ndarray | None = None  # devices that never share need none

    @property
    def distinct(self) -> int:
        return 0 if self._bits is None else int(np.unpackbits(self._bits).sum())

    def add(self, offsets: np.ndarray, batch_begins: int) -> None:
        if not len(offsets):
            return
        if self._bits is None:
            self._bits = np.zeros(-(-self._size // 8), dtype=np.uint8)
        numbers = self._numbers(offsets)
        np.bitwise_or.at(self._bits, numbers // 8, np.left_shift(1, numbers % 8).astype(np.uint8))

    def state(self) -> dict[str, Any]:
        bits = b"" if self._bits is None else self._bits.tobytes()
        return {"bits": base64.b64encode(zlib.compress(bits)).decode()}

    def load(self, state: dict[str, Any]) -> None:
        bits = zlib.decompress(base64.b64decode(state["bits"]))
        self._bits = np.frombuffer(bits, dtype=np.uint8).copy() if bits else None


class Passing(History):
    """A count, for a stream that never brings a record twice.

    A record is known by its offset. One that was sent and then given back to the buffer is taken, and perhaps sent,
    once more: what was sent of the present batch has to be remembered, and nothing that lies before it.

    >>> history = Passing()
    >>> history.add(np.array([3, 5]), 0); history.add(np.array([5, 7]), 0); history.add(np.array([11]), 8)
    >>> history.distinct
    4
    """

    __slots__ = ("_count", "_latest")

    def __init__(self) -> None:
        self._count = 0
        self._latest = np.empty(0, dtype=np.int64)

    @property
    def distinct(self) -> int:
        return self._count

    def add(self, offsets: np.ndarray, batch_begins: int) -> None:
        if not len(offsets):
            return
        fresh = np.setdiff1d(offsets, self._latest, assume_unique=True)
        self._count += len(fresh)
        still = self._latest[self._latest >= batch_begins]
        self._latest = np.union1d(still, offsets)

    def state(self) -> dict[str, Any]:
        return {"count": self._count, "latest": self._latest.tolist()}

    def load(self, state: dict[str, Any]) -> None:
        self._count = state["count"]
        self._latest = np.array(state["latest"], dtype=np.int64)
