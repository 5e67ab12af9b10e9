"""How long a device waits for the network, apart from all else that it does in a step."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol, TypeVar

from torch import Tensor

from scadles.errors import FabricError
from scadles.exchange.aggregation.folding import Waitable
from scadles.exchange.reduction.contract import Collectives
from scadles.exchange.reduction.through_hub import Folding

_Result = TypeVar("_Result")


class Link(Collectives, Protocol):
    """What an exchange with compression needs of a fabric."""

    def reduce(self, bucket: Tensor, phase: str) -> Waitable: ...

    def reduce_step(self, bucket: Tensor, phase: str) -> Waitable: ...


class TimedLink:
    """A device's end of a fabric, with the time that is spent in it.

    Args:
        link: what is timed.
        seconds: a clock.

    Attributes:
        rank, size: as the link has them.
        seconds: as given.
        transfer_s: spent in the link so far; what comes before, between and after the messages is not in it.

    >>> import torch
    >>> from scadles.fabric import LocalFabric
    >>> [alone], clock = LocalFabric.create(1), iter([10.0, 12.0, 50.0, 50.5])
    >>> link = TimedLink(alone, lambda: next(clock))
    >>> for phase in ("gradients of step 1", "gradients of step 2"):
    ...     gathered = link.gather(torch.ones(2), phase)
    >>> link.transfer_s
    2.5
    """

    def __init__(self, link: Link, seconds: Callable[[], float]) -> None:
        self.rank = link.rank
        self.size = link.size
        self.seconds = seconds
        self.transfer_s = 0.0
        self._link = link

    @property
    def present(self) -> Sequence[int]:
        """Who takes part now, as the link says."""
        return self._link.present

    def reduce(self, bucket: Tensor, phase: str) -> Waitable:
        return _TimedWait(self, self.timed(lambda: self._link.reduce(bucket, phase)))

    def reduce_step(self, bucket: Tensor, phase: str) -> Waitable:
        return _TimedWait(self, self.timed(lambda: self._link.reduce_step(bucket, phase)))

    def gather(self, values: Tensor, phase: str) -> Tensor:
        return self.timed(lambda: self._link.gather(values, phase))

    def swap(self, rows: Tensor, phase: str) -> Tensor:
        return self.timed(lambda: self._link.swap(rows, phase))

    def fold(self, message: Tensor, phase: str) -> Tensor:
        """Do what the link does, where it has an owner."""
        if not isinstance(self._link, Folding):
            raise FabricError(f"{phase}: this fabric has no hub")
        folding = self._link
        return self.timed(lambda: folding.fold(message, phase))

    def timed(self, work: Callable[[], _Result]) -> _Result:
        """Return what ``work`` returns, and count its time as transfer."""
        began_s = self.seconds()
        result = work()
        self.transfer_s += self.seconds() - began_s
        return result


class _TimedWait:
    def __init__(self, link: TimedLink, pending: Waitable) -> None:
        self._link = link
        self._pending = pending

    def wait(self) -> None:
        self._link.timed(self._pending.wait)
