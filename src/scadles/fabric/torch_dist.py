"""Devices as processes, connected by torch.distributed: gloo on CPU, nccl on CUDA, mpi where torch was built with it.

What gloo does when a device dies: its neighbours in the ring see the connection close at once, the others would wait
for the deadline. So whoever sees an error aborts its own connections first, which passes the news on around the ring,
then answers a roll call in the rendezvous store; who does not answer is lost.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from datetime import timedelta
from itertools import count
from typing import Any

import torch
import torch.distributed as dist

# Its default arguments hold the process group that exists when it is first imported, for ever, and with it the
# connections whose closing must reach the neighbours. Optimizers import it at some point; here there is none yet.
import torch.distributed.nn.functional
from torch import Tensor
from torch.distributed import PrefixStore  # type: ignore[attr-defined]

from scadles.errors import ConfigError, FabricError, PeerLostError
from scadles.fabric.byte_counters import SocketCounter
from scadles.fabric.contract import Fabric, Pending, check_length, copy_flat_bytes, flat_bytes
from scadles.fabric.rendezvous import choose_interface, first_line, open_store
from scadles.fabric.roll_call import RollCall
from scadles.time_limit import within

_MARGIN_S = 0.5
_LENGTH_BYTES = 8
_groups = count()


class TorchFabric(Fabric):
    """One device's end of a process group, made from what torchrun sets: RANK, WORLD_SIZE, MASTER_ADDR, MASTER_PORT.

    Args:
        backend: ``gloo``, ``nccl`` or ``mpi``.
        deadline_s: wall seconds that any exchange may take.
        device: where reduced tensors live.
        sleep: lets wall seconds pass during the roll call.

    Raises:
        ConfigError: the environment is incomplete, the port is taken or the backend is missing.
        PeerLostError: a device did not join within the deadline.
    """

    def __init__(self, backend: str, deadline_s: float, device: torch.device, sleep: Callable[[float], None]) -> None:
        self.rank = _from_environment("RANK")
        self.size = _from_environment("WORLD_SIZE")
        self.deadline_s = deadline_s
        self.device = device
        self._collectives = 0
        self._closed = False
        self._under_way: dict[int, Any] = {}
        self._sending: list[Any] = []
        self._payload_bytes = 0.0
        self._sent_at_close = 0
        self._is_gloo = backend == "gloo"
        self._counter = SocketCounter() if backend == "gloo" and SocketCounter.available() else None
        self.bytes_counted_by = "kernel (TCP_INFO)" if self._counter else "message sizes"
        # groups made one after the other by the same processes share a store and must not read each other's entries
        self._store = PrefixStore(f"scadles/{next(_groups)}", open_store(self.size, deadline_s))
        self._roll_call = RollCall(self._store, self.rank, self.size, sleep)
        self._join(backend)

    def reduce(self, bucket: Tensor, phase: str) -> Pending:
        self._count(bucket.nbytes, 2 * (self.size - 1) / self.size)
        self._under_way[self._collectives] = self._guarded(phase, lambda: dist.all_reduce(bucket, async_op=True))
        return _TorchPending(self, self._collectives, phase)

    def finish(self, number: int, phase: str) -> None:
        """Wait for the reduction that was started as the ``number``-th collective."""
        self._guarded(phase, lambda: self._under_way.pop(number).wait())

    def gather(self, values: Tensor, phase: str) -> Tensor:
        self._count(values.nbytes, self.size - 1)
        # gloo's own all-gather goes around a ring: as many bytes, but a latency for each device, and wake-ups
        if self._is_gloo:
            mine = values.cpu().contiguous().view(torch.uint8)
            arrived = torch.empty(self.size, mine.numel(), dtype=torch.uint8)
            rows = mine.expand(self.size, -1).contiguous()
            self._guarded(phase, lambda: dist.all_to_all_single(arrived, rows))
            return arrived.view(values.dtype)
        gathered = [torch.empty_like(values, device=self.device) for _ in range(self.size)]
        self._guarded(phase, lambda: dist.all_gather(gathered, values.to(self.device)))
        return torch.stack(gathered).cpu()

    def swap(self, rows: Tensor, phase: str) -> Tensor:
        self._count(rows.nbytes, (self.size - 1) / self.size)
        mine = rows.to(self.device).contiguous()
        arrived = torch.empty_like(mine)
        self._guarded(phase, lambda: dist.all_to_all_single(arrived, mine))
        return arrived.cpu()

    def share(self, message: Tensor | None, senders: Sequence[int], most: int, phase: str) -> dict[int, Tensor]:
        self._count(0 if message is None else message.nbytes + _LENGTH_BYTES, self.size - 1)
        if message is not None:
            check_length(self.rank, len(message), most, phase)
        sources = [sender for sender in senders if sender != self.rank]
        received: dict[int, Tensor] = self._guarded(phase, lambda: self._share(message, sources, most, phase))
        return received

    def _share(self, message: Tensor | None, sources: Sequence[int], most: int, phase: str) -> dict[int, Tensor]:
        _wait_for(self._sending)
        self._sending = []
        lengths, messages = self._departures(message)
        announced = [torch.zeros(1, dtype=torch.int64, device=self.device) for _ in sources]
        # gloo lets a message wait for its receiver; nccl wants both ends of a round to be there
        early, late = ([*lengths, *messages], []) if self._is_gloo else (lengths, messages)
        self._post(early, [dist.P2POp(dist.irecv, one, source) for one, source in zip(announced, sources, strict=True)])
        received = {}
        for source, length in zip(sources, announced, strict=True):
            check_length(source, int(length), most, phase)
            received[source] = torch.empty(int(length), dtype=torch.uint8, device=self.device)
        self._post(late, [dist.P2POp(dist.irecv, room, source) for source, room in received.items() if len(room)])
        return {source: room.cpu() for source, room in received.items()}

    def _departures(self, message: Tensor | None) -> tuple[list[Any], list[Any]]:
        """Return what this device sends to each of the others: a length, and that many bytes."""
        if message is None:
            return [], []
        receivers = [rank for rank in range(self.size) if rank != self.rank]
        mine, length = message.to(self.device), torch.tensor([len(message)], device=self.device)
        lengths = [dist.P2POp(dist.isend, length, rank) for rank in receivers]
        return lengths, [dist.P2POp(dist.isend, mine, rank) for rank in receivers if len(mine)]

    def _post(self, sends: Sequence[Any], receptions: Sequence[Any]) -> None:
        """Start all of these and wait for what is received."""
        posted = [*sends, *receptions]
        works = dist.batch_isend_irecv(posted) if posted else []
        if self._is_gloo:
            self._sending += works[: len(sends)]
            works = works[len(sends) :]
        _wait_for(works)

    def broadcast(self, tensors: Sequence[Tensor], phase: str) -> None:
        if not tensors:
            return
        flat = flat_bytes(tensors, self.device)
        self._count(flat.nbytes, (self.size - 1) / self.size)
        self._guarded(phase, lambda: dist.broadcast(flat, src=0))
        copy_flat_bytes(flat, tensors)

    def bytes_sent(self) -> int:
        if self._closed:
            return self._sent_at_close
        return self._counter.bytes_sent() if self._counter else round(self._payload_bytes)

    @property
    def collectives(self) -> int:
        return self._collectives

    def close(self) -> None:
        if self._closed:
            return
        self._sent_at_close = self.bytes_sent()
        self._closed = True
        self._sending.clear()
        self._under_way.clear()  # work that anybody holds on to keeps its connections open
        if dist.is_initialized():
            dist.destroy_process_group()

    def _join(self, backend: str) -> None:
        interface = choose_interface() if self._is_gloo else None
        if self._counter:
            self._counter.start()
        if self.device.type == "cuda":
            torch.cuda.set_device(self.device)
        self._roll_call.arrive()
        try:
            # gloo takes several times its own deadline for a connection that never comes about
            within(lambda: self._connect(backend), self.deadline_s + _MARGIN_S)
        except (RuntimeError, ValueError, TimeoutError) as error:
            missing = self._roll_call.not_arrived()
            if missing:
                raise PeerLostError(missing, "joining", f"not there within {self.deadline_s:g} s") from None
            raise FabricError(
                f"cannot connect the devices with {backend}: {first_line(error)}; each device must reach all others "
                f"on the network that leads to MASTER_ADDR, here by {interface or 'the address of this host name'} "
                "(export GLOO_SOCKET_IFNAME=NAME for another one), on any port"
            ) from None
        if self._counter:
            self._counter.watch()

    def _connect(self, backend: str) -> None:
        if self.device.type == "cuda":
            torch.cuda.set_device(self.device)  # each thread has its own
        dist.init_process_group(
            backend,
            store=PrefixStore("backend", self._store),
            rank=self.rank,
            world_size=self.size,
            timeout=timedelta(seconds=self.deadline_s),
        )
        # the first collective opens all connections
        dist.all_reduce(torch.zeros(1, device=self.device))

    def _count(self, nbytes: int, factor: float) -> None:
        self._collectives += 1
        self._payload_bytes += nbytes * factor

    def _guarded(self, phase: str, operation: Callable[[], Any]) -> Any:
        """Do ``operation`` and turn the backend's error into one that names device and phase."""
        if self._closed:
            raise FabricError(f"device {self.rank} has left the fabric")
        try:
            return operation()
        except RuntimeError as error:
            reason = first_line(error)
        # out here nothing refers to the failed work any more, which would keep its connections open
        self.close()
        missing = self._roll_call.not_alive()
        if missing:
            raise PeerLostError(missing, phase, reason)
        raise FabricError(f"{phase} failed though all devices are there: {reason}")


def _wait_for(works: Sequence[Any]) -> None:
    for work in works:
        work.wait()


class _TorchPending(Pending):
    def __init__(self, fabric: TorchFabric, number: int, phase: str) -> None:
        self._fabric = fabric
        self._number = number
        self._phase = phase

    def wait(self) -> None:
        self._fabric.finish(self._number, self._phase)


def _from_environment(name: str) -> int:
    try:
        return int(os.environ[name])
    except (KeyError, ValueError):
        raise ConfigError(
            f"{name} = {os.environ.get(name)!r}: start devices with torchrun, or with scadles train --local N"
        ) from None
