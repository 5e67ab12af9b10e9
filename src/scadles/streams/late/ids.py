"""Ids of samples, as the rows of a tensor: they travel where targets do until those are known."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

#: Bytes of an id at most.
MOST_BYTES = 63


def as_rows(ids: Sequence[bytes]) -> Tensor:
    """Return ids as uint8 ``[n, 64]``: the length, then the bytes.

    >>> as_bytes(as_rows([b"cam-3/17", b""]))
    [b'cam-3/17', b'']
    """
    rows = np.zeros((len(ids), MOST_BYTES + 1), dtype=np.uint8)
    for row, one in zip(rows, ids, strict=True):
        row[0] = len(one)
        row[1 : 1 + len(one)] = np.frombuffer(one, dtype=np.uint8)
    return torch.from_numpy(rows)


def as_bytes(rows: Tensor) -> list[bytes]:
    """Return what :func:`as_rows` was given."""
    return [row[1 : 1 + row[0]].tobytes() for row in rows.numpy()]


def numbered(offsets: np.ndarray) -> Tensor:
    """Return the ids of a replayed stream, and of a published one: each record's number, in decimal digits."""
    return as_rows([str(offset).encode() for offset in offsets.tolist()])
