"""The targets of a stream's records, ready to be sent later than these."""

from __future__ import annotations

import math
from heapq import heappop, heappush

import numpy as np
import torch

from scadles.publishing.feed import BLOCK, Encode, Feed
from scadles.streams import Arrivals, Samples
from scadles.streams.late import delays


class TargetFeed(Feed):
    """The targets of one stream, in the order in which they are due: from 0 to ``delay_s`` after their samples.

    Args:
        samples, arrivals, records: those of the samples.
        encode: the number of a sample and its target to the key and the value of a message.
        delay_s: the longest delay.
        seed: of the delays, which are uniform.
    """

    def __init__(
        self,
        samples: Samples,
        arrivals: Arrivals,
        encode: Encode,
        records: int | None,
        delay_s: float,
        *seed: int,
    ) -> None:
        self._delay_s = delay_s
        self._seed = seed
        self._pending: list[tuple[float, int]] = []
        self._noted = 0
        super().__init__(samples, arrivals, encode, records)

    def advance(self) -> None:
        self.number += 1
        while self._noted < self._records and self._next_may_be_sooner():
            self._note_block()
        self.due_s = math.inf
        if self._pending:
            self.due_s, number = heappop(self._pending)
            y = self._samples(np.array([number]))[1][0]
            whole = y.dim() == 0 and not y.is_floating_point()
            self.key, self.value = self._encode(torch.tensor(number), int(y) if whole else y)

    @property
    def last_due_s(self) -> float:
        return super().last_due_s + self._delay_s

    def due_by(self, time_s: float) -> int:
        sure, arrived = (super(TargetFeed, self).due_by(until_s) for until_s in (time_s - self._delay_s, time_s))
        if arrived == sure:
            return sure
        return sure + int((self._due(sure, arrived - sure) <= time_s).sum())

    def _next_may_be_sooner(self) -> bool:
        return not self._pending or self._arrivals.time(self._noted) < self._pending[0][0]

    def _note_block(self) -> None:
        count = int(min(BLOCK, self._records - self._noted))
        for number, due_s in enumerate(self._due(self._noted, count).tolist(), self._noted):
            heappush(self._pending, (due_s, number))
        self._noted += count

    def _due(self, first: int, count: int) -> np.ndarray:
        offsets = np.arange(first, first + count, dtype=np.int64)
        found: np.ndarray = self._arrivals.times(first, count) + delays(offsets, self._delay_s, *self._seed)
        return found
