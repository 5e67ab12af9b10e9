"""Who gets which samples: from the offset in a device's stream to a number in the data set."""

from __future__ import annotations

from abc import ABC, abstractmethod

import numpy as np

from scadles.errors import DataError
from scadles.seeding import numpy_generator

CACHED_PASSES = 2


class Shard(ABC):
    """One device's samples, in the order in which its stream brings them."""

    @abstractmethod
    def indices(self, offsets: np.ndarray) -> np.ndarray:
        """Return the data set's number of each stream offset, both int64 ``[n]``."""


class FiniteShard(Shard):
    """A part of a training set, replayed for ever and shuffled anew on each pass.

    Args:
        part: numbers in the data set, int64 ``[m]``, at least one.
        seed: of the run.
        device: whose part it is; two devices shuffle differently.

    >>> shard = FiniteShard(np.array([10, 20, 30]), seed=0, device=0)
    >>> sorted(shard.indices(np.arange(3)).tolist()), sorted(shard.indices(np.arange(3, 6)).tolist())
    ([10, 20, 30], [10, 20, 30])
    """

    def __init__(self, part: np.ndarray, seed: int, device: int) -> None:
        if len(part) == 0:
            raise DataError(f"device {device} has no samples: use fewer devices or a larger data set")
        self.part = part
        self._seed = seed
        self._device = device
        self._passes: dict[int, np.ndarray] = {}

    def indices(self, offsets: np.ndarray) -> np.ndarray:
        passes, places = np.divmod(offsets, len(self.part))
        chosen = np.empty(len(offsets), dtype=np.int64)
        for number in np.unique(passes).tolist():
            here = passes == number
            chosen[here] = self._pass(number)[places[here]]
        return chosen

    def _pass(self, number: int) -> np.ndarray:
        if number not in self._passes:
            if len(self._passes) == CACHED_PASSES:
                del self._passes[next(iter(self._passes))]
            order = numpy_generator(self._seed, self._device, "shuffle", number).permutation(len(self.part))
            self._passes[number] = self.part[order]
        return self._passes[number]


class EndlessShard(Shard):
    """Every ``devices``-th sample of an endless data set, from ``device`` on: no sample comes twice.

    >>> EndlessShard(device=1, devices=4).indices(np.arange(3)).tolist()
    [1, 5, 9]
    """

    def __init__(self, device: int, devices: int) -> None:
        self._device = device
        self._devices = devices

    def indices(self, offsets: np.ndarray) -> np.ndarray:
        return np.asarray(offsets * self._devices + self._device)


def iid_shards(train_size: int | None, devices: int, seed: int) -> tuple[Shard, ...]:
    """Deal a training set to devices at random: disjoint, complete, and equal in size to within one sample.

    Args:
        train_size: number of training samples; None for an endless data set.
        devices: at least 1.
        seed: of the run.

    Raises:
        DataError: fewer samples than devices.
    """
    if train_size is None:
        return tuple(EndlessShard(device, devices) for device in range(devices))
    if train_size < devices:
        raise DataError(
            f"{train_size} training samples cannot be dealt to {devices} devices: "
            "use fewer devices or a larger data set"
        )
    order = numpy_generator(seed, "shards").permutation(train_size)
    return tuple(FiniteShard(order[device::devices], seed, device) for device in range(devices))
