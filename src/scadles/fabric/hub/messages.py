"""The collectives of a device at a hub: a message up, and what comes of everybody's down."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from threading import Condition
from typing import Any

import torch
from torch import Tensor

from scadles.errors import FabricError, MembershipChangedError
from scadles.fabric.contract import ElasticFabric, Pending, View, check_length, copy_flat_bytes, flat_bytes
from scadles.fabric.hub.arrivals import Arrivals, Key
from scadles.fabric.hub.frames import DTYPES, MOST_BYTES, Frame, Kind
from scadles.fabric.hub.members import PULSE_S
from scadles.fabric.hub.session import Session


class HubMessages(ElasticFabric):
    """What a device sends in a view of a hub, and waits for; which views there are is up to :class:`.HubFabric`.

    One that follows sends nothing, and waits for the same.
    """

    _session: Session
    _view: View | None

    def __init__(self) -> None:
        self._changed = Condition()
        self._closed = False
        self._collectives = 0
        self._sequence = 0
        self._step = 0
        self._arrivals = Arrivals(self._changed)

    def note(self, step: int, content: Mapping[str, Any]) -> None:
        self._step = step
        if self._view is not None and not self.follows:
            self._session.send_note({"step": step, **content}, self._view.number, self._sequence + 1)

    def reduce(self, bucket: Tensor, phase: str) -> Pending:
        return self._reduce(Kind.REDUCE, bucket, phase)

    def reduce_step(self, bucket: Tensor, phase: str) -> Pending:
        return self._reduce(Kind.STEP, bucket, phase)

    def _reduce(self, kind: Kind, bucket: Tensor, phase: str) -> Pending:
        self._count()
        if self._view is None:
            return _Nothing()
        dtype = DTYPES.index(bucket.dtype)
        here = bucket.detach()
        on_cpu = here if here.device.type == "cpu" and here.is_contiguous() else here.cpu().contiguous()
        memory = bytes_of(on_cpu)
        key = self._send(kind, memory, memory, len(memory), dtype)
        return _HubPending(self, key, phase, (here, on_cpu) if on_cpu is not here else None)

    def gather(self, values: Tensor, phase: str) -> Tensor:
        self._count()
        mine = values.detach().cpu().contiguous()
        if self._view is None:
            rows = torch.zeros(self.size, len(mine), dtype=mine.dtype)
            rows[self.rank] = mine
            return rows
        key = self._send(Kind.GATHER, bytes(bytes_of(mine)), bytearray(), self.size * mine.nbytes)
        return torch.frombuffer(self.wait_for(key, phase), dtype=mine.dtype).view(self.size, -1)

    def swap(self, rows: Tensor, phase: str) -> Tensor:
        self._count()
        mine = rows.detach().cpu().contiguous()
        if self._view is None:
            arrived = torch.zeros_like(mine)
            arrived[self.rank] = mine[self.rank]
            return arrived
        key = self._send(Kind.SWAP, bytes(bytes_of(mine)), bytearray(), mine.nbytes)
        return torch.frombuffer(self.wait_for(key, phase), dtype=torch.uint8).view(self.size, -1)

    def fold(self, message: Tensor, phase: str) -> Tensor:
        """Send a message to the hub, and return the one that it makes of everybody's, uint8 ``[m]``.

        Args:
            message: uint8, of the same length on all devices.
            phase: what is being exchanged, for errors.

        Raises:
            FabricError: this device takes part in nothing yet.
            MembershipChangedError: as every collective.
        """
        self._count()
        key = self._send(Kind.FOLD, bytes(bytes_of(message.detach().cpu().contiguous())), bytearray(), MOST_BYTES)
        return torch.frombuffer(self.wait_for(key, phase), dtype=torch.uint8)

    def share(self, message: Tensor | None, senders: Sequence[int], most: int, phase: str) -> dict[int, Tensor]:
        self._count()
        if message is not None:
            check_length(self.rank, len(message), most, phase)
        if self._view is None:
            return {}
        others = [sender for sender in senders if sender != self.rank and sender in self.members]
        with self._changed:
            view, sequence = self._view.number, self._next()
            keys = {sender: (view, sequence, sender) for sender in others}
            for key in keys.values():
                self._arrivals.expect(key, bytearray(), most)
        if message is not None and not self.follows:
            self._queue(Kind.RELAY, bytes(bytes_of(message.detach().cpu().contiguous())), sequence)
        received: dict[int, Tensor] = {}
        for sender, key in keys.items():
            # who is lost meanwhile has shared nothing
            arrival = self._arrivals.wait(key, lambda arrival: arrival.is_here or self.changed, PULSE_S)
            if arrival.is_here:
                check_length(sender, arrival.total, most, phase)
                received[sender] = torch.frombuffer(arrival.content() or bytearray(1), dtype=torch.uint8)
                received[sender] = received[sender][: arrival.total]
        return received

    def broadcast(self, tensors: Sequence[Tensor], phase: str) -> None:
        if not tensors:
            return
        if self._view is None:
            self._count()
            return
        source = min(self._view.members)
        most = sum(tensor.nbytes for tensor in tensors)
        received = self.share(flat_bytes(tensors, "cpu") if self.rank == source else None, [source], most, phase)
        if self.rank == source:
            return
        if source not in received:
            raise self._void(phase)
        if len(received[source]) != most:
            raise FabricError(f"{phase}: device {source} sends {len(received[source])} bytes where {most} are expected")
        copy_flat_bytes(received[source], tensors)

    @property
    def collectives(self) -> int:
        return self._collectives

    def wait_for(self, key: Key, phase: str) -> memoryview | bytearray:
        """Return a message once all of it is here.

        Raises:
            MembershipChangedError: it will not come, because somebody came or went.
        """
        if self.follows:
            self._session.pulse_now()  # the hub hears how far this device is
        # whoever ends a view with a step knows of the next one before it goes on
        arrival = self._arrivals.wait(
            key, lambda arrival: (arrival.is_here and not arrival.ends_view) or self._is_void(key[0]), PULSE_S
        )
        if not arrival.is_here:
            raise self._void(phase)
        if arrival.is_too_long:
            raise FabricError(f"{phase}: {arrival.total} bytes come from the hub, which are too many")
        return arrival.content()

    def _is_void(self, view: int) -> bool:
        return self._closed or self.changed or self._view is None or self._view.number != view

    def _void(self, phase: str) -> FabricError:
        if self._closed:
            return FabricError(f"device {self.rank} has left the fabric")
        if self._session.over.is_set():
            return MembershipChangedError(f"lost the hub during {phase}: {self._session.why}", detached=True)
        return MembershipChangedError(f"somebody came or went during {phase}")

    def _count(self) -> None:
        if self._closed:
            raise FabricError(f"device {self.rank} has left the fabric")
        self._collectives += 1

    @property
    def _present(self) -> View:
        if self._view is None:
            raise FabricError(f"device {self.rank} takes part in nothing yet")
        return self._view

    def _next(self) -> int:
        self._sequence += 1
        return self._sequence

    def _send(self, kind: Kind, content: Any, room: memoryview | bytearray, most: int, dtype: int = 0) -> Key:
        """Send a message, unless this device only follows, and make room for what comes back, of ``most`` bytes."""
        with self._changed:
            key = (self._present.number, self._next(), 0)
            self._arrivals.expect(key, room, most)
        if not self.follows:
            self._queue(kind, content, key[1], dtype)
        return key

    def _queue(self, kind: Kind, content: Any, sequence: int, dtype: int = 0) -> None:
        frame = Frame(kind, dtype, self.rank, self._present.number, sequence, total=len(content))
        self._session.send(frame, memoryview(content))


class _HubPending(Pending):
    def __init__(self, fabric: HubMessages, key: Key, phase: str, copied: tuple[Tensor, Tensor] | None) -> None:
        self._fabric = fabric
        self._key = key
        self._phase = phase
        self._copied = copied

    def wait(self) -> None:
        self._fabric.wait_for(self._key, self._phase)
        if self._copied is not None:
            bucket, came = self._copied
            bucket.copy_(came)


class _Nothing(Pending):
    def wait(self) -> None:
        return


def bytes_of(tensor: Tensor) -> memoryview:
    """Return the bytes of a tensor, not copied."""
    flat: Any = tensor.reshape(-1).view(torch.uint8).numpy()
    return memoryview(flat)
