"""What a resumed stream brings again although nothing holds it: records that were rejected or lost, counted in runs."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence

import numpy as np


class Ahead:
    """Counts records that are not held, by where they lie between those that are.

    A checkpoint goes on from the oldest record that is held, so what was rejected behind it will come again. Those
    between two good records are one run, whatever their number: there is at most one run more than good records since
    the last :meth:`forget_before`, which a buffer bounds.

    >>> ahead = Ahead()
    >>> ahead.note([0, 1, 3, 4, 7], good=np.array([2, 6]))
    >>> ahead.note([8], good=np.array([], dtype=np.int64))
    >>> len(ahead), ahead.count
    (3, 6)
    >>> ahead.forget_before(2)
    >>> len(ahead), ahead.count
    (2, 4)
    """

    __slots__ = ("_newest_good", "_runs")

    def __init__(self) -> None:
        self._runs: deque[tuple[int, int]] = deque()
        self._newest_good = -1

    def __len__(self) -> int:
        """Return the number of runs."""
        return len(self._runs)

    def count_from(self, position: int) -> int:
        """Return how many there are in the runs that :meth:`forget_before` would leave."""
        return sum(count for offset, count in self._runs if offset >= position)

    @property
    def count(self) -> int:
        """How many records there are in all runs."""
        return sum(count for _, count in self._runs)

    def note(self, offsets: Sequence[int] | np.ndarray, good: np.ndarray) -> None:
        """Take note of what one poll brought.

        Args:
            offsets: of records that are not held, ascending.
            good: offsets of those that are, int64 ``[n]``, ascending.
        """
        if len(offsets):
            places, firsts, counts = np.unique(np.searchsorted(good, offsets), return_index=True, return_counts=True)
            for place, first, count in zip(places.tolist(), firsts.tolist(), counts.tolist(), strict=True):
                if place:
                    self._newest_good = int(good[place - 1])
                self.add(int(offsets[first]), count)
        if len(good):
            self._newest_good = int(good[-1])

    def add(self, offset: int, count: int) -> None:
        """Take note of ``count`` records from ``offset`` on, behind all that were noted before."""
        if self._runs and self._runs[-1][0] > self._newest_good:
            offset, before = self._runs.pop()
            count += before
        self._runs.append((offset, count))

    def forget_before(self, position: int) -> None:
        """Forget the runs before a record that is held, or before all that is still to come."""
        while self._runs and self._runs[0][0] < position:
            self._runs.popleft()
