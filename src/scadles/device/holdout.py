"""What a device keeps of its stream for tests alone."""

from __future__ import annotations

from collections import deque

import numpy as np

from scadles.records import Records

_FIRST, _SECOND, _STEP = (np.uint64(n) for n in (0xBF58476D1CE4E5B9, 0x94D049BB133111EB, 0x9E3779B97F4A7C15))


def held_out(offsets: np.ndarray, every: int) -> np.ndarray:
    """Return which records of a stream are for tests alone, bool ``[n]``: one of each ``every`` consecutive ones.

    Which one depends on its offset alone, by a hash (splitmix64), so that a stream whose labels come in turn is not
    tested on one of them, and whoever reads the stream again holds out the same.

    Args:
        offsets: in the stream, int64 ``[n]``.
        every: one of so many.

    >>> held_out(np.arange(8), 4).reshape(2, 4).sum(axis=1).tolist()
    [1, 1]
    """
    mixed = (offsets // every).astype(np.uint64) * _STEP + _STEP
    mixed = (mixed ^ (mixed >> np.uint64(30))) * _FIRST
    mixed = (mixed ^ (mixed >> np.uint64(27))) * _SECOND
    mixed ^= mixed >> np.uint64(31)
    chosen: np.ndarray = offsets % every == (mixed % np.uint64(every)).astype(np.int64)
    return chosen


class Holdout:
    """One of every ``every`` records of a stream, the newest ones of them: never trained on, never shared.

    They lie in memory alone: after a restart it fills again from where the stream goes on.

    Args:
        every: one of so many.
        capacity: records kept; the oldest go for new ones.

    >>> import torch
    >>> holdout = Holdout(every=4, capacity=3)
    >>> records = Records(np.arange(40), np.zeros(40), torch.arange(40), torch.zeros(40, dtype=torch.int64))
    >>> rest, tested = holdout.split(records)
    >>> len(rest), len(tested), len(holdout)
    (30, 10, 3)
    """

    __slots__ = ("_capacity", "_every", "_held", "_parts")

    def __init__(self, every: int, capacity: int) -> None:
        self._every = every
        self._capacity = capacity
        self._parts: deque[Records] = deque()
        self._held = 0

    def __len__(self) -> int:
        return self._held

    @property
    def records(self) -> Records:
        """All that is kept, the oldest first."""
        return Records.concatenate(self._parts)

    def split(self, records: Records) -> tuple[Records, np.ndarray]:
        """Keep what is for tests; return the other records, and the offsets of those for tests, int64 ``[m]``."""
        chosen = held_out(records.offsets, self._every)
        if not chosen.any():
            return records, records.offsets[:0]
        self._keep(records.where(chosen))
        return records.where(~chosen), records.offsets[chosen]

    def forget_from(self, offset: int) -> None:
        """Forget the records from ``offset`` on: the stream brings them again."""
        parts = [part.where(part.offsets < offset) for part in self._parts]
        self._parts = deque(part for part in parts if len(part))
        self._held = sum(map(len, self._parts))

    def clear(self) -> None:
        """Forget all."""
        self._parts.clear()
        self._held = 0

    def _keep(self, records: Records) -> None:
        self._parts.append(records)
        self._held += len(records)
        while (beyond := self._held - self._capacity) > 0:
            oldest = self._parts.popleft()
            self._held -= min(beyond, len(oldest))
            if len(oldest) > beyond:
                self._parts.appendleft(oldest[beyond:])
