"""Every device adds up one slice of the vector, and everybody gets the largest entries of each slice."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from scadles.errors import CheckpointError
from scadles.exchange.compression import Selector, Sparse, WireError, squared_norm
from scadles.exchange.compression.blocks import in_threads
from scadles.exchange.reduction.contract import Collectives, Reduction, SparseReducer, Sums, as_float32, whose_fault
from scadles.exchange.reduction.slice_messages import (
    ImplicitHeader,
    Opened,
    Packed,
    open_slice_message,
    pack_slice_message,
)
from scadles.exchange.reduction.slices import balanced_slices, equal_slices
from scadles.exchange.reduction.volumes import Volume, split_volume

_EVERYBODY = -1
_NO_SCALARS = np.zeros(0, np.float32)


class SplitReducer(SparseReducer):
    """Split and reduce, then gather (after Ok-Topk, Li and Hoefler 2022): a volume that does not grow with devices.

    Each device owns a slice of the vector. It gets a message of entries from every device, adds them up, and sends the
    largest ``k / size`` sums to everybody; what is left of the sums, rounding included, it takes into its own residual.
    Messages have one size. What does not fit stays with its sender, so the slices' bounds follow the entries that all
    devices wanted to send: these numbers travel in the messages, and the next bounds are the same on all devices.

    >>> from scadles.exchange.compression import ExactTopK
    >>> from scadles.fabric import LocalFabric
    >>> [alone] = LocalFabric.create(1)
    >>> reducer = SplitReducer(alone, ExactTopK(1), n=3, value_type="float32")
    >>> reducer.reduce(torch.tensor([1.0, -3.0, 2.0]), [64.0], step=1, phase="gradients of step 1").total
    tensor([ 0., -3.,  0.])
    """

    name = "split"

    def __init__(self, fabric: Collectives, selector: Selector, n: int, value_type: str = "int8") -> None:
        super().__init__(fabric, selector, n, value_type)
        self._bounds = equal_slices(n, fabric.size)

    def begin(self, v: Tensor, step: int) -> Tensor:
        picked = self._selector.pick(v, step)
        indices, values = picked.indices.cpu().numpy(), picked.values.detach().cpu().numpy()
        indices, values = _without_zeros(indices, values)
        cuts = np.searchsorted(indices, self._bounds)
        size = self._fabric.size
        messages = torch.empty(size, self.volume(0).first_message_bytes, dtype=torch.uint8)
        rows = messages.numpy()

        def pack(owner: int) -> Packed:
            part = slice(cuts[owner], cuts[owner + 1])
            header = self._header(step, self._fabric.rank, owner)
            return self._pack(rows[owner], header, indices[part] - header.start, values[part], part.stop - part.start)

        packed = in_threads(pack, range(size))
        self._kept_sq = squared_norm(torch.from_numpy(np.concatenate([p.values for p in packed])))
        self._picked = _joined([p.indices + start for p, start in zip(packed, self._bounds, strict=False)], packed)
        return messages

    def message(self, received: Tensor | None, scalars: Sequence[float], step: int, phase: str) -> Tensor:
        rank, size = self._fabric.rank, self._fabric.size
        start, stop = self._bounds[rank : rank + 2].tolist()
        sums, wanted = np.zeros(stop - start, np.float32), 0
        rows = [] if received is None else list(received.numpy())
        headers = [self._header(step, sender, rank) for sender in range(size)]
        for opened in self._opened(rows, headers, phase):
            sums[opened.indices] += opened.values
            wanted += opened.wanted
        message = torch.empty(self.volume(len(scalars)).message_bytes, dtype=torch.uint8)
        header = self._header(step, rank, _EVERYBODY, len(scalars))
        found = np.flatnonzero(sums)
        packed = self._pack(message.numpy(), header, found, sums[found], wanted, as_float32(scalars))
        sums[packed.indices] -= packed.sent
        self._keep(sums, start, stop)
        return message

    def add_up(self, messages: Tensor, senders: Sequence[int], step: int, phase: str) -> Sums:
        total = self._zeros()
        sums = total.numpy()
        scalars = (messages.shape[1] - self.volume(0).message_bytes) // 4
        headers = [self._header(step, owner, _EVERYBODY, scalars) for owner in range(self._fabric.size)]
        slices = self._opened(list(messages.numpy()), headers, phase)
        kept = []
        for opened, header in zip(slices, headers, strict=True):
            sums[header.start : header.stop][opened.indices] = opened.values
            kept.append(opened.indices + header.start)
        bounds = balanced_slices(self._bounds, [opened.wanted for opened in slices], kept)
        return Sums(total, np.array([opened.scalars for opened in slices], np.float64), bounds)

    def settle(self, sums: Sums) -> Reduction:
        if sums.bounds is not None:
            self._bounds = sums.bounds
        return Reduction(sums.total, sums.scalars, self._picked, self._kept_sq)

    def volume(self, scalars: int) -> Volume:
        return split_volume(self.n, self.k, self._fabric.size, self.value_type, scalars)

    def state(self) -> dict[str, Tensor]:
        return {"bounds": torch.from_numpy(self._bounds.copy())}

    def load(self, state: dict[str, Tensor]) -> None:
        if "bounds" not in state:  # of a run that gathered
            return
        bounds = state["bounds"].numpy().astype(np.int64)
        same = len(bounds) == len(self._bounds) and bounds[0] == 0 and bounds[-1] == self.n
        if not same or bool((np.diff(bounds) < 0).any()):
            raise CheckpointError(f"slices of another run: {len(bounds) - 1} of {bounds[-1]} values")
        self._bounds = bounds

    def _header(self, step: int, sender: int, receiver: int, scalars: int = 0) -> ImplicitHeader:
        owner = sender if receiver == _EVERYBODY else receiver
        start, stop = self._bounds[owner : owner + 2].tolist()
        return ImplicitHeader(step, sender, receiver, start, stop, self.value_type, scalars)

    def _pack(
        self,
        message: NDArray[np.uint8],
        header: ImplicitHeader,
        indices: NDArray[np.int64],
        values: NDArray[np.float32],
        wanted: int,
        scalars: NDArray[np.float32] = _NO_SCALARS,
    ) -> Packed:
        handed = self.handed
        packed = pack_slice_message(message, header, indices, values, wanted, scalars.tolist(), read=handed is None)
        if handed is not None:
            handed[header] = Opened(packed.indices, packed.sent, scalars, wanted)
        return packed

    def _opened(self, rows: list[NDArray[np.uint8]], headers: list[ImplicitHeader], phase: str) -> list[Opened]:
        handed = self.handed
        if handed is not None:
            return [handed[header] for header in headers[: len(rows)]]
        return _opened(rows, headers, phase)

    def _keep(self, rest: NDArray[np.float32], start: int, stop: int) -> None:
        """Take less than was sent, by the rest of the sums of this device's slice."""
        indices, values = self._picked.indices.numpy(), self._picked.values.numpy()
        before, after = np.searchsorted(indices, [start, stop])
        own = -rest
        own[indices[before:after] - start] += values[before:after]
        found = np.flatnonzero(own)
        self._picked = Sparse(
            torch.from_numpy(np.concatenate([indices[:before], found + start, indices[after:]])),
            torch.from_numpy(np.concatenate([values[:before], own[found], values[after:]])),
        )


def _without_zeros(
    indices: NDArray[np.int64], values: NDArray[np.float32]
) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    found = np.flatnonzero(values)
    return (indices, values) if len(found) == len(values) else (indices[found], values[found])


def _joined(indices: list[NDArray[np.int64]], packed: list[Packed]) -> Sparse:
    values = np.concatenate([p.sent for p in packed])
    return Sparse(torch.from_numpy(np.concatenate(indices)), torch.from_numpy(values))


def _opened(rows: list[NDArray[np.uint8]], headers: list[ImplicitHeader], phase: str) -> list[Opened]:
    """Return the contents of messages.

    Raises:
        WireError: a bad one; it names the device.
    """

    def open_one(number: int) -> Opened:
        try:
            return open_slice_message(rows[number], headers[number])
        except WireError as error:
            raise whose_fault(headers[number].sender, phase, error) from None

    return in_threads(open_one, range(len(rows)))
