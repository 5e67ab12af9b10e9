"""Which part of what is kept each partition keeps."""

from __future__ import annotations

from collections.abc import Mapping


def shares(keep: int, waiting: Mapping[int, int]) -> dict[int, int]:
    """Return ``keep`` in parts that are in proportion to what waits, and no larger than it.

    >>> shares(5, {0: 10, 1: 30, 2: 0})
    {0: 1, 1: 4, 2: 0}
    """
    total = sum(waiting.values())
    parts = {partition: keep * count // total for partition, count in waiting.items()}
    rest = keep - sum(parts.values())
    by_remainder = sorted(waiting, key=lambda partition: -(keep * waiting[partition] % total))
    for partition in by_remainder[:rest]:
        parts[partition] += 1
    return parts
