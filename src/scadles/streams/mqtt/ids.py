"""Which messages were received before, in little memory."""

from __future__ import annotations

from bisect import bisect_right, insort
from collections import deque
from collections.abc import Iterable, Sequence
from operator import itemgetter


class Ids:
    """Numbers of messages, kept as runs: consecutive ones take no more room than two.

    Args:
        runs: to begin with, pairs (first, last), the oldest one first.
        limit: runs that are remembered; the oldest is forgotten for a new one.

    >>> ids = Ids([(1, 4)])
    >>> ids.add(5); ids.add(9)
    >>> 3 in ids, 7 in ids, ids.runs()
    (True, False, [(1, 5), (9, 9)])
    """

    def __init__(self, runs: Iterable[Sequence[int]] = (), limit: int = 65_536) -> None:
        self._limit = limit
        self._by_age = deque[list[int]]([int(first), int(last)] for first, last in runs)
        self._by_first = sorted(self._by_age)

    def __contains__(self, number: int) -> bool:
        place = bisect_right(self._by_first, number, key=itemgetter(0))
        return place > 0 and self._by_first[place - 1][1] >= number

    def add(self, number: int) -> None:
        """Remember a number, which must not be known yet."""
        if self._by_age and self._by_age[-1][1] + 1 == number:
            self._by_age[-1][1] = number
            return
        run = [number, number]
        self._by_age.append(run)
        insort(self._by_first, run)
        if len(self._by_age) > self._limit:
            self._by_first.remove(self._by_age.popleft())

    def runs(self) -> list[tuple[int, int]]:
        """Return all runs, the oldest first."""
        return [(first, last) for first, last in self._by_age]
