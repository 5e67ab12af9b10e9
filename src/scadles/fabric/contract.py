"""What connects the devices: a sum that everybody gets, and a little small talk."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence

from torch import Tensor


class Pending(ABC):
    """A reduction on its way."""

    @abstractmethod
    def wait(self) -> None:
        """Block until the bucket holds the sum.

        Raises:
            PeerLostError: a device did not answer within the deadline; the bucket's content is undefined.
        """


class Fabric(ABC):
    """N devices, numbered 0..N-1, that call the same methods in the same order.

    Every call has the fabric's deadline and names its phase, so that a lost device gives
    :class:`~scadles.errors.PeerLostError` with device and phase, never a hang.
    """

    rank: int
    size: int
    #: How :meth:`bytes_sent` is known: by the transport's own counters, or computed from messages.
    bytes_counted_by: str

    @abstractmethod
    def reduce(self, bucket: Tensor, phase: str) -> Pending:
        """Start summing ``bucket`` (1-d, same length and dtype everywhere) over all devices, in place.

        The sum is the same to the bit on every device. Several reductions may be on their way at once.
        """

    @abstractmethod
    def gather(self, values: Tensor, phase: str) -> Tensor:
        """Return everybody's ``values`` (1-d, same length and dtype everywhere) as ``[size, len(values)]``."""

    @abstractmethod
    def swap(self, parcels: Tensor, phase: str) -> Tensor:
        """Send row ``j`` of ``parcels`` to device ``j``, and return the rows that all devices sent here, by rank.

        Args:
            parcels: uint8 ``[size, m]``, ``m`` at least 1 and the same everywhere.
        """

    @abstractmethod
    def broadcast(self, tensors: Sequence[Tensor], phase: str) -> None:
        """Overwrite ``tensors`` with those of device 0."""

    @abstractmethod
    def bytes_sent(self) -> int:
        """Return the bytes that have left this device so far."""

    @property
    @abstractmethod
    def collectives(self) -> int:
        """How many collective operations this device has started."""

    @abstractmethod
    def close(self) -> None:
        """Leave the fabric. Closing twice is no error."""
