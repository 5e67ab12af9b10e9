"""What a partition is: from a device and an offset in its stream to a number in the data set."""

from __future__ import annotations

from abc import ABC, abstractmethod

import numpy as np


class Partition(ABC):
    """The samples of all devices, in the order in which their streams bring them."""

    @abstractmethod
    def indices(self, devices: np.ndarray, offsets: np.ndarray) -> np.ndarray:
        """Return the data set's number of each (device, stream offset), all int64 ``[n]``.

        Args:
            devices: one device for all offsets, or one for each; equal ones stand together.
            offsets: ascending for each device.
        """

    @abstractmethod
    def pass_size(self, device: int) -> int | None:
        """Return after how many samples a device's stream begins again with the same ones; None if it never does."""
