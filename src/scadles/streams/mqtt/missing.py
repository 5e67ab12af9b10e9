"""Which messages never came, as gaps in their ids show."""

from __future__ import annotations

from bisect import bisect_right
from collections import deque
from collections.abc import Iterable, Sequence
from operator import itemgetter
from typing import Any

#: A producer that goes on further ahead than this has been started again: its ids begin anew.
LARGEST_GAP = 100_000
_MOST_SERIES = 16
_MOST_GAPS = 256
_MOST_RUNS = 4096


class _Series:
    """The ids of one producer: ascending, each one more than the one before.

    Attributes:
        first: the lowest one that came.
        next: the one that should come.
        follows: how many came right behind the one before.
        jumps: how many came further on.
        closed: ids in gaps that are not remembered any more.
        gaps: pairs [first, last] of ids that have not come, ascending.
    """

    __slots__ = ("closed", "first", "follows", "gaps", "jumps", "next")

    def __init__(
        self,
        first: int,
        following: int,
        follows: int = 0,
        jumps: int = 0,
        closed: int = 0,
        gaps: Sequence[Sequence[int]] = (),
    ) -> None:
        self.first, self.next = first, following
        self.follows, self.jumps, self.closed = follows, jumps, closed
        self.gaps = [list(gap) for gap in gaps]

    @property
    def missing(self) -> int:
        """How many ids have not come; 0 where most do not follow each other, which no producer does that counts."""
        if self.jumps > self.follows:
            return 0
        return self.closed + sum(last - first + 1 for first, last in self.gaps)

    def state(self) -> list[Any]:
        return [self.first, self.next, self.follows, self.jumps, self.closed, [list(gap) for gap in self.gaps]]

    def jump(self, number: int) -> None:
        """Take an id that lies ahead."""
        self.gaps.append([self.next, number - 1])
        self.jumps += 1
        self.next = number + 1
        self._bound()

    def fill(self, number: int) -> bool:
        """Take an id out of the gap that it lies in; return whether there is one."""
        place = bisect_right(self.gaps, number, key=itemgetter(0)) - 1
        if place < 0 or self.gaps[place][1] < number:
            return False
        first, last = self.gaps[place]
        parts = [[first, number - 1], [number + 1, last]]
        self.gaps[place : place + 1] = [part for part in parts if part[0] <= part[1]]
        self._bound()
        return True

    def _bound(self) -> None:
        while len(self.gaps) > _MOST_GAPS:
            first, last = self.gaps.pop(0)
            self.closed += last - first + 1


class Missing:
    """Counts ids between those that came, in bounded memory whatever the ids are.

    Ids that ascend by one are a series, and there may be 16 at a time: producers whose ids lie more than 100,000 apart.
    A series may begin anywhere. What lies between one id and the next is missing, and no more once it comes after all.
    An id further ahead than 100,000 begins another series, because ids of a producer that was started again do so.

    Args:
        state: to go on from.

    >>> missing = Missing()
    >>> for number in (700, 701, 702, 706, 707, 704): missing.note(number)
    >>> missing.count
    2
    """

    def __init__(self, state: Sequence[Any] = ()) -> None:
        closed, *series = state or (0,)
        self._closed = int(closed)
        self._series = [_Series(*one) for one in series]  # the one that was met last comes last

    @property
    def count(self) -> int:
        """How many ids are missing."""
        return self._closed + sum(series.missing for series in self._series)

    def state(self) -> list[Any]:
        """Return what a checkpoint must hold, ready for JSON."""
        return [self._closed, *(series.state() for series in self._series)]

    def note(self, number: int) -> None:
        """Take note of a message that has come for the first time."""
        if self._series and self._series[-1].next == number:
            self._series[-1].next += 1
            self._series[-1].follows += 1
            return
        for place, series in enumerate(self._series):
            if series.next == number or series.fill(number):
                if series.next == number:
                    series.next += 1
                    series.follows += 1
                self._series.append(self._series.pop(place))
                return
        if any(series.first <= number < series.next for series in self._series):
            return  # later than anybody remembers
        behind = [series for series in self._series if series.next < number <= series.next + LARGEST_GAP]
        if behind:
            nearest = max(behind, key=lambda series: series.next)
            nearest.jump(number)
            self._series.remove(nearest)
            self._series.append(nearest)
        else:
            self._begin(number)

    def _begin(self, number: int) -> None:
        if len(self._series) == _MOST_SERIES:
            self._closed += self._series.pop(0).missing
        self._series.append(_Series(number, number + 1))


class MissingIds:
    """Counts missing ids now, and knows what was counted at any position since the last checkpoint.

    Messages that came behind a checkpoint's position come again to a resumed run; those that do not are missing there.

    Args:
        state: of a checkpoint.

    >>> ids = MissingIds()
    >>> for offset, number in enumerate((5, 6, 9, 10)): ids.note(offset, number)
    >>> ids.count, MissingIds(ids.at(2)).count
    (2, 0)
    """

    def __init__(self, state: Sequence[Any] = ()) -> None:
        self._now = Missing(state)
        self._then = Missing(state)
        self._runs = deque[list[int]]()  # offset, id and number of messages that follow each other in both

    @property
    def count(self) -> int:
        """How many ids are missing."""
        return self._now.count

    def note(self, offset: int, number: int) -> None:
        """Take note of a message that has come for the first time, and of the offset that it was given."""
        self._now.note(number)
        if self._runs:
            first_offset, first, count = self._runs[-1]
            if (first_offset + count, first + count) == (offset, number):
                self._runs[-1][2] += 1
                return
        self._runs.append([offset, number, 1])
        if len(self._runs) > _MOST_RUNS:
            self._replay([self._runs.popleft()], offset, self._then)

    def at(self, position: int) -> list[Any]:
        """Return the state of when the messages before ``position`` had come."""
        then = Missing(self._then.state())
        self._replay(self._runs, position, then)
        return then.state()

    def commit(self, position: int) -> None:
        """Forget what lies before ``position``: no state will be asked for there."""
        while self._runs and self._runs[0][0] < position:
            offset, number, count = self._runs[0]
            self._replay([self._runs[0]], position, self._then)
            if offset + count > position:
                self._runs[0] = [position, number + position - offset, offset + count - position]
                return
            self._runs.popleft()

    @staticmethod
    def _replay(runs: Iterable[Sequence[int]], position: int, into: Missing) -> None:
        for offset, number, count in runs:
            for step in range(min(count, position - offset)):
                into.note(number + step)
