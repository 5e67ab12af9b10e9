"""Labels that change during the run."""

from __future__ import annotations

import numpy as np

from scadles.data.partition.contract import Partition


class DriftingPartition(Partition):
    """Devices that move on to the next device's part again and again.

    After every ``every`` samples of its stream, trained on or not, a device goes on with the part of the next device,
    the last one with that of device 0. In stream seconds that is ``every / rate``: a faster stream drifts sooner. A
    part is gone on with where the stream is, so that where no sample comes twice without drift, none does with it.

    Args:
        parts: what each device would bring without drift.
        devices: how many there are.
        every: samples, at least 1.

    Attributes:
        parts: as given.

    >>> from scadles.data.partition.drawn import EndlessPartition
    >>> drifting = DriftingPartition(EndlessPartition(devices=10), devices=10, every=3)
    >>> drifting.indices(np.array([9]), np.arange(6)).tolist()
    [9, 19, 29, 30, 40, 50]
    """

    def __init__(self, parts: Partition, devices: int, every: int) -> None:
        self.parts = parts
        self._devices = devices
        self._every = every

    def indices(self, devices: np.ndarray, offsets: np.ndarray) -> np.ndarray:
        return self.parts.indices((devices + offsets // self._every) % self._devices, offsets)

    def part_of(self, device: int, drifts: int) -> int:
        """Return whose part a device has after it has gone on with another one so many times."""
        return (device + drifts) % self._devices

    def pass_size(self, device: int) -> None:
        return None
