"""One stream's records, ready to be sent: when each is due, and its bytes."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
from torch import Tensor

from scadles.streams import Arrivals, Samples

BLOCK = 64

Encode = Callable[[Tensor, int | Tensor], tuple[bytes | None, bytes]]


class Feed:
    r"""The records of one stream, in order, each encoded before it is due.

    Args:
        samples: stream offsets, int64 ``[n]``, to samples ``[n, *shape]`` and labels ``[n]``, or other
            targets, as for a replayed stream.
        arrivals: when each record is due.
        encode: a sample and its label, or other target, to the key and the value of a message.
        records: how many there are; None for no end.
        phase: by how many records its look-ups come earlier: feeds of equal rates look up theirs one after the other.

    Attributes:
        number: of the next record, from 0.
        due_s: when it is due, in stream seconds; infinity after the last one.
        key: of its message.
        value: of its message.

    >>> import torch
    >>> from scadles.streams import RateProfile
    >>> numbers = lambda offsets: (torch.from_numpy(offsets), torch.from_numpy(offsets))
    >>> feed = Feed(numbers, Arrivals(RateProfile.constant(4.0)), lambda x, y: (None, bytes([y])), records=2)
    >>> feed.due_s, feed.value
    (0.25, b'\x00')
    >>> feed.advance()
    >>> feed.due_s, feed.value
    (0.5, b'\x01')
    >>> feed.advance()
    >>> feed.due_s
    inf
    """

    def __init__(
        self, samples: Samples, arrivals: Arrivals, encode: Encode, records: int | None = None, phase: int = 0
    ) -> None:
        self._samples = samples
        self._arrivals = arrivals
        self._encode = encode
        self._records = math.inf if records is None else records
        self.number = -1
        self.key: bytes | None = None
        self.value = b""
        self._times: list[float] = []
        self._first, self._ahead = 0, BLOCK - phase % BLOCK
        self.advance()

    def advance(self) -> None:
        """Go on to the next record."""
        self.number += 1
        if self.number == self._first + len(self._times):
            self._look_up()
        place = self.number - self._first
        self.due_s = self._times[place] if self.number < self._records else math.inf
        if self.due_s < math.inf:
            self.key, self.value = self._encode(self._x[place], self._y[place])

    @property
    def last_due_s(self) -> float:
        """When the last record is due; infinity where there is no end."""
        return math.inf if math.isinf(self._records) else self._arrivals.time(int(self._records) - 1)

    def due_by(self, time_s: float) -> int:
        """Return how many records are due by a stream time."""
        return int(min(self._arrivals.count_by(time_s), self._records))

    def _look_up(self) -> None:
        """Fetch the block of records that begins with the next one."""
        self._first, count = self.number, self._ahead
        self._ahead = BLOCK
        self._times = self._arrivals.times(self._first, count).tolist()
        self._x, y = self._samples(np.arange(self._first, self._first + count, dtype=np.int64))
        labels = y.dim() == 1 and not y.is_floating_point()
        self._y: list[int] | list[Tensor] = y.tolist() if labels else list(y)
