"""When the records of a replayed stream arrive."""

from __future__ import annotations

from array import array
from bisect import bisect_right

import numpy as np

from scadles.seeding import numpy_generator
from scadles.streams.profile import RateProfile

BLOCK = 64
CACHED_BLOCKS = 2
MOST_STARTS = 16_384


class Arrivals:
    """The arrival times of one stream's records, the same whatever the order in which they are asked for.

    Args:
        profile: the expected number of records by any time.
        poisson: seed parts, for example ``(seed, device)``, for records that arrive independently of each other; None
            for evenly spaced ones: record k (from 0) arrives when k + 1 records are expected.

    Memory is bounded by two blocks of 64 gaps and 16,384 numbers: the sum of all gaps before every block, of a long
    stream before every second block, fourth, and so on. Regular records take none.

    >>> arrivals = Arrivals(RateProfile.constant(4.0))
    >>> arrivals.times(0, 3).tolist()
    [0.25, 0.5, 0.75]
    >>> arrivals.count_by(0.5)
    2
    """

    __slots__ = ("_blocks", "_counted", "_counted_s", "_every", "_poisson", "_profile", "_starts")

    def __init__(self, profile: RateProfile, poisson: tuple[int, ...] | None = None) -> None:
        self._profile = profile
        self._poisson = poisson
        self._counted_s, self._counted = 0.0, 0
        if poisson is not None:
            self._starts, self._every = array("d", [0.0]), 1
            self._blocks: dict[int, np.ndarray] = {}

    def times(self, first: int, count: int) -> np.ndarray:
        """Return the event times in stream seconds of ``count`` records from ``first`` on, float64 ``[count]``."""
        return self._profile.when(self._expectations(first, count))

    def time(self, record: int) -> float:
        """Return the event time of one record in stream seconds; inf if it never arrives."""
        if self._poisson is None:
            return self._profile.when_one(record + 1.0)
        block, place = divmod(record, BLOCK)
        return self._profile.when_one(float(self._block(block)[place]))

    def count_by(self, time_s: float) -> int:
        """Return how many records have arrived by the stream time ``time_s``, those of this very moment included."""
        if self._counted_s != time_s:
            expected = self._profile.expected_at(time_s)
            count = int(expected) if self._poisson is None else self._count_poisson(expected)
            # The times are the truth: rounding of the inverse must not hide a record at its own time.
            count = max(0, count - 2)
            while self.time(count) <= time_s:
                count += 1
            self._counted_s, self._counted = time_s, count
        return self._counted

    def _expectations(self, first: int, count: int) -> np.ndarray:
        """Return for each record how many must be expected for it to arrive, float64 ``[count]``."""
        if self._poisson is None:
            return np.arange(first + 1, first + count + 1, dtype=np.float64)
        end = first + count
        parts = [
            self._block(block)[max(0, first - block * BLOCK) : end - block * BLOCK]
            for block in range(first // BLOCK, -(-end // BLOCK))
        ]
        return np.concatenate([np.empty(0), *parts])

    def _count_poisson(self, expected: float) -> int:
        while self._starts[-1] <= expected:
            self._start(len(self._starts) * self._every)
        block = (bisect_right(self._starts, expected) - 1) * self._every
        # from a block that is known and not behind it, where there is one
        block = max([block, *(number for number, sums in self._blocks.items() if sums[0] <= expected)])
        while (sums := self._block(block))[-1] <= expected:
            block += 1
        return block * BLOCK + int(np.searchsorted(sums, expected, side="right"))

    def _block(self, number: int) -> np.ndarray:
        """Return the running sums of unit-rate gaps up to each record of a block, float64 ``[BLOCK]``."""
        if number in self._blocks:
            return self._blocks[number]
        sums = self._sums(number, self._start(number))
        if len(self._blocks) == CACHED_BLOCKS:
            del self._blocks[min(self._blocks)]  # streams go forward
        self._blocks[number] = sums
        return sums

    def _start(self, number: int) -> float:
        """Return the sum of all gaps before a block, counted from the nearest sum before it that is known."""
        if number - 1 in self._blocks:
            block, start = number, float(self._blocks[number - 1][-1])
            self._note(block, start)
        else:
            place = min(number // self._every, len(self._starts) - 1)
            block, start = place * self._every, self._starts[place]
        while block < number:
            start = float(self._sums(block, start)[-1])
            block += 1
            self._note(block, start)
        return start

    def _note(self, block: int, start: float) -> None:
        if block == len(self._starts) * self._every:
            self._starts.append(start)
            if len(self._starts) > MOST_STARTS:
                self._starts, self._every = self._starts[::2], 2 * self._every

    def _sums(self, number: int, start: float) -> np.ndarray:
        gaps = numpy_generator(*self._poisson or (), "arrivals", number).standard_exponential(BLOCK)
        return np.asarray(start + np.cumsum(gaps))
