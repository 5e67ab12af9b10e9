"""Who gets which samples: from a device and an offset in its stream to a number in the data set."""

from __future__ import annotations

from abc import ABC, abstractmethod

import numpy as np

from scadles.errors import DataError
from scadles.seeding import derive_seed, numpy_generator

CACHED_PASSES = 2


class Partition(ABC):
    """The samples of all devices, in the order in which their streams bring them."""

    @abstractmethod
    def indices(self, devices: np.ndarray, offsets: np.ndarray) -> np.ndarray:
        """Return the data set's number of each (device, stream offset), all int64 ``[n]``.

        Args:
            devices: one device for all offsets, or one for each; equal ones stand together.
            offsets: ascending for each device.
        """


class DealtPartition(Partition):
    """A training set dealt at random: parts are disjoint, complete, and equal in size to within one sample.

    Each device replays its part for ever, shuffled anew on each pass.

    Args:
        train_size: number of training samples.
        devices: at least 1.
        seed: of the run.

    Raises:
        DataError: fewer samples than devices.

    >>> dealt = DealtPartition(train_size=6, devices=2, seed=0)
    >>> first, second = dealt.indices(np.array([0]), np.arange(3)), dealt.indices(np.array([1]), np.arange(3))
    >>> sorted([*first.tolist(), *second.tolist()])
    [0, 1, 2, 3, 4, 5]
    """

    def __init__(self, train_size: int, devices: int, seed: int) -> None:
        if train_size < devices:
            raise DataError(
                f"{train_size} training samples cannot be dealt to {devices} devices: use fewer devices, a larger "
                "data set, or data.partition = shared, where every device draws from all samples"
            )
        self._order = numpy_generator(seed, "shards").permutation(train_size)
        self._devices = devices
        self._seed = seed
        self._passes: dict[int, dict[int, np.ndarray]] = {}

    def part(self, device: int) -> np.ndarray:
        """Return the numbers of one device's samples, int64 ``[m]``."""
        return np.asarray(self._order[device :: self._devices])

    def indices(self, devices: np.ndarray, offsets: np.ndarray) -> np.ndarray:
        devices = np.broadcast_to(devices, offsets.shape)
        chosen = np.empty(len(offsets), dtype=np.int64)
        edges = np.flatnonzero(np.diff(devices)) + 1
        for start, stop in zip([0, *edges.tolist()], [*edges.tolist(), len(offsets)], strict=True):
            if start < stop:
                chosen[start:stop] = self._of_one(int(devices[start]), offsets[start:stop])
        return chosen

    def _of_one(self, device: int, offsets: np.ndarray) -> np.ndarray:
        size = len(self.part(device))
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
            part = self.part(device)
            kept[number] = part[numpy_generator(self._seed, device, "shuffle", number).permutation(len(part))]
        return kept[number]


class EndlessPartition(Partition):
    """Every ``devices``-th sample of an endless data set: no sample comes twice.

    >>> EndlessPartition(devices=4).indices(np.array([1]), np.arange(3)).tolist()
    [1, 5, 9]
    """

    def __init__(self, devices: int) -> None:
        self._devices = devices

    def indices(self, devices: np.ndarray, offsets: np.ndarray) -> np.ndarray:
        return np.asarray(offsets * self._devices + devices)


class SharedPartition(Partition):
    """Every device draws each of its samples from the whole training set, independently and with replacement.

    The draw is a hash of (seed, device, offset) by SplitMix64 (Steele, Lea and Flood, OOPSLA 2014), so it costs no
    memory however many devices there are.

    Args:
        train_size: number of training samples, below 2**32.
        seed: of the run.

    >>> shared = SharedPartition(train_size=100, seed=0)
    >>> one = shared.indices(np.array([3]), np.arange(4))
    >>> one.tolist() == shared.indices(np.array([3, 3]), np.arange(2)).tolist() + one[2:].tolist()
    True
    """

    def __init__(self, train_size: int, seed: int) -> None:
        self._train_size = np.uint64(train_size)
        self._key = np.uint64(derive_seed(seed, "shared"))

    def indices(self, devices: np.ndarray, offsets: np.ndarray) -> np.ndarray:
        of_device = _split_mix(np.asarray(devices).astype(np.uint64) * _GOLDEN + self._key)
        drawn = _split_mix(offsets.astype(np.uint64) * _GOLDEN + of_device)
        return np.asarray((((drawn >> np.uint64(32)) * self._train_size) >> np.uint64(32)).astype(np.int64))


_GOLDEN = np.uint64(0x9E3779B97F4A7C15)


def _split_mix(z: np.ndarray) -> np.ndarray:
    z = z + _GOLDEN
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return np.asarray(z ^ (z >> np.uint64(31)))


def make_partition(kind: str, train_size: int | None, devices: int, seed: int) -> Partition:
    """Return the partition ``iid`` (dealt) or ``shared`` of a training set; an endless one is dealt in turn.

    Raises:
        DataError: ``iid`` with fewer samples than devices.
    """
    if train_size is None:
        return EndlessPartition(devices)
    return SharedPartition(train_size, seed) if kind == "shared" else DealtPartition(train_size, devices, seed)
