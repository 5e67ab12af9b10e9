"""The exchange of many compressing devices that share one process, as a simulated cluster has them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
import torch
from torch import Tensor

from scadles.exchange.aggregation import GradientExchange, Report, Reports
from scadles.exchange.aggregation.dense import Waitable
from scadles.exchange.reduction.compressed import check_compressible
from scadles.exchange.reduction.compressor import Compressor
from scadles.exchange.reduction.contract import Reduction, reduce_together


class ClusterExchange(GradientExchange):
    """What :class:`.CompressedExchange` does on each of N devices, done for all of them together.

    Args:
        parameters: those that require gradients, float32.
        compressors: of all devices, by rank.

    Attributes:
        updates: each device's weighted gradient, to be filled in before :meth:`finish_many`, float32 ``[N, n]``.
        present: which devices take part in the present step, bool ``[N]``.
        coding_s, transfer_s: how long the last step's coding and messages took.
    """

    fields = len(Report._fields)

    def __init__(self, parameters: Iterable[torch.nn.Parameter], compressors: Sequence[Compressor]) -> None:
        super().__init__(parameters, _nothing_to_send, 0, len(compressors))
        check_compressible(self.parameters)
        self.compressors = compressors
        self.updates = torch.zeros(len(compressors), compressors[0].reducer.n)
        self.present = np.ones(len(compressors), dtype=bool)
        self.coding_s = self.transfer_s = 0.0

    @property
    def compressor(self) -> Compressor:
        """The first device's: all decide alike."""
        return self.compressors[0]

    def take_update(self, device: int) -> None:
        """Take what the parameters hold as the update of ``device``, and leave zeros."""
        message = self._buckets[0].message[: self.updates.shape[1]]
        self.updates[device].copy_(message)
        message.zero_()

    def _exchange(self, mine: np.ndarray) -> Reports:
        mine[:, Report._fields.index("coding_s")] = self.coding_s
        mine[:, Report._fields.index("transfer_s")] = self.transfer_s
        corrected = [
            compressor.begin(update, report, present=bool(present))
            for compressor, update, report, present in zip(
                self.compressors, self.updates, mine, self.present, strict=True
            )
        ]
        total, reports, reductions = (
            self._reduce_sparse(corrected, mine) if self.compressor.compressed else _dense(corrected, mine)
        )
        self._buckets[0].message[: len(total)].copy_(total)
        for compressor, reduction in zip(self.compressors, reductions, strict=True):
            compressor.end(reports, reduction)
        self.updates.zero_()
        return reports

    def _reduce_sparse(self, corrected: list[Tensor], mine: np.ndarray) -> tuple[Tensor, Reports, list[Reduction]]:
        reducers = [compressor.reducer for compressor in self.compressors]
        done = reduce_together(reducers, corrected, mine.tolist(), self.compressor.step, self._phase)
        return done[0].total, Reports(done[0].scalars), done


def _dense(corrected: list[Tensor], mine: np.ndarray) -> tuple[Tensor, Reports, list[None]]:
    total = corrected[0].clone()
    for update in corrected[1:]:
        total += update
    return total, Reports(mine.astype(np.float32).astype(np.float64)), [None] * len(corrected)


def _nothing_to_send(message: Tensor, phase: str) -> Waitable:
    raise NotImplementedError("devices that share a process send nothing")
