"""Top-k in one pass: a threshold from a sample lets slightly too many entries through, and those are cut."""

from __future__ import annotations

import math
from collections.abc import Iterator
from threading import Lock
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from scadles.exchange.compression.blocks import BLOCK, in_threads, one_of_each, slices
from scadles.exchange.compression.selection import ExactTopK, Selector
from scadles.exchange.compression.sparse import Sparse
from scadles.seeding import numpy_generator

Floats = NDArray[np.float32]
# of k: what the pass shall let through, what the cut shall leave, and the least that is good enough
_AIM, _LEFT, _LEAST = 1.05, 0.99, 0.95
_SHORT = 1 << 16
# entries above the threshold that a sample shall hold, as long as it is no more than this share of all: 100 tell how
# many there are to 10 %, 2000 to 2.2 %
_PROBED, _SAMPLED = 100, 2000
_PROBED_SHARE, _SAMPLED_SHARE = 1 / 128, 1 / 32
_MOST_SAMPLED, _LEAST_SAMPLED = 1 << 18, 1 << 12
_SAMPLED_OF_FOUND = 1 << 17
# of k: entries a pass may find before it takes fresh memory
_ROOM = 1.25
_BLOCKS_AT_ONCE = 4


class _Found(NamedTuple):
    """Entries of one block: where it starts, their positions from there, their values."""

    start: int
    positions: NDArray[np.uint32]
    values: Floats


class _Room:
    """Memory for what a pass finds, kept from step to step: fresh memory costs as much as the search itself."""

    def __init__(self, capacity: int) -> None:
        self._positions, self._values = np.empty(capacity, np.uint32), np.empty(capacity, np.float32)
        self.capacity = capacity
        self._used = 0
        self._lock = Lock()

    def clear(self) -> None:
        """Forget what was found."""
        self._used = 0

    def take(self, start: int, block: Floats, positions: NDArray[np.intp]) -> _Found:
        """Keep the entries of a block; memory of its own for those that have no more room."""
        with self._lock:
            part = slice(self._used, self._used + len(positions))
            if part.stop <= self.capacity:
                self._used = part.stop
        if part.stop > self.capacity:
            return _Found(start, positions.astype(np.uint32), block.take(positions))
        found = _Found(start, self._positions[part], self._values[part])
        found.positions[:] = positions
        # any other mode copies once more
        block.take(positions, out=found.values, mode="clip")
        return found


class SampledTopK(Selector):
    """The ``k`` largest magnitudes but for the smallest few: 0.95 k to k of them, in one pass over the vector.

    A threshold from a sample lets about 1.05 k entries through; a second one, from a sample of those, cuts them to
    0.99 k. The next step starts from the threshold that this step has shown to be right, as long as a small probe of
    the new vector agrees. Where fewer than ``k`` entries differ from zero, these are all that is selected. Short
    vectors, those with many equal magnitudes, and those on another device than the CPU are selected exactly.

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
        self._room = _Room(0)

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
            found = self._above(array, threshold)
            count = sum(len(block.positions) for block in found)
            if count >= _LEAST * self.k or threshold == 0:
                return self._cut(found, count, threshold)
        self._threshold = None
        return self._exact.pick(values)

    def state(self) -> list[Any]:
        return [self._threshold]

    def load(self, state: list[Any]) -> None:
        [self._threshold] = state

    def _thresholds(self, array: Floats, generator: np.random.Generator) -> Iterator[float]:
        """Try the last one if it still holds, then one from a sample, then one that is surely low enough."""
        share = self.k / len(array)
        if self._threshold is not None:
            probe = _sample(array, _PROBED / share, _PROBED_SHARE, generator)
            expected = _AIM * share * len(probe)
            above = np.count_nonzero(probe > self._threshold)
            # too many cost little, too few another pass
            if expected - 1.5 * math.sqrt(expected) <= above <= 2 * expected + 5:
                yield self._threshold
        sample = _sample(array, _SAMPLED / share, _SAMPLED_SHARE, generator)
        expected = _AIM * share * len(sample)
        for rank in (expected + 3 * math.sqrt(expected) + 5, 2 * expected + 20):
            yield _rank(sample, rank)

    def _above(self, array: Floats, threshold: float) -> list[_Found]:
        """Return the entries whose magnitude exceeds the threshold, block by block, in order."""
        if not self._room.capacity:
            self._room = _Room(int(_ROOM * self.k))
        self._room.clear()
        limit = np.float32(threshold)
        # numpy looks for what is set by branches where that is at most a tenth of a mask, which is slow near a tenth;
        # ones behind the mask lift it above
        ones = BLOCK // 8 if self.k > 0.04 * len(array) else 0

        def search(span: slice) -> list[_Found]:
            magnitudes, mask = np.empty(BLOCK, np.float32), np.ones(BLOCK + ones, bool)
            found = []
            for part in slices(span.stop - span.start):
                start, size = span.start + part.start, part.stop - part.start
                block = array[start : start + size]
                np.abs(block, out=magnitudes[:size])
                np.greater(magnitudes[:size], limit, out=mask[:size])
                positions = np.flatnonzero(mask[:size]) if size < BLOCK else np.flatnonzero(mask)[: -ones or None]
                found.append(self._room.take(start, block, positions))
            return found

        spans = slices(len(array), BLOCK * _BLOCKS_AT_ONCE)
        return [block for blocks in in_threads(search, spans) for block in blocks]

    def _cut(self, found: list[_Found], count: int, threshold: float) -> Sparse:
        """Return at most ``k`` of the entries found, and set the next step's threshold."""
        every = max(count // _SAMPLED_OF_FOUND, 1)
        sample = np.abs(np.concatenate([block.values[::every] for block in found]))
        wanted = _AIM * self.k * len(sample) / max(count, 1)
        # with too few to tell, a little lower
        self._threshold = _rank(sample, wanted) if wanted < len(sample) else 0.97 * threshold
        if count <= self.k:
            return _joined(found)
        limit = np.float32(_rank(sample, _LEFT * self.k * len(sample) / count))
        kept = in_threads(lambda block: np.flatnonzero(np.abs(block.values) > limit), found)
        if _LEAST * self.k <= sum(map(len, kept)) <= self.k:
            return _joined(found, kept)
        everything = _joined(found)
        largest = self._exact.select(everything.values)
        return Sparse(everything.indices[largest], everything.values[largest])


def _sample(array: Floats, size: float, most_share: float, generator: np.random.Generator) -> Floats:
    """Return magnitudes of about ``size`` entries."""
    stretches = int(max(min(size, most_share * len(array), _MOST_SAMPLED), _LEAST_SAMPLED))
    return np.abs(array.take(one_of_each(stretches, len(array), generator)))


def _rank(sample: Floats, rank: float) -> float:
    """Return what about ``rank`` of the magnitudes exceed."""
    place = max(len(sample) - 1 - int(rank), 0)
    return float(np.partition(sample, place)[place])


def _joined(found: list[_Found], kept: list[NDArray[np.intp]] | None = None) -> Sparse:
    """Return the entries of all blocks as one, or those that are kept of each."""
    counts = [len(block.positions) for block in found] if kept is None else [len(which) for which in kept]
    ends = np.cumsum(counts)
    positions, values = np.empty(ends[-1], np.int64), np.empty(ends[-1], np.float32)

    def place(number: int) -> None:
        block = found[number]
        part = slice(ends[number] - counts[number], ends[number])
        if kept is None:
            np.add(block.positions, np.int64(block.start), out=positions[part])
            values[part] = block.values
        else:
            np.add(block.positions.take(kept[number]), np.int64(block.start), out=positions[part])
            block.values.take(kept[number], out=values[part], mode="clip")

    in_threads(place, range(len(found)))
    return Sparse(torch.from_numpy(positions), torch.from_numpy(values))
