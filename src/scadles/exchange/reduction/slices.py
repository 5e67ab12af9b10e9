"""Which device owns which part of the vector."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from itertools import accumulate

import numpy as np
from numpy.typing import NDArray

Indices = NDArray[np.int64]


def equal_slices(n: int, size: int) -> Indices:
    """Return the bounds of ``size`` consecutive slices of ``n`` entries, as equal as can be, int64 ``[size + 1]``.

    >>> equal_slices(10, 3).tolist()
    [0, 3, 6, 10]
    """
    return np.array([j * n // size for j in range(size + 1)], np.int64)


def balanced_slices(bounds: Indices, wanted: Sequence[int], kept: Sequence[Indices]) -> Indices:
    """Return bounds between which the wanted entries of a step would have been spread equally.

    The entries that devices wanted to send into a slice are taken to lie like those of the total that are in it: as
    many between any two neighbours. Counted in whole numbers, so that all devices come to the same bounds (after
    Ok-Topk, Li and Hoefler 2022, which balances by what the slices hold; here that is capped, and wishes are not).

    Args:
        bounds: of the slices as they were, int64 ``[size + 1]``.
        wanted: entries that all devices together wanted to send into each.
        kept: ascending positions in the whole vector of the entries that each slice has in the total.

    >>> balanced_slices(np.array([0, 100, 200]), [300, 100], [np.array([50]), np.array([150])]).tolist()
    [0, 66, 200]
    """
    size, total = len(wanted), sum(wanted)
    if total == 0:
        return bounds
    # in units of 1 / size, so that every target is a whole number
    before = [0, *accumulate(size * count for count in wanted)]
    balanced: Indices = bounds.copy()
    for j in range(1, size):
        s = bisect_right(before, j * total) - 1
        points = np.concatenate([bounds[s : s + 1], kept[s], bounds[s + 1 : s + 2]])
        gap, rest = divmod((j * total - before[s]) * (len(points) - 1), size * wanted[s])
        left, right = int(points[gap]), int(points[gap + 1])
        balanced[j] = left + (right - left) * rest // (size * wanted[s])
    return balanced
