"""A training set that is dealt: every device replays its own part for ever."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from scadles.data.partition.contract import Partition
from scadles.seeding import numpy_generator

CACHED_PASSES = 2


class DealtPartition(Partition):
    """Each device replays its part for ever, shuffled anew on each pass.

    Args:
        parts: the numbers of each device's samples, int64 ``[m]``, m at least 1.
        seed: of the run.

    >>> dealt = DealtPartition([np.array([4, 7]), np.array([5])], seed=0)
    >>> sorted(dealt.indices(np.array([0]), np.arange(2)).tolist())
    [4, 7]
    >>> dealt.indices(np.array([1]), np.arange(3)).tolist()
    [5, 5, 5]
    """

    def __init__(self, parts: Sequence[np.ndarray], seed: int) -> None:
        self._parts = parts
        self._seed = seed
        self._passes: dict[int, dict[int, np.ndarray]] = {}

    def part(self, device: int) -> np.ndarray:
        """Return the numbers of one device's samples, int64 ``[m]``."""
        return self._parts[device]

    def pass_size(self, device: int) -> int:
        return len(self._parts[device])

    def indices(self, devices: np.ndarray, offsets: np.ndarray) -> np.ndarray:
        devices = np.broadcast_to(devices, offsets.shape)
        chosen = np.empty(len(offsets), dtype=np.int64)
        edges = np.flatnonzero((np.diff(devices) != 0) | (np.diff(offsets) < 0)) + 1
        for start, stop in zip([0, *edges.tolist()], [*edges.tolist(), len(offsets)], strict=True):
            if start < stop:
                chosen[start:stop] = self._of_one(int(devices[start]), offsets[start:stop])
        return chosen

    def _of_one(self, device: int, offsets: np.ndarray) -> np.ndarray:
        size = len(self._parts[device])
        first, last = int(offsets[0]) // size, int(offsets[-1]) // size
        if first == last:
            return np.asarray(self._pass(device, first)[offsets - first * size])
        passes, places = np.divmod(offsets, size)
        chosen = np.empty(len(offsets), dtype=np.int64)
        for number in np.unique(passes).tolist():
            here = passes == number
            chosen[here] = self._pass(device, number)[places[here]]
        return chosen

    def _pass(self, device: int, number: int) -> np.ndarray:
        kept = self._passes.setdefault(device, {})
        if number not in kept:
            if len(kept) == CACHED_PASSES:
                del kept[next(iter(kept))]
            part = self._parts[device]
            kept[number] = part[numpy_generator(self._seed, device, "shuffle", number).permutation(len(part))]
        return kept[number]
