"""Sets of offsets that mostly follow each other."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import groupby


def to_runs(offsets: Iterable[int]) -> list[list[int]]:
    """Return offsets as pairs of the first and the last of each run, ready for JSON.

    >>> to_runs([7, 3, 4, 5, 4])
    [[3, 5], [7, 7]]
    """
    ascending = sorted(set(offsets))
    groups = (list(group) for _, group in groupby(enumerate(ascending), lambda pair: pair[1] - pair[0]))
    return [[group[0][1], group[-1][1]] for group in groups]


def from_runs(runs: Iterable[Sequence[int]]) -> set[int]:
    """Return what :func:`to_runs` was given."""
    return {offset for first, last in runs for offset in range(first, last + 1)}
