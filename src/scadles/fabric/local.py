"""All devices in one process, one thread each: the reference that every other fabric must agree with."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from threading import Condition
from typing import Any

import torch
from torch import Tensor

from scadles.errors import FabricError, PeerLostError
from scadles.fabric.contract import Fabric, Pending, check_length
from scadles.fabric.hub.collectives import Fold


@dataclass
class _Collective:
    """One collective operation: what has been brought, and what came of it."""

    brought: dict[int, Any] = field(default_factory=dict)
    result: Any = None
    fetched: int = 0


class _Hub:
    """Where the devices' threads meet, operation by operation."""

    def __init__(self, size: int, deadline_s: float) -> None:
        self.size = size
        self.deadline_s = deadline_s
        self._changed = Condition()
        self._collectives: dict[int, _Collective] = {}
        self._left: set[int] = set()

    def bring(self, number: int, rank: int, value: Any, combine: Callable[[list[Any]], Any]) -> None:
        with self._changed:
            collective = self._collectives.setdefault(number, _Collective())
            collective.brought[rank] = value
            if len(collective.brought) == self.size:
                collective.result = combine([collective.brought[r] for r in range(self.size)])
                self._changed.notify_all()

    def give(self, number: int, rank: int, value: Any) -> None:
        """Bring something to a collective that may go without some."""
        with self._changed:
            self._collectives.setdefault(number, _Collective()).brought[rank] = value
            self._changed.notify_all()

    def receive(self, number: int, senders: Sequence[int], phase: str) -> dict[int, Any]:
        """Return what these have given; nobody waits for anybody else."""
        awaited = set(senders)
        with self._changed:
            collective = self._collectives.setdefault(number, _Collective())
            self._changed.wait_for(
                lambda: awaited <= collective.brought.keys() or awaited & self._left - collective.brought.keys(),
                self.deadline_s,
            )
            if missing := awaited - collective.brought.keys():
                raise self._lost(missing, phase)
            self._fetched(number)
            return {sender: collective.brought[sender] for sender in senders}

    def fetch(self, number: int, phase: str) -> Any:
        with self._changed:
            collective = self._collectives[number]
            self._changed.wait_for(
                lambda: collective.result is not None or self._left - collective.brought.keys(), self.deadline_s
            )
            if collective.result is None:
                raise self._lost(set(range(self.size)) - collective.brought.keys(), phase)
            self._fetched(number)
            return collective.result

    def _lost(self, missing: set[int], phase: str) -> PeerLostError:
        gone = sorted(missing & self._left)
        detail = "it has left" if gone else f"no answer within {self.deadline_s:g} s"
        return PeerLostError(gone or sorted(missing), phase, detail)

    def _fetched(self, number: int) -> None:
        """Forget a collective once everybody has what came of it."""
        self._collectives[number].fetched += 1
        if self._collectives[number].fetched == self.size:
            del self._collectives[number]

    def leave(self, rank: int) -> None:
        with self._changed:
            self._left.add(rank)
            self._changed.notify_all()


class _LocalPending(Pending):
    def __init__(self, hub: _Hub, number: int, phase: str, bucket: Tensor) -> None:
        self._hub = hub
        self._number = number
        self._phase = phase
        self._bucket = bucket

    def wait(self) -> None:
        self._bucket.copy_(self._hub.fetch(self._number, self._phase))


class LocalFabric(Fabric):
    """One device's end of an in-memory fabric.

    >>> [alone] = LocalFabric.create(1)
    >>> bucket = torch.tensor([1.0, 2.0])
    >>> alone.reduce(bucket, "an example").wait()
    >>> bucket
    tensor([1., 2.])
    """

    bytes_counted_by = "nothing leaves the process"

    def __init__(self, hub: _Hub, rank: int) -> None:
        self._hub = hub
        self.rank = rank
        self.size = hub.size
        self._operations = 0
        self._closed = False

    @classmethod
    def create(cls, size: int, deadline_s: float = 60.0) -> list[LocalFabric]:
        """Return the ends of a fabric of ``size`` devices; ``deadline_s`` are wall seconds."""
        hub = _Hub(size, deadline_s)
        return [cls(hub, rank) for rank in range(size)]

    def reduce(self, bucket: Tensor, phase: str) -> Pending:
        return _LocalPending(self._hub, self._bring(bucket, _sum), phase, bucket)

    def gather(self, values: Tensor, phase: str) -> Tensor:
        gathered: Tensor = self._hub.fetch(self._bring(values.clone(), torch.stack), phase)
        return gathered.clone()  # everybody fetches the same one

    def swap(self, rows: Tensor, phase: str) -> Tensor:
        swapped: Tensor = self._hub.fetch(self._bring(rows.clone(), torch.stack), phase)
        return swapped[:, self.rank].clone()  # [from, to, m]

    def share(self, message: Tensor | None, senders: Sequence[int], most: int, phase: str) -> dict[int, Tensor]:
        number = self._next_operation()
        if message is not None:
            check_length(self.rank, len(message), most, phase)
            self._hub.give(number, self.rank, message.clone())
        received = self._hub.receive(number, [sender for sender in senders if sender != self.rank], phase)
        for sender, theirs in received.items():
            check_length(sender, len(theirs), most, phase)
        return {sender: theirs.clone() for sender, theirs in received.items()}

    def broadcast(self, tensors: Sequence[Tensor], phase: str) -> None:
        if not tensors:
            return
        mine = [tensor.detach().clone() for tensor in tensors]
        number = self._bring(mine, lambda brought: brought[0])
        for tensor, first in zip(tensors, self._hub.fetch(number, phase), strict=True):
            tensor.detach().copy_(first)

    def bytes_sent(self) -> int:
        return 0

    @property
    def collectives(self) -> int:
        return self._operations

    def close(self) -> None:
        self._closed = True
        self._hub.leave(self.rank)

    def _bring(self, value: Any, combine: Callable[[list[Any]], Any]) -> int:
        number = self._next_operation()
        self._hub.bring(number, self.rank, value, combine)
        return number

    def _next_operation(self) -> int:
        if self._closed:
            raise FabricError(f"device {self.rank} has left the fabric")
        self._operations += 1
        return self._operations


class LocalHubFabric(LocalFabric):
    """One device's end of an in-memory fabric in which one message is made of those of all, as a hub makes it."""

    def __init__(self, hub: _Hub, rank: int, fold: Fold) -> None:
        super().__init__(hub, rank)
        self._fold = fold

    @classmethod
    def around(cls, fold: Fold, size: int, deadline_s: float = 60.0) -> list[LocalHubFabric]:
        """Return the ends of a fabric of ``size`` devices; ``deadline_s`` are wall seconds."""
        hub = _Hub(size, deadline_s)
        return [cls(hub, rank, fold) for rank in range(size)]

    def fold(self, message: Tensor, phase: str) -> Tensor:
        """Return the one message that is made of everybody's, uint8 ``[m]``."""
        number = self._bring(bytearray(message.numpy()), self._fold)
        return torch.frombuffer(bytearray(self._hub.fetch(number, phase)), dtype=torch.uint8)


def _sum(brought: list[Tensor]) -> Tensor:
    total = brought[0].clone()
    for tensor in brought[1:]:
        total += tensor
    return total
