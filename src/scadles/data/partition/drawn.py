"""Draws that depend on (seed, device, offset) alone, so that no device's memory grows with its stream."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from scadles.data.partition.contract import Partition
from scadles.seeding import derive_seed

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)


class SharedPartition(Partition):
    """Every device draws each of its samples from the whole training set, independently and with replacement.

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
        self._key = derive_seed(seed, "shared")

    def indices(self, devices: np.ndarray, offsets: np.ndarray) -> np.ndarray:
        drawn = draw(self._key, devices, offsets)
        return np.asarray((((drawn >> np.uint64(32)) * self._train_size) >> np.uint64(32)).astype(np.int64))

    def pass_size(self, device: int) -> None:
        return None


class EndlessPartition(Partition):
    """Every ``devices``-th sample of an endless data set: no sample comes twice.

    >>> EndlessPartition(devices=4).indices(np.array([1]), np.arange(3)).tolist()
    [1, 5, 9]
    """

    def __init__(self, devices: int) -> None:
        self._devices = devices

    def indices(self, devices: np.ndarray, offsets: np.ndarray) -> np.ndarray:
        return np.asarray(offsets * self._devices + devices)

    def pass_size(self, device: int) -> None:
        return None


class EndlessMixtures(Partition):
    """Streams of an endless data set in which each device's labels are drawn from a mixture of its own.

    Sample ``o`` of device ``d`` has the number ``o * N + d`` among the samples of its label, so none comes twice.

    Args:
        mixtures: how often each label comes on each device, float64 ``[N, classes]``, rows adding up to 1.
        numbered: labels and numbers, int64 ``[n]`` both, to numbers in the data set
            (:meth:`~scadles.data.EndlessDataset.numbered`).
        seed: of the run.
    """

    def __init__(
        self, mixtures: np.ndarray, numbered: Callable[[np.ndarray, np.ndarray], np.ndarray], seed: int
    ) -> None:
        self._devices = len(mixtures)
        self._below = np.cumsum(mixtures, axis=1)
        # where rounding leaves a sum below 1, the last label that the device has takes the rest
        self._last = mixtures.shape[1] - 1 - (mixtures[:, ::-1] > 0).argmax(axis=1)
        self._numbered = numbered
        self._key = derive_seed(seed, "mixtures")

    def indices(self, devices: np.ndarray, offsets: np.ndarray) -> np.ndarray:
        devices = np.broadcast_to(devices, offsets.shape)
        uniform = (draw(self._key, devices, offsets) >> np.uint64(11)).astype(np.float64) * 2.0**-53
        labels = (self._below[devices] <= uniform[:, None]).sum(axis=1)
        return self._numbered(np.minimum(labels, self._last[devices]), offsets * self._devices + devices)

    def pass_size(self, device: int) -> None:
        return None


def draw(key: int, devices: np.ndarray, offsets: np.ndarray) -> np.ndarray:
    """Return 64 random bits for each (device, offset), uint64 ``[n]``: a hash by SplitMix64.

    (Steele, Lea and Flood, Fast Splittable Pseudorandom Number Generators, OOPSLA 2014.)
    """
    of_device = _split_mix(np.asarray(devices).astype(np.uint64) * _GOLDEN + np.uint64(key))
    return _split_mix(offsets.astype(np.uint64) * _GOLDEN + of_device)


def _split_mix(z: np.ndarray) -> np.ndarray:
    z = z + _GOLDEN
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return np.asarray(z ^ (z >> np.uint64(31)))
