"""The exchange of many compressing devices that share one process, as a simulated cluster has them."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence

import numpy as np
import torch
from torch import Tensor

from scadles.exchange.aggregation import GradientExchange, Report, Reports
from scadles.exchange.aggregation.bucket import Bucket
from scadles.exchange.aggregation.folding import Waitable
from scadles.exchange.reduction.compressed import check_compressible
from scadles.exchange.reduction.compressor import Compressor
from scadles.exchange.reduction.contract import Reduction, reduce_together
from scadles.exchange.reduction.judged_dense import DenseFold, fold_rows
from scadles.exchange.reduction.used import Used
from scadles.fabric.hub.collectives import Fold


class ClusterExchange(GradientExchange):
    """What :class:`.CompressedExchange` does on each of N devices, done for all of them together.

    Args:
        parameters: those that require gradients, float32.
        compressors: of all devices, by rank.
        through_hub: whether those take part alone that are present, as through a hub; otherwise an absent device brings
            a message of zeros.
        fold: of the hub, where one owner adds up.
        judges: looks at whole gradients, in steps that send them, where gradients are judged.

    Attributes:
        updates: each device's weighted gradient, to be filled in before :meth:`finish_many`, float32 ``[N, n]``.
        present: which devices take part in the present step, bool ``[N]``.
        found: what was wrong with gradients of the last step, by device, as in :class:`.Judgement`.
        coding_s, transfer_s: how long the last step's coding and messages took.
    """

    def __init__(
        self,
        parameters: Iterable[torch.nn.Parameter],
        compressors: Sequence[Compressor],
        *,
        through_hub: bool = False,
        fold: Fold | None = None,
        judges: DenseFold | None = None,
    ) -> None:
        self.fields = compressors[0].scalars
        super().__init__(parameters, _nothing_to_send, 0, len(compressors))
        check_compressible(self.parameters)
        self.compressors = compressors
        self._through_hub = through_hub
        self._fold = fold
        self._judges = judges
        self._found: Mapping[int, float] = {}
        for compressor in compressors:
            compressor.revokes = judges is not None
        self.updates = torch.zeros(len(compressors), compressors[0].reducer.n)
        self.present = np.ones(len(compressors), dtype=bool)
        self.coding_s = self.transfer_s = 0.0
        self._used = Used(len(self.parameters))

    @property
    def found(self) -> Mapping[int, float]:
        return self._found

    @property
    def compressor(self) -> Compressor:
        """The first device's: all decide alike."""
        return self.compressors[0]

    def ratio_changes(self) -> list[tuple[float | None, str]]:
        said, *_ = [compressor.ratio_changes() for compressor in self.compressors]
        return said

    def introduce(self, device: int, source: int) -> None:
        """Let a device that is new begin with what it is given by another one."""
        self.compressors[device].select_like(self.compressors[source])

    def forget(self) -> None:
        for compressor in self.compressors:
            compressor.forget()

    def take_update(self, device: int) -> None:
        """Take what the parameters hold as the update of ``device``, and leave nothing."""
        if self._used.look(self._buckets[0], 1.0):
            self._used.take_up(self._used.presence())
        message = self._buckets[0].message[: self.updates.shape[1]]
        self.updates[device].copy_(message)
        self._buckets[0].clear()

    def _absent(self, bucket: Bucket) -> Collection[int]:
        return self._used.unused

    def _exchange(self, mine: np.ndarray) -> Reports:
        self._used.take_up(self._filled_in())
        mine[:, Report._fields.index("coding_s")] = self.coding_s
        mine[:, Report._fields.index("transfer_s")] = self.transfer_s
        corrected = [
            compressor.begin(update, report, present=bool(present))
            for compressor, update, report, present in zip(
                self.compressors, self.updates, mine, self.present, strict=True
            )
        ]
        present = np.flatnonzero(self.present).tolist() if self._through_hub else None
        total, reports, reductions = (
            self._reduce_sparse(corrected, mine, present)
            if self.compressor.compressed
            else self._add_up(corrected, mine)
        )
        self._buckets[0].message[: len(total)].copy_(total)
        weight = Report._fields.index("weight")
        for rank, compressor in enumerate(self.compressors):
            set_aside = bool(mine[rank, weight] > 0 and not reports.weight[rank])
            compressor.end(reports, reductions.get(rank), present, set_aside=set_aside)
        self.updates.zero_()
        return reports

    def _filled_in(self) -> Tensor:
        """Return which parameters have anything in the updates, ``[parameters]``; only unused ones are looked at."""
        found = torch.zeros(len(self.parameters))
        ends = np.cumsum([parameter.numel() for parameter in self._buckets[0].parameters])
        for place in self._used.unused:
            found[place] = self.updates[:, ends[place - 1] if place else 0 : ends[place]].any()
        return found

    def _reduce_sparse(
        self, corrected: list[Tensor], mine: np.ndarray, present: Sequence[int] | None
    ) -> tuple[Tensor, Reports, dict[int, Reduction]]:
        reducers = [compressor.reducer for compressor in self.compressors]
        about = (self.compressor.step, self._phase, present, self._fold)
        done = reduce_together(reducers, corrected, mine[:, : self.fields].tolist(), *about)
        self._found = done[0].found
        here = range(len(reducers)) if present is None else present
        return done[0].total, Reports(done[0].scalars), dict(zip(here, done, strict=True))

    def _add_up(self, corrected: list[Tensor], mine: np.ndarray) -> tuple[Tensor, Reports, dict[int, Reduction]]:
        if self._judges is not None:
            here = np.flatnonzero(self.present).tolist() if self._through_hub else range(len(corrected))
            total, rows, self._found = fold_rows(
                self._judges, {rank: corrected[rank] for rank in here}, mine[:, : self.fields]
            )
            return total, Reports(rows), {}
        total = corrected[0].clone()
        for update in corrected[1:]:
            total += update
        return total, Reports(mine.astype(np.float32).astype(np.float64)), {}


def _nothing_to_send(message: Tensor, phase: str) -> Waitable:
    raise NotImplementedError("devices that share a process send nothing")
