"""The exchange of gradients with compression: one collective a step, or two, with everything in them."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from scadles.errors import ConfigError
from scadles.exchange.aggregation import GradientExchange, Report, Reports
from scadles.exchange.reduction.compressor import Compressor
from scadles.exchange.reduction.timed import TimedLink

_CODING_S, _TRANSFER_S = Report._fields.index("coding_s"), Report._fields.index("transfer_s")


class CompressedExchange(GradientExchange):
    """The weighted mean of all devices' gradients, of which each step sends what its compressor picks.

    Args:
        parameters: those that require gradients, float32.
        link: connects the devices, and tells waiting for them from coding, for the gate that decides by cost.
        compressor: what this device carries from step to step; its reducer must use the same link.
    """

    def __init__(
        self,
        parameters: Iterable[torch.nn.Parameter],
        link: TimedLink,
        compressor: Compressor,
    ) -> None:
        super().__init__(parameters, link.reduce, link.rank, link.size)
        check_compressible(self.parameters)
        self.compressor = compressor
        self._link = link
        self._coding_s = self._transfer_s = 0.0

    fields = len(Report._fields)

    def _exchange(self, mine: np.ndarray) -> Reports:
        report, update = mine[0], self._buckets[0].message[: self.compressor.reducer.n]
        began_s, waited_s = self._link.seconds(), self._link.transfer_s
        # decoding ends after the messages: both times are of the step before
        report[_CODING_S], report[_TRANSFER_S] = self._coding_s, self._transfer_s
        whole = self.compressor.begin(update, report)
        reduction = None
        if self.compressor.compressed:
            reduction = self.compressor.reducer.reduce(whole, report.tolist(), self.compressor.step, self._phase)
            update.copy_(reduction.total)
            reports = Reports(reduction.scalars)
        else:
            update.copy_(whole)
            reports = super()._exchange(mine)
        self.compressor.end(reports, reduction)
        self._transfer_s = self._link.transfer_s - waited_s
        self._coding_s = self._link.seconds() - began_s - self._transfer_s
        return reports

    def state(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        tensors, numbers = self.compressor.state()
        return tensors, {**numbers, "coding_s": self._coding_s, "transfer_s": self._transfer_s}

    def load(self, tensors: dict[str, Tensor], state: dict[str, Any]) -> None:
        self.compressor.load(tensors, state)
        self._coding_s, self._transfer_s = state["coding_s"], state["transfer_s"]


def check_compressible(parameters: list[torch.nn.Parameter]) -> None:
    """Refuse parameters that are not float32."""
    if parameters[0].dtype != torch.float32:
        raise ConfigError(
            f"the model's parameters are {parameters[0].dtype}: compression is for float32; leave compression.ratio out"
        )
