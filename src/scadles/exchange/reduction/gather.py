"""Everybody's message goes to everybody, and each device adds them up."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from torch import Tensor

from scadles.exchange.aggregation.outliers import Judge
from scadles.exchange.compression import Sparse, WireError, add_message, budget_bytes, decode, encode, squared_norm
from scadles.exchange.reduction.contract import Reduction, SparseReducer, Sums, as_float32, whose_fault
from scadles.exchange.reduction.judged_sparse import WEIGHT, add_judged
from scadles.exchange.reduction.volumes import Volume, gather_volume


class GatherReducer(SparseReducer):
    """An all-gather of one message a device, added up in the order of ranks: the way for few devices.

    >>> import torch
    >>> from scadles.exchange.compression import ExactTopK
    >>> from scadles.fabric import LocalFabric
    >>> [alone] = LocalFabric.create(1)
    >>> reducer = GatherReducer(alone, ExactTopK(1), n=3, value_type="float32")
    >>> reducer.reduce(torch.tensor([1.0, -3.0, 2.0]), [64.0], step=1, phase="gradients of step 1").total
    tensor([ 0., -3.,  0.])
    """

    name = "gather"
    #: Sets messages aside, or scales them down, the same on every device; None adds up what comes.
    judge: Judge | None = None

    def begin(self, v: Tensor, step: int) -> None:
        self._picked = self._selector.pick(v, step)
        self._kept_sq = squared_norm(self._picked.values)

    def message(self, received: Tensor | None, scalars: Sequence[float], step: int, phase: str) -> Tensor:
        size = budget_bytes(self.n, self.k, self.value_type, len(scalars))
        numbers = as_float32(scalars).tolist()
        encoded = encode(
            self._picked, self.n, value_type=self.value_type, step=step, scalars=numbers, budget_bytes=size
        )
        self._picked = encoded.sent
        return encoded.message

    def add_up(self, messages: Tensor, senders: Sequence[int], step: int, phase: str) -> Sums:
        total = self._zeros()
        rows: dict[int, tuple[float, ...]] = {}
        sent: dict[int, Sparse] = {}
        for rank in senders:
            try:
                if self.judge is None:
                    header = add_message(messages[rank], total)
                else:
                    header, sent[rank] = decode(messages[rank], self.n)
                if header.step != step:
                    raise WireError(f"a message of step {header.step}, this is step {step}")
                first = rows.get(senders[0], header.scalars)
                if len(header.scalars) != len(first):
                    raise WireError(
                        f"a message with {len(header.scalars)} scalars, device {senders[0]} has {len(first)}"
                    )
            except WireError as error:
                raise whose_fault(rank, phase, error) from None
            rows[rank] = header.scalars
        scalars = np.zeros((len(messages), len(rows[senders[0]])))
        for rank, row in rows.items():
            scalars[rank] = row
        if self.judge is None:
            return Sums(total, scalars)
        judged = add_judged(self.judge, sent, {rank: float(scalars[rank, WEIGHT]) for rank in sent}, total)
        judged.mark(scalars)
        return Sums(total, scalars, found=judged.found)

    def settle(self, sums: Sums) -> Reduction:
        return Reduction(sums.total, sums.scalars, self._picked, self._kept_sq, sums.found)

    def volume(self, scalars: int) -> Volume:
        return gather_volume(self.n, self.k, self._fabric.size, self.value_type, scalars)
