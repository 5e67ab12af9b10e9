"""Targets of a replayed stream, which come later than their samples."""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from heapq import heappop, heappush
from typing import Any

import numpy as np
import torch
from torch import Tensor

from scadles.clock import Clock
from scadles.seeding import numpy_generator
from scadles.streams.contract import Records, Source
from scadles.streams.late.ids import numbered
from scadles.streams.replay import Samples

_BLOCK = 256


def delays(offsets: np.ndarray, most_s: float, *seed: int) -> np.ndarray:
    """Return by how much later than its sample each target comes: uniform from 0 to ``most_s``, float64 ``[n]``.

    Args:
        offsets: of the samples in their stream, int64 ``[n]``, ascending.
        most_s: the longest delay.
        seed: of the draw; the delay of a sample is a function of it and of the offset alone.
    """
    found = np.empty(len(offsets))
    for block in np.unique(offsets // _BLOCK).tolist():
        mine = offsets // _BLOCK == block
        found[mine] = _shares(seed, block)[offsets[mine] % _BLOCK]
    return found * most_s


@lru_cache(maxsize=1024)
def _shares(seed: tuple[int, ...], block: int) -> np.ndarray:
    return numpy_generator(*seed, "delay", block).random(_BLOCK)


class ReplayedTargets(Source):
    """The targets of the samples that a replayed stream has brought, each when it is due.

    It has no position of its own: a sample that is brought again has its target brought again.

    Args:
        samples: stream offsets, int64 ``[n]``, to samples and targets.
        clock: stream time.
        delay_s: the longest delay.
        seed: of the delays.
    """

    def __init__(self, samples: Samples, clock: Clock, delay_s: float, *seed: int) -> None:
        self._samples = samples
        self._clock = clock
        self._delay_s = delay_s
        self._seed = seed
        self._due: list[tuple[float, int]] = []

    def expect(self, samples: Records) -> None:
        """Take note of samples whose targets will come."""
        later = samples.times + delays(samples.offsets, self._delay_s, *self._seed)
        for pair in zip(later.tolist(), samples.offsets.tolist(), strict=True):
            heappush(self._due, pair)

    def open(self, position: int, mark: Mapping[str, Any] | None = None) -> None:
        self._due.clear()

    def rewind(self, position: int, mark: Mapping[str, Any] | None = None) -> bool:
        self._due.clear()
        return True

    def poll(self, max_records: int, timeout_s: float) -> Records:
        if timeout_s > 0:
            self._clock.sleep(timeout_s)
        now_s, found = self._clock.now(), list[tuple[float, int]]()
        while self._due and self._due[0][0] <= now_s and len(found) < max_records:
            found.append(heappop(self._due))
        offsets = np.array([offset for _, offset in found], dtype=np.int64)
        y: Tensor = self._samples(offsets)[1] if len(found) else torch.empty(0)
        return Records(offsets, np.array([due_s for due_s, _ in found]), numbered(offsets), y)

    def skip(self, keep: int) -> int:
        return 0

    def lag(self) -> int:
        return len(self._due)

    @property
    def position(self) -> int:
        return 0

    @property
    def ended(self) -> bool:
        return not self._due

    def commit(self, position: int) -> None:
        """Do nothing: targets can be replayed for ever."""

    def close(self) -> None:
        """Do nothing: there is nothing to give back."""
