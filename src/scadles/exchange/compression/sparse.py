"""Some entries of a long vector, and passes over such vectors in blocks that fit the cache."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from scadles.exchange.compression.blocks import in_threads, slices


class Sparse(NamedTuple):
    """Some entries of a vector.

    Attributes:
        indices: int64 ``[count]``, ascending, each at most once.
        values: float32 ``[count]``.
    """

    indices: Tensor
    values: Tensor

    @property
    def entries(self) -> int:
        """How many there are."""
        return self.values.numel()


def squared_norm(values: Tensor) -> float:
    """Return the squared Euclidean norm of float32 values.

    >>> squared_norm(torch.tensor([3.0, 4.0]))
    25.0
    """
    if values.device.type != "cpu":
        return float(torch.dot(values, values))
    array = values.detach().numpy()

    def of(part: slice) -> float:
        with np.errstate(over="ignore"):  # training that diverges: infinity says so
            return float(np.dot(array[part], array[part]))

    # sums of a block in float32, of blocks in float64: as exact as a gate needs, in one pass
    return sum(in_threads(of, slices(len(array))))
