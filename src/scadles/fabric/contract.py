"""What connects the devices: a sum that everybody gets, and a little small talk."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Any, NamedTuple

import torch
from torch import Tensor

from scadles.errors import FabricError


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

    @property
    def present(self) -> Sequence[int]:
        """Who takes part now, ascending; all devices, unless this fabric goes on without some."""
        return range(self.size)

    #: How :meth:`bytes_sent` is known: by the transport's own counters, or computed from messages.
    bytes_counted_by: str
    #: Whether what travels beyond this machine could be encrypted, and is not.
    insecure: bool = False

    @abstractmethod
    def reduce(self, bucket: Tensor, phase: str) -> Pending:
        """Start summing ``bucket`` (1-d, same length and dtype everywhere) over all devices, in place.

        The sum is the same to the bit on every device. Several reductions may be on their way at once.
        """

    def reduce_step(self, bucket: Tensor, phase: str) -> Pending:
        """Do what :meth:`reduce` does with a message that ends with a row of numbers about each device.

        A fabric may look at these on the way, and do without a device that says there what cannot be.
        """
        return self.reduce(bucket, phase)

    @abstractmethod
    def gather(self, values: Tensor, phase: str) -> Tensor:
        """Return everybody's ``values`` (1-d, same length and dtype everywhere) as ``[size, len(values)]``."""

    @abstractmethod
    def swap(self, rows: Tensor, phase: str) -> Tensor:
        """Send row ``j`` of ``rows`` to device ``j``, and return the rows that all devices sent here, by rank.

        Args:
            rows: uint8 ``[size, m]``, ``m`` at least 1 and the same everywhere.
        """

    @abstractmethod
    def share(self, message: Tensor | None, senders: Sequence[int], most: int, phase: str) -> dict[int, Tensor]:
        """Send one message to all other devices, where this one is a sender, and return what the other senders sent.

        Messages differ in length from sender to sender and from call to call, and only their senders know how long they
        are. So a length goes ahead of each, straight from its sender: receivers wait for the senders alone, not for
        each other, where a gathering of all lengths would make everybody wait for the last of all. A sender does not
        wait for its receivers; its message is on its way when this returns.

        Args:
            message: bytes, uint8 ``[m]``, ``m`` from 0 on; None on a device that is no sender. It must stay as it is
                until the next call.
            senders: who sends, ascending and the same everywhere; nobody at all is fine.
            most: no message is longer. A longer one is refused before memory is taken for it.

        Returns:
            By sender, in ascending order, without one's own.

        Raises:
            FabricError: a message is too long.
            PeerLostError: a sender did not answer within the deadline.
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


class View(NamedTuple):
    """Who takes part in an elastic fabric, from one change to the next.

    Attributes:
        number: of the view.
        members: names by number of the device.
        source: the device whose state those that come take.
        receivers: devices that have come with this view, and take the state of the source; those that are no members
            follow.
        note: what this device said with its last step that counted; only on one that has come with this view.
        away: what devices said that are not there now, by number; of very many those that were there last.
    """

    number: int
    members: Mapping[int, str]
    source: int | None
    receivers: tuple[int, ...]
    note: Mapping[str, Any] | None = None
    away: Mapping[int, Mapping[str, Any]] = MappingProxyType({})


class ElasticFabric(Fabric):
    """A fabric that goes on when devices are lost, and takes in those that come, between two steps.

    A device has its number for good; whoever is not there counts as one that brings zeros. Until :meth:`enter` a device
    is alone. From then on every collective may raise :class:`~scadles.errors.MembershipChangedError` instead: on all
    who are there, of the same collective. They go on with :meth:`enter` and do again what was void.

    A device that comes to others that take steps follows them at first: it is no member of the view that it enters,
    takes the state that one of the members gives (:meth:`take`, :meth:`give`) while they go on, and then calls the same
    collectives as they do, however far behind: it brings nothing and gets what they have got. Once it has come near, a
    view begins with it among the members.
    """

    #: What the run is called, the same for all of its devices.
    run: str
    #: Why the run ended, once it has; empty before.
    ended_by: str = ""
    #: Why this device leaves, where it fails; told when it closes.
    failure: str = ""
    #: Whether to give up waiting to be admitted.
    stopped: Callable[[], bool]
    #: Something that changes as long as this device comes nearer to a batch, though it sends nothing.
    progress: Callable[[], object]

    @property
    @abstractmethod
    def members(self) -> Mapping[int, str]:
        """Names of those who take part in the present view, by number."""

    @property
    @abstractmethod
    def away(self) -> Mapping[int, Mapping[str, Any]]:
        """What devices said with their last step that counted that are not there, by number, as in the present view."""

    @property
    @abstractmethod
    def changed(self) -> bool:
        """Whether a new view has begun since the present one was entered, or this device has been cut off."""

    @property
    @abstractmethod
    def follows(self) -> bool:
        """Whether this device is no member of the view that it has entered, and brings nothing."""

    @abstractmethod
    def enter(self, step: int) -> View:
        """Go over to the newest view, or the next one where this device follows, which may take any time.

        Args:
            step: how many steps this device's model has taken; -1 where no run can begin with its values, so that it
                waits for one whose values can.

        Raises:
            NotAdmittedError: the run has ended without this device, or it was told to stop while it waited.
        """

    @property
    @abstractmethod
    def gives(self) -> bool:
        """Whether receivers wait for this device's state: those of the view just entered, or of one that it missed."""

    @abstractmethod
    def give(self, make: Callable[[], Tensor]) -> None:
        """Let those who wait have this device's state, while it goes on; called before anything else in a view.

        Args:
            make: makes bytes of the state, uint8 ``[m]``; called in a thread.
        """

    @abstractmethod
    def take(self, most: int) -> Tensor:
        """Wait for the state that the source of the present view gives, and return it, uint8 ``[m]``.

        Args:
            most: it is not longer.

        Raises:
            FabricError: it is longer.
            MembershipChangedError: the source is lost, or this device has been cut off; it enters again.
            NotAdmittedError: this device was told to stop while it waited.
        """

    @abstractmethod
    def note(self, step: int, content: Mapping[str, Any]) -> None:
        """Say, with the next reduction, what this device is to go on from if it is lost after this step.

        Args:
            step: which step ends with that reduction; the note counts once all have the sum.
            content: what goes into JSON.
        """


def flat_bytes(tensors: Sequence[Tensor], device: torch.device | str) -> Tensor:
    """Return tensors of any kind one after the other, as bytes, uint8 ``[m]``."""
    return torch.cat([t.detach().contiguous().reshape(-1).view(torch.uint8).to(device) for t in tensors])


def copy_flat_bytes(flat: Tensor, tensors: Sequence[Tensor]) -> None:
    """Overwrite tensors with what :func:`flat_bytes` made of others like them."""
    for tensor, part in zip(tensors, torch.split(flat, [tensor.nbytes for tensor in tensors]), strict=True):
        tensor.detach().copy_(part.clone().view(tensor.dtype).view_as(tensor))


def check_length(device: int, length: int, most: int, phase: str) -> None:
    """Refuse a message that is longer than what was agreed, or of no length at all."""
    if not 0 <= length <= most:
        raise FabricError(f"device {device} announces {length} bytes in {phase}, at most {most} are agreed")
