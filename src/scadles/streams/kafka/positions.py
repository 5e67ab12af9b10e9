"""From offsets in partitions to the one position of a stream, and back."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Mapping
from typing import NamedTuple

import numpy as np


class StreamPositions(ABC):
    """Where a stream stands, and where each of its partitions stood when it was somewhere else."""

    @property
    @abstractmethod
    def position(self) -> int:
        """The position of the next record."""

    @abstractmethod
    def of(self, partition: int, offsets: np.ndarray) -> np.ndarray:
        """Move past records of one partition; return their positions, int64 ``[n]``, for their offsets ``[n]``."""

    @abstractmethod
    def passed(self, partition: int, count: int, end: int) -> None:
        """Move past ``count`` records of one partition up to the offset ``end`` that nobody will see."""

    @abstractmethod
    def at(self, position: int) -> dict[int, int]:
        """Return the offset at which each partition stood at ``position``, not before the last one forgotten."""

    @abstractmethod
    def forget(self, position: int) -> None:
        """Forget what lies before ``position``."""

    @abstractmethod
    def joined(self, partition: int, offset: int) -> StreamPositions:
        """Return where the stream stands with one partition more, of which ``offset`` is the first record."""


class OnePartition(StreamPositions):
    """The position is the broker's offset.

    >>> positions = OnePartition(3, 100)
    >>> positions.of(3, np.array([100, 101, 103])).tolist(), positions.position, positions.at(102)
    ([100, 101, 103], 104, {3: 102})
    """

    def __init__(self, partition: int, offset: int) -> None:
        self._partition = partition
        self._offset = offset

    @property
    def position(self) -> int:
        return self._offset

    def of(self, partition: int, offsets: np.ndarray) -> np.ndarray:
        del partition
        self._offset = int(offsets[-1]) + 1
        return offsets

    def passed(self, partition: int, count: int, end: int) -> None:
        del partition, count
        self._offset = end

    def at(self, position: int) -> dict[int, int]:
        return {self._partition: position}

    def forget(self, position: int) -> None:
        """Do nothing: nothing is remembered."""

    def joined(self, partition: int, offset: int) -> StreamPositions:
        return ManyPartitions(self._offset, {self._partition: self._offset, partition: offset}, self._partition)


class _Piece(NamedTuple):
    """Consecutive positions of one partition: its offsets, a range of them, or None for records that nobody saw."""

    first: int
    records: int
    partition: int
    end: int
    offsets: np.ndarray | range | None


class ManyPartitions(StreamPositions):
    """The position counts the records of all partitions in the order in which they came, lost and skipped ones too.

    Which records these were is remembered from the last checkpoint on: a range for consecutive ones, 8 bytes for each
    where the partition has holes.

    Args:
        position: of the next record.
        offsets: of each partition there.
        alone: the partition that was the only one before ``position``, so that positions there are its offsets; None
            where there is none.

    >>> positions = ManyPartitions(0, {0: 10, 1: 20})
    >>> positions.of(1, np.array([20, 21])).tolist(), positions.of(0, np.array([10, 11, 12])).tolist()
    ([0, 1], [2, 3, 4])
    >>> positions.passed(1, 5, 27)
    >>> positions.position, positions.at(1), positions.at(4), positions.at(10)
    (10, {0: 10, 1: 21}, {0: 12, 1: 22}, {0: 13, 1: 27})
    """

    def __init__(self, position: int, offsets: Mapping[int, int], alone: int | None = None) -> None:
        self._position = self._began = position
        self._alone = alone
        self._base = dict(offsets)
        self._pieces: deque[_Piece] = deque()

    @property
    def position(self) -> int:
        return self._position

    def of(self, partition: int, offsets: np.ndarray) -> np.ndarray:
        first, count = self._position, len(offsets)
        begin, end = int(offsets[0]), int(offsets[-1]) + 1
        self._add(_Piece(first, count, partition, end, range(begin, end) if end - begin == count else offsets))
        return np.arange(first, first + count, dtype=np.int64)

    def passed(self, partition: int, count: int, end: int) -> None:
        self._add(_Piece(self._position, count, partition, end, None))

    def at(self, position: int) -> dict[int, int]:
        offsets = dict(self._base)
        if self._alone is not None and position < self._began:
            return offsets | {self._alone: position}
        for piece in self._pieces:
            if piece.first + piece.records <= position:
                offsets[piece.partition] = piece.end
            elif piece.offsets is not None and piece.first < position:
                offsets[piece.partition] = int(piece.offsets[position - piece.first])
        return offsets

    def forget(self, position: int) -> None:
        while self._pieces and self._pieces[0].first + self._pieces[0].records <= position:
            piece = self._pieces.popleft()
            self._base[piece.partition] = piece.end

    def joined(self, partition: int, offset: int) -> StreamPositions:
        self._base[partition] = offset
        return self

    def _add(self, piece: _Piece) -> None:
        self._pieces.append(piece)
        self._position += piece.records
