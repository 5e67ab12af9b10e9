"""The unit of exchange between a stream, a buffer and a device: consecutive records, column by column."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor


class Rejected(NamedTuple):
    """A record that cannot be trained on."""

    offset: int
    reason: str


@dataclass(frozen=True)
class Records:
    """Some consecutive records of one stream.

    Attributes:
        offsets: position of each record in its stream, int64 ``[n]``, ascending.
        times: event time of each record in stream seconds, float64 ``[n]``.
        x: samples ``[n, *shape]``; a sequence of ``n`` tensors where their shapes differ.
        y: labels ``[n]``, int64.
        rejected: records that arrived among these and could not be decoded; not part of the ``n``.
    """

    offsets: np.ndarray
    times: np.ndarray
    x: Tensor | Sequence[Tensor]
    y: Tensor
    rejected: tuple[Rejected, ...] = ()

    def __len__(self) -> int:
        return len(self.offsets)

    def __getitem__(self, part: slice) -> Records:
        """Return consecutive records as a view, without ``rejected``."""
        return Records(self.offsets[part], self.times[part], self.x[part], self.y[part])

    @staticmethod
    def concatenate(parts: Sequence[Records]) -> Records:
        """Return ``parts``, whose samples have one shape, as one; each sample is copied once."""
        if len(parts) == 1:
            return parts[0]
        if not parts:
            return Records(np.empty(0, np.int64), np.empty(0), torch.empty(0), torch.empty(0, dtype=torch.int64))
        return Records(
            np.concatenate([part.offsets for part in parts]),
            np.concatenate([part.times for part in parts]),
            torch.cat([torch.as_tensor(part.x) for part in parts]),
            torch.cat([part.y for part in parts]),
        )
