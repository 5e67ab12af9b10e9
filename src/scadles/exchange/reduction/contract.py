"""Sparse updates of all devices become one sum: what every way of it has in common."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from scadles.errors import ConfigError
from scadles.exchange.compression import Selector, Sparse, WireError, budget_bytes
from scadles.exchange.compression.header import check_size
from scadles.exchange.reduction.volumes import Volume
from scadles.fabric.hub.collectives import Fold


class Reduction(NamedTuple):
    """What came of one step's messages.

    Attributes:
        total: the sum over devices of what they sent, float32 ``[n]``, the same to the bit on every device; memory of
            the reducer, valid until its next step.
        scalars: of every device, by rank, float64 ``[size, s]``; rounded to float32, as in a dense message; zeros of
            a device that is absent.
        taken: what the caller subtracts from its own update to get its residual: what this device sent, as it was
            decoded, less what came back to it to keep.
        kept_sq: squared norm of what this device sent, before rounding.
        found: what was wrong with devices' messages, by device, where that is judged.
    """

    total: Tensor
    scalars: NDArray[np.float64]
    taken: Sparse
    kept_sq: float
    found: Mapping[int, float] = MappingProxyType({})


class Sums(NamedTuple):
    """What all devices make of the messages that all have.

    Attributes:
        total: float32 ``[n]``, on the CPU.
        scalars: float64 ``[size, s]``.
        bounds: of the next step's slices, where there are slices.
        start: what the next step's factors begin with, where there are factors.
        found: as in :class:`Reduction`.
    """

    total: Tensor
    scalars: NDArray[np.float64]
    bounds: NDArray[np.int64] | None = None
    start: Tensor | None = None
    found: Mapping[int, float] = MappingProxyType({})


class Collectives(Protocol):
    """What a reducer needs of a fabric."""

    rank: int
    size: int

    @property
    def present(self) -> Sequence[int]: ...

    def gather(self, values: Tensor, phase: str) -> Tensor: ...

    def swap(self, rows: Tensor, phase: str) -> Tensor: ...


class SparseReducer(ABC):
    """A way to add up the largest entries of all devices' updates by messages of sizes agreed beforehand.

    Whatever does not travel stays in :attr:`Reduction.taken`'s complement: over all devices and steps, the totals and
    what is left of the updates make up the updates.

    Args:
        fabric: connects the devices, or says only rank and size where :func:`reduce_together` connects them.
        selector: picks what this device sends; its ``k``, the same on all devices, sets the sizes of messages.
        n: length of the updates.
        value_type: of the values on the wire: ``float32``, ``bfloat16``, ``float16`` or ``int8``.

    Attributes:
        name: of this way.
        picks: whether its selector picks what is sent.
        n: as given.
        k: entries that each device sends at most.
        handed: what is in the messages of a step, by header, where all devices are in one process: a way that puts it
            there need neither write nor read bytes. None where messages travel.

    Raises:
        ConfigError: an unknown value type, an n above 2^31 - 1.
    """

    name: str
    picks: bool = True

    def __init__(self, fabric: Collectives, selector: Selector, n: int, value_type: str = "int8") -> None:
        check_size(n)
        budget_bytes(n, selector.k, value_type)  # refuses an unknown value type
        self.n = n
        self.k = selector.k
        self.value_type = value_type
        self._fabric = fabric
        self._selector = selector
        self._total = torch.zeros(0)
        self._picked = Sparse(torch.zeros(0, dtype=torch.int64), torch.zeros(0))
        self._kept_sq = 0.0
        self.handed: dict[Any, Any] | None = None

    def select_by(self, selector: Selector) -> None:
        """Let another selector pick what is sent from the next step on; on all devices one with the same ``k``."""
        self.k = selector.k
        self._selector = selector

    def reduce(self, v: Tensor, scalars: Sequence[float], step: int, phase: str) -> Reduction:
        """Exchange the largest entries of all devices' updates.

        Args:
            v: this device's update with what it kept back so far, float32 ``[n]``, finite; zeros for a device that
                has nothing.
            scalars: what this device tells all others, as many numbers on each.
            step: of the run, the same on all devices.
            phase: what is being exchanged, for errors.

        Raises:
            PeerLostError: a device did not answer within the fabric's deadline.
            RunError: an update that is not finite.
            WireError: a message that is not what its device sent, or is about something else; it names the device.
        """
        self._check(v)
        slice_messages = self.begin(v, step)
        # a fabric of GPUs returns what it brings on a GPU
        received = None if slice_messages is None else self._fabric.swap(slice_messages, phase).cpu()
        message = self.message(received, scalars, step, phase)
        messages, senders = self._exchange(message, phase)
        reduction = self.settle(self.add_up(messages.cpu(), senders, step, phase))
        if v.device.type == "cpu":
            return reduction
        taken = Sparse(reduction.taken.indices.to(v.device), reduction.taken.values.to(v.device))
        return reduction._replace(total=reduction.total.to(v.device), taken=taken)

    def follow(self, scalars: int, step: int, phase: str) -> Sums:
        """Hear what comes of the others' exchange, as a device that brings nothing; what it has kept back stays.

        Args:
            scalars: how many numbers each device tells all others.
            step, phase: as for :meth:`reduce`.
        """
        nothing = torch.zeros(self.volume(scalars).message_bytes, dtype=torch.uint8)
        messages, senders = self._exchange(nothing, phase)
        return self.add_up(messages.cpu(), senders, step, phase)

    @abstractmethod
    def begin(self, v: Tensor, step: int) -> Tensor | None:
        """Pick what is sent; return a message for each device, uint8 ``[size, m]``, where such are swapped first."""

    @abstractmethod
    def message(self, received: Tensor | None, scalars: Sequence[float], step: int, phase: str) -> Tensor:
        """Return the message for everybody, uint8 ``[m]``, made of those that came."""

    @abstractmethod
    def add_up(self, messages: Tensor, senders: Sequence[int], step: int, phase: str) -> Sums:
        """Return the sum of everybody's messages, uint8 ``[size, m]``; nothing in it is about this device.

        Only rows of ``senders``, ascending, hold anything: who else there is takes no part now.
        """

    @abstractmethod
    def settle(self, sums: Sums) -> Reduction:
        """Close the step."""

    @property
    def outgoing(self) -> Sparse:
        """What left this device with its last message to everybody, as receivers decode it."""
        return self._picked

    def confirm(self, step: int) -> None:  # noqa: B027 - most have nothing to do
        """Take note that what came of a step counts: this device has subtracted what it sent."""

    def forget(self) -> None:  # noqa: B027 - most carry nothing of gradients
        """Let go what is kept back of gradients, here and with whoever adds up; all devices do."""

    @abstractmethod
    def volume(self, scalars: int) -> Volume:
        """Return what one device sends in a step with that many scalars."""

    def _exchange(self, message: Tensor, phase: str) -> tuple[Tensor, Sequence[int]]:
        """Return everybody's messages, uint8 ``[size, m]``, and whose rows hold any."""
        return self._fabric.gather(message, phase), self._fabric.present

    def state(self) -> dict[str, Tensor]:
        """Return what a checkpoint must hold for the next step to be the same, where it depends on the last."""
        return {}

    def load(self, state: dict[str, Tensor]) -> None:  # noqa: B027 - some carry nothing
        """Go on from a state."""

    def _check(self, v: Tensor) -> None:
        if v.numel() != self.n:
            raise ConfigError(f"v has {v.numel()} values, this reducer is for {self.n}: make one for this model")

    def _zeros(self) -> Tensor:
        """Return ``n`` zeros, each time in the same memory."""
        if self._total.numel() != self.n:
            self._total = torch.zeros(self.n)
        return self._total.zero_()


def reduce_together(
    reducers: Sequence[SparseReducer],
    updates: Sequence[Tensor],
    scalars: Sequence[Sequence[float]],
    step: int,
    phase: str,
    present: Sequence[int] | None = None,
    fold: Fold | None = None,
) -> list[Reduction]:
    """Do one step of all devices in one process, without threads, to the same bits.

    Args:
        reducers: of all devices, by rank.
        updates: of each, float32 ``[n]``, on the CPU.
        scalars: of each.
        step, phase: as for :meth:`SparseReducer.reduce`.
        present: who takes part, ascending; None: all, as they must where slices have owners.
        fold: makes one message for everybody of all devices', where a hub does.

    Returns:
        What each device that takes part gets; they share one total.
    """
    here = range(len(reducers)) if present is None else present
    handed: dict[Any, Any] | None = {} if fold is None else None
    for reducer in reducers:
        reducer.handed = handed
    slice_messages = [reducers[rank].begin(updates[rank], step) for rank in here]
    messages = {}
    for rank in here:
        sent = [rows[rank] for rows in slice_messages if rows is not None]
        received = torch.stack(sent) if sent else None
        messages[rank] = reducers[rank].message(received, scalars[rank], step, phase)
    if fold is not None:
        rows = [bytearray(messages[rank].numpy()) if rank in messages else None for rank in range(len(reducers))]
        arrived = torch.frombuffer(bytearray(fold(rows)), dtype=torch.uint8)[None]
    else:
        nothing = torch.zeros_like(messages[here[0]])
        arrived = torch.stack([messages.get(rank, nothing) for rank in range(len(reducers))])
    sums = reducers[here[0]].add_up(arrived, here, step, phase)
    return [reducers[rank].settle(sums) for rank in here]


def as_float32(scalars: Sequence[float]) -> NDArray[np.float32]:
    """Return numbers as a dense message would carry them; what is too large becomes infinite."""
    return torch.tensor(scalars, dtype=torch.float64).float().numpy()


def whose_fault(device: int, phase: str, error: WireError) -> WireError:
    """Return the error of a message with the device that it came from."""
    return WireError(f"device {device}, {phase}: {error}")
