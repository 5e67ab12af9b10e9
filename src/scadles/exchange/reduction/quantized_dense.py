"""All entries of all devices' updates, in less precise values: quantisation, for comparison."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from scadles.exchange.compression import (
    Selector,
    Sparse,
    WireError,
    decode_dense,
    dense_bytes,
    encode_dense,
    squared_norm,
)
from scadles.exchange.reduction.contract import Collectives, Reduction, SparseReducer, Sums, as_float32, whose_fault
from scadles.exchange.reduction.volumes import Volume


class All(Selector):
    """Every entry."""

    def __init__(self, n: int) -> None:
        self.k = n

    def select(self, values: Tensor, step: int | None = None) -> Tensor:
        return torch.arange(values.numel(), device=values.device)


class QuantizedDenseReducer(SparseReducer):
    """Each device adds up one slice of everybody's whole update, and everybody gets the slices' sums.

    Values are rounded on the way to the owner of a slice and on the way back; what rounding loses stays in the feedback
    of whom it was lost by.

    >>> from scadles.fabric import LocalFabric
    >>> [alone] = LocalFabric.create(1)
    >>> reducer = QuantizedDenseReducer(alone, All(3), n=3, value_type="float16")
    >>> reducer.reduce(torch.tensor([1.0, -3.0, 2.0]), [64.0], step=1, phase="gradients of step 1").total
    tensor([ 1., -3.,  2.])
    """

    name = "whole"

    def __init__(self, fabric: Collectives, selector: Selector, n: int, value_type: str = "int8") -> None:
        super().__init__(fabric, selector, n, value_type)
        self._span = -(-n // fabric.size)
        self._sent = torch.zeros(0)

    def begin(self, v: Tensor, step: int) -> Tensor:
        size = self._fabric.size
        padded = torch.zeros(self._span * size)
        padded[: self.n].copy_(v)
        parts = [encode_dense(part, value_type=self.value_type, step=step) for part in torch.split(padded, self._span)]
        self._sent = torch.cat([part.sent for part in parts])
        self._kept_sq = squared_norm(padded)
        return torch.stack([part.message for part in parts])

    def message(self, received: Tensor | None, scalars: Sequence[float], step: int, phase: str) -> Tensor:
        rank = self._fabric.rank
        sums = torch.zeros(self._span)
        for sender, row in enumerate(() if received is None else received):
            sums += open_dense(row, self._span, sender, step, phase)[1]
        numbers = as_float32(scalars).tolist()
        encoded = encode_dense(sums, value_type=self.value_type, step=step, scalars=numbers)
        self._sent[rank * self._span : (rank + 1) * self._span] -= sums - encoded.sent
        return encoded.message

    def add_up(self, messages: Tensor, senders: Sequence[int], step: int, phase: str) -> Sums:
        total, rows = self._zeros(), []
        for owner, message in enumerate(messages):
            scalars, part = open_dense(message, self._span, owner, step, phase)
            here = total[owner * self._span : (owner + 1) * self._span]
            here.copy_(part[: len(here)])
            rows.append(scalars)
        return Sums(total, np.array(rows, np.float64))

    def settle(self, sums: Sums) -> Reduction:
        taken = Sparse(torch.arange(self.n), self._sent[: self.n])
        return Reduction(sums.total, sums.scalars, taken, self._kept_sq)

    def volume(self, scalars: int) -> Volume:
        return quantized_dense_volume(self.n, self._fabric.size, self.value_type, scalars)


def open_dense(
    message: Tensor, n: int, device: int, step: int, phase: str, scalars: int | None = None
) -> tuple[tuple[float, ...], Tensor]:
    """Return the scalars, as many as are said if that is known, and the values of a device's dense message.

    Raises:
        WireError: a bad one; it names the device.
    """
    try:
        header, part = decode_dense(message, n)
        if header.step != step:
            raise WireError(f"a message of step {header.step}, this is step {step}")
        if scalars is not None and len(header.scalars) != scalars:
            raise WireError(f"a message with {len(header.scalars)} scalars, not {scalars}")
    except WireError as error:
        raise whose_fault(device, phase, error) from None
    return header.scalars, part


def quantized_dense_volume(n: int, size: int, value_type: str = "int8", scalars: int = 0) -> Volume:
    """Return the volume of a split of whole vectors: each slice goes to its owner, each sum goes around the ring.

    >>> quantized_dense_volume(1_000_000, 16, "float16").bytes_sent
    3752400
    """
    span = -(-n // size)
    to_owner, to_all = dense_bytes(span, value_type, 0), dense_bytes(span, value_type, scalars)
    rounds = min(2 * (size - 1), 2)
    return Volume("whole", to_owner, to_all, rounds * (size - 1), (size - 1) * (to_owner + to_all), rounds)
