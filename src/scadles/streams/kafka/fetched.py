"""What was fetched from a partition, or passed over there."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple


class Run(NamedTuple):
    """Messages of one partition that follow each other, ascending."""

    partition: int
    messages: Sequence[Any]


class Passed(NamedTuple):
    """Offsets that bring no message: ``records`` of them were lost or skipped, the rest never were records.

    Attributes:
        partition: where.
        end: the offset behind the last of them.
        records: how many of them were records.
    """

    partition: int
    end: int
    records: int
