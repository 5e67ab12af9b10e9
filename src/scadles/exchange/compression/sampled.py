"""Top-k in one pass: a threshold from a sample lets about as many entries through as are wanted."""

from __future__ import annotations

import math
from collections.abc import Iterator
from threading import Lock, local
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from scadles.exchange.compression.blocks import BLOCK, in_threads, one_of_each, slices
from scadles.exchange.compression.memory import LentArray
from scadles.exchange.compression.selection import ExactTopK, Selector
from scadles.exchange.compression.sparse import Sparse
from scadles.seeding import numpy_generator

Floats = NDArray[np.float32]
Indices = NDArray[np.int64]
# of k: what the pass shall let through, what the cut shall leave, and the least that is good enough
_AIM, _LEFT, _LEAST = 1.05, 0.99, 0.95
# of k, and the entries above the threshold that a sample must hold to aim there, between the least and all, without a
# cut: 10,000 tell how many there are to 1 %
_AIM_UNCUT, _SAMPLED_UNCUT = 0.98, 10_000
_SHORT = 1 << 16
# entries above the threshold that a sample shall hold, as long as it is no more than this share of all: 100 tell how
# many there are to 10 %, 2000 to 2.2 %
_PROBED, _SAMPLED = 100, 2000
_PROBED_SHARE, _SAMPLED_SHARE = 1 / 128, 1 / 32
_MOST_SAMPLED, _LEAST_SAMPLED = 1 << 18, 1 << 12
_SAMPLED_OF_FOUND = 1 << 17
# of k: entries a pass may find before it takes fresh memory
_ROOM = 1.1


class _Found:
    """What a pass finds, in order: a block's entries take their place once those of all blocks before have theirs.

    Args:
        indices, values: memory for as many entries as are expected; what is found beyond takes memory of its own.

    Attributes:
        count: entries found.
    """

    def __init__(self, indices: Indices, values: Floats) -> None:
        self.count = 0
        self._indices, self._values = indices, values
        self._beyond: dict[int, tuple[Indices, Floats]] = {}
        self._waiting: dict[int, tuple[int, Floats, NDArray[np.intp]]] = {}
        self._next = 0
        self._lock = Lock()

    def put(self, number: int, start: int, block: Floats, positions: NDArray[np.intp]) -> None:
        """Take the entries at these positions of a block; blocks are numbered from 0."""
        ready = []
        with self._lock:
            self._waiting[number] = start, block, positions
            while self._next in self._waiting:
                entries = self._waiting.pop(self._next)
                ready.append((self.count, *entries))
                self.count += len(entries[2])
                self._next += 1
        for at, start, block, positions in ready:
            end = at + len(positions)
            if end > len(self._values):
                self._beyond[at] = positions + start, block.take(positions)
                continue
            np.add(positions, start, out=self._indices[at:end])
            # any other mode copies once more
            block.take(positions, out=self._values[at:end], mode="clip")

    def entries(self) -> tuple[Indices, Floats]:
        """Return all indices and their values."""
        first = min(self._beyond, default=self.count)
        indices, values = self._indices[:first], self._values[:first]
        if not self._beyond:
            return indices, values
        beyond = [self._beyond[at] for at in sorted(self._beyond)]
        return (
            np.concatenate([indices, *(more for more, _ in beyond)]),
            np.concatenate([values, *(more for _, more in beyond)]),
        )


class SampledTopK(Selector):
    """The ``k`` largest magnitudes but for the smallest few: 0.95 k to k of them, in one pass over the vector.

    Where ``k`` is a large share, a threshold from a sample lets 0.98 k entries through, to 1 %. Where a sample that
    tells so well would be too large, the threshold lets about 1.05 k through; a second one, from a sample of those,
    cuts them to 0.99 k, and the next step starts from the threshold that this step has shown to be right, as long as a
    small probe of the new vector agrees. Where fewer than ``k`` entries differ from zero, these are all that is
    selected. Short vectors, those with many equal magnitudes, and those on another device than the CPU are selected
    exactly.

    Args:
        k: entries at most.
        seed: of the run.
        rank: of this device.

    >>> values = torch.linspace(-1, 1, 200_000)
    >>> indices = SampledTopK(1000, seed=0).select(values)
    >>> 950 <= len(indices) <= 1000 and bool(values[indices].abs().min() > 0.99)
    True
    """

    def __init__(self, k: int, seed: int, rank: int = 0) -> None:
        self._exact = ExactTopK(k)
        self.k = k
        self._seed, self._rank = seed, rank
        self._calls = 0
        self._threshold: float | None = None
        self._indices, self._values = LentArray(np.int64), LentArray(np.float32)

    def select(self, values: Tensor, step: int | None = None) -> Tensor:
        return self.pick(values, step).indices

    def pick(self, values: Tensor, step: int | None = None) -> Sparse:
        self._calls += 1
        n = values.numel()
        if n < _SHORT or 2 * self.k > n or values.device.type != "cpu":
            return self._exact.pick(values)
        array = values.detach().numpy()
        generator = numpy_generator(self._seed, self._rank, "selection", self._calls if step is None else step)
        for threshold in self._thresholds(array, generator):
            indices, found = self._above(array, threshold)
            if len(found) >= _LEAST * self.k or threshold == 0:
                if _uncut(self.k, n) and len(found) <= self.k:
                    return _sparse(indices, found)
                return self._cut(indices, found, threshold)
        self._threshold = None
        return self._exact.pick(values)

    def state(self) -> list[Any]:
        return [self._threshold]

    def load(self, state: list[Any]) -> None:
        [self._threshold] = state

    def _thresholds(self, array: Floats, generator: np.random.Generator) -> Iterator[float]:
        """Try the last one if it still holds, then one from a sample, then one that is surely low enough."""
        share = self.k / len(array)
        uncut = _uncut(self.k, len(array))
        if self._threshold is not None and not uncut:
            probe = _sample(array, _PROBED / share, _PROBED_SHARE, generator)
            expected = _AIM * share * len(probe)
            above = np.count_nonzero(probe > self._threshold)
            # too many cost little, too few another pass
            if expected - 1.5 * math.sqrt(expected) <= above <= 2 * expected + 5:
                yield self._threshold
        sample = _sample(array, (_SAMPLED_UNCUT if uncut else _SAMPLED) / share, _SAMPLED_SHARE, generator)
        if uncut:
            yield _rank(sample, _AIM_UNCUT * share * len(sample))
        expected = _AIM * share * len(sample)
        for rank in (expected + 3 * math.sqrt(expected) + 5, 2 * expected + 20):
            yield _rank(sample, rank)

    def _above(self, array: Floats, threshold: float) -> tuple[Indices, Floats]:
        """Return the entries whose magnitude exceeds the threshold: indices, ascending, and values."""
        capacity = int(_ROOM * self.k)
        everything = _Found(self._indices.take(capacity), self._values.take(capacity))
        limit = np.float32(threshold)
        # numpy looks for what is set by branches where that is at most a tenth of a mask, which is slow near a tenth;
        # ones behind the mask lift it above
        ones = BLOCK // 16 if self.k > 0.04 * len(array) else 0
        masks = local()

        def search(part: slice) -> None:
            if not hasattr(masks, "above"):
                masks.above, masks.below = np.ones(BLOCK + ones, bool), np.empty(BLOCK, bool)
            block, size = array[part], part.stop - part.start
            above, below = masks.above[:size], masks.below[:size]
            # two passes over the block, which leave it in the cache: its magnitudes would take as much again
            np.greater(block, limit, out=above)
            np.less(block, -limit, out=below)
            above |= below
            positions = np.flatnonzero(above) if size < BLOCK else np.flatnonzero(masks.above)[: -ones or None]
            everything.put(part.start // BLOCK, part.start, block, positions)

        in_threads(search, slices(len(array)))
        return everything.entries()

    def _cut(self, indices: Indices, values: Floats, threshold: float) -> Sparse:
        """Return at most ``k`` of the entries found, and set the next step's threshold."""
        count = len(values)
        sample = np.abs(values[:: max(count // _SAMPLED_OF_FOUND, 1)])
        wanted = _AIM * self.k * len(sample) / max(count, 1)
        # with too few to tell, a little lower
        self._threshold = _rank(sample, wanted) if wanted < len(sample) else 0.97 * threshold
        if count <= self.k:
            return _sparse(indices, values)
        limit = np.float32(_rank(sample, _LEFT * self.k * len(sample) / count))
        parts = slices(count)
        kept = in_threads(lambda part: np.flatnonzero(np.abs(values[part]) > limit), parts)
        if _LEAST * self.k <= sum(map(len, kept)) <= self.k:
            return _kept(indices, values, parts, kept)
        largest = self._exact.select(torch.from_numpy(values)).numpy()
        return _sparse(indices[largest], values[largest])


def _uncut(k: int, n: int) -> bool:
    """Return whether a sample that is small enough tells how many entries a threshold lets through."""
    return _SAMPLED_UNCUT * n <= k * min(_SAMPLED_SHARE * n, _MOST_SAMPLED)


def _sample(array: Floats, size: float, most_share: float, generator: np.random.Generator) -> Floats:
    """Return magnitudes of about ``size`` entries."""
    stretches = int(max(min(size, most_share * len(array), _MOST_SAMPLED), _LEAST_SAMPLED))
    return np.abs(array.take(one_of_each(stretches, len(array), generator)))


def _rank(sample: Floats, rank: float) -> float:
    """Return what about ``rank`` of the magnitudes exceed."""
    place = max(len(sample) - 1 - int(rank), 0)
    return float(np.partition(sample, place)[place])


def _kept(indices: Indices, values: Floats, parts: list[slice], kept: list[NDArray[np.intp]]) -> Sparse:
    """Return those entries of each part that are kept."""
    ends = np.cumsum([len(which) for which in kept])
    kept_indices, kept_values = np.empty(ends[-1], np.int64), np.empty(ends[-1], np.float32)

    def place(number: int) -> None:
        part, which, end = parts[number], kept[number], ends[number]
        into = slice(end - len(which), end)
        indices[part].take(which, out=kept_indices[into], mode="clip")
        values[part].take(which, out=kept_values[into], mode="clip")

    in_threads(place, range(len(parts)))
    return _sparse(kept_indices, kept_values)


def _sparse(indices: Indices, values: Floats) -> Sparse:
    return Sparse(torch.from_numpy(indices), torch.from_numpy(values))
