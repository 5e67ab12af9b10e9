"""The unit of exchange between a stream, a buffer and a device: consecutive records, with what they hold or without."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from scadles.errors import RunError


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
        lost: how many records before the first of these were gone for good before anybody could poll them; not part
            of the ``n``.
        unlabelled: offsets of records that arrived among these, and whose targets did not come in time; not part of
            the ``n``.
    """

    offsets: np.ndarray
    times: np.ndarray
    x: Tensor | Sequence[Tensor]
    y: Tensor
    rejected: tuple[Rejected, ...] = ()
    lost: int = 0
    unlabelled: tuple[int, ...] = ()

    def __len__(self) -> int:
        return len(self.offsets)

    @property
    def first_offset(self) -> int:
        """The position of the first record; there must be one."""
        return int(self.offsets[0])

    def __getitem__(self, part: slice) -> Records:
        """Return consecutive records as a view, without ``rejected``, ``lost`` and ``unlabelled``."""
        return Records(self.offsets[part], self.times[part], self.x[part], self.y[part])

    def where(self, mask: np.ndarray) -> Records:
        """Return some of the records, whose samples have one shape, copied; ``mask`` is bool ``[n]``."""
        rows = torch.from_numpy(mask)
        return Records(self.offsets[mask], self.times[mask], torch.as_tensor(self.x)[rows], self.y[rows])

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


class Span:
    """Consecutive records that can be looked up at any time: where they are, without what they hold.

    A simulated device keeps these in place of :class:`Records`, so that ten thousand of them fit into memory.

    >>> whole = Span(100, 8)
    >>> len(whole[2:5]), whole[2:5].first_offset
    (3, 102)
    """

    __slots__ = ("first_offset", "size")

    rejected: tuple[Rejected, ...] = ()
    lost: int = 0
    unlabelled: tuple[int, ...] = ()

    def __init__(self, first_offset: int, size: int) -> None:
        self.first_offset = first_offset
        self.size = size

    def __len__(self) -> int:
        return self.size

    def __getitem__(self, part: slice) -> Span:
        start, stop, _ = part.indices(self.size)
        return Span(self.first_offset + start, max(0, stop - start))

    def follows(self, other: Span) -> bool:
        """Whether this begins where ``other`` ends."""
        return self.first_offset == other.first_offset + other.size

    @property
    def offsets(self) -> np.ndarray:
        """Position of each record in its stream, int64 ``[n]``."""
        return np.arange(self.first_offset, self.first_offset + self.size, dtype=np.int64)

    @staticmethod
    def concatenate(parts: Sequence[Span]) -> Span:
        """Return ``parts``, of which each begins where the one before ends, as one."""
        if not parts:
            return Span(0, 0)
        if not all(after.follows(before) for before, after in pairwise(parts)):
            raise RunError("spans with a gap between them are no span")
        return Span(parts[0].first_offset, sum(part.size for part in parts))
