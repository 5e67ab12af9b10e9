"""Devices that come to a run later than its data were dealt."""

from __future__ import annotations

import numpy as np

from scadles.data.partition.contract import Partition

# further apart than any two places in one stream
_APART = 2**32


class JoinedPartition(Partition):
    """More devices than a data set was dealt to, whose streams stay what they are.

    A device beyond those brings what one of them brings, from a place in that stream which it never comes to: of a
    part that is replayed another pass, in another order; of an endless data set samples that nobody else has.

    Args:
        dealt: the partition of the devices that were there first.
        devices: how many these were.

    >>> from scadles.data.partition.drawn import EndlessPartition
    >>> joined = JoinedPartition(EndlessPartition(devices=2), devices=2)
    >>> joined.indices(np.array([1]), np.arange(3)).tolist()
    [1, 3, 5]
    >>> joined.indices(np.array([3]), np.arange(3)).tolist()
    [8589934593, 8589934595, 8589934597]
    """

    def __init__(self, dealt: Partition, devices: int) -> None:
        self._dealt = dealt
        self._devices = devices

    def indices(self, devices: np.ndarray, offsets: np.ndarray) -> np.ndarray:
        late, of = np.divmod(devices, self._devices)
        return self._dealt.indices(of, offsets + late * _APART)

    def pass_size(self, device: int) -> int | None:
        return self._dealt.pass_size(device % self._devices)
