"""Sparse messages, each of which is looked at by itself before they become one sum."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from scadles.exchange.aggregation import Report
from scadles.exchange.aggregation.outliers import Judge
from scadles.exchange.compression import Sparse, squared_norm

WEIGHT, LOSS = Report._fields.index("weight"), Report._fields.index("loss")


class Judged(NamedTuple):
    """What came of judging sparse messages.

    Attributes:
        found: what is wrong with them, by device, as in :class:`.Judgement`.
        set_aside: the devices whose messages were not added.
    """

    found: Mapping[int, float]
    set_aside: Collection[int]

    def mark(self, scalars: NDArray[np.float64]) -> None:
        """Take weight and loss out of the reports, ``[devices, fields]``, of those that are set aside."""
        for one in self.set_aside:
            scalars[one, [WEIGHT, LOSS]] = 0.0


def add_judged(judge: Judge, sent: Mapping[int, Sparse], weights: Mapping[int, float], total: Tensor) -> Judged:
    """Add to ``total``, float32 ``[n]``, what devices have sent, but for what is set aside.

    Args:
        judge: says what that is.
        sent: entries by device.
        weights: of these devices.
        total: to add to, in place.
    """
    factors, found = judge.judge(_Picked(sent, len(total)), weights)
    for one, (indices, values) in sent.items():
        if (factor := factors.get(one, 1.0)) > 0:
            total.index_add_(0, indices, values, alpha=factor)
    return Judged(found, {one for one, factor in factors.items() if factor == 0})


class _Picked:
    """Entries of gradients."""

    def __init__(self, sent: Mapping[int, Sparse], n: int) -> None:
        self._sent = sent
        self._n = n

    def norms(self) -> Mapping[int, float]:
        values = {one: sparse.values.double() for one, sparse in self._sent.items()}
        return {one: math.sqrt(float(torch.dot(each, each))) for one, each in values.items()}

    def products(self, among: Collection[int]) -> tuple[Mapping[int, float], float]:
        total = torch.zeros(self._n)
        for one in among:
            total.index_add_(0, *self._sent[one])
        products = {
            one: float(torch.dot(total[indices].double(), values.double()))
            for one, (indices, values) in self._sent.items()
        }
        return products, squared_norm(total)
