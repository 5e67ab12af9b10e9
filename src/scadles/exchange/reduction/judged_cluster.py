"""The exchange of many devices that share one process, each of whose gradients is looked at by itself."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from scadles.exchange.aggregation import GradientExchange, Reports
from scadles.exchange.aggregation.bucket import ABSENT
from scadles.exchange.aggregation.folding import Waitable
from scadles.exchange.reduction.judged_dense import DenseFold, fold_rows


class SeparateExchange(Protocol):
    """Takes the gradients of simulated devices one by one."""

    def take_update(self, device: int) -> None: ...


class JudgedClusterExchange(GradientExchange):
    """What a :class:`.GradientExchange` with a :class:`.StepFold` does on each of N devices, for all of them together.

    Args:
        parameters: those that require gradients.
        size: how many devices there are.
        fold: makes one message of all.

    Attributes:
        updates: each device's weighted gradient, ``[N, n]``.
        present: which devices take part in the present step, bool ``[N]``.
    """

    def __init__(self, parameters: Iterable[torch.nn.Parameter], size: int, fold: DenseFold) -> None:
        super().__init__(parameters, _nothing_to_send, 0, size)
        self._fold = fold
        self._found: Mapping[int, float] = {}
        self.present = np.ones(size, dtype=bool)
        n = sum(parameter.numel() for parameter in self.parameters)
        self.updates = torch.zeros(size, n, dtype=self._buckets[0].message.dtype)
        self.updates.fill_(ABSENT)

    @property
    def found(self) -> Mapping[int, float]:
        return self._found

    def take_update(self, device: int) -> None:
        """Take what the parameters hold as the update of ``device``, and leave nothing."""
        self._buckets[0].pack(1.0)
        self.updates[device].copy_(self._buckets[0].message[: self.updates.shape[1]])
        self._buckets[0].clear()

    def _exchange(self, mine: np.ndarray) -> Reports:
        here = np.flatnonzero(self.present).tolist()
        gradients = {one: self.updates[one] for one in here}
        total, told, self._found = fold_rows(self._fold, gradients, mine[:, : self.fields])
        self._buckets[0].message[: len(total)].copy_(total)
        rows = mine.copy()
        rows[:, : self.fields] = told
        self.updates.fill_(ABSENT)
        return Reports(rows)


def _nothing_to_send(message: Tensor, phase: str) -> Waitable:
    raise NotImplementedError("devices that share a process send nothing")
