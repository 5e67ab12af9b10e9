"""When so much of a stream cannot be trained on that going on makes no sense."""

from __future__ import annotations

#: Fewer records than this say nothing about a stream.
FEWEST = 100
_WINDOW = 10_000


class RejectionLimit:
    """Watches the share of rejected records among about the last 10,000 of a stream.

    Args:
        share: more than this is too much; 1 is never.

    >>> limit = RejectionLimit(0.5)
    >>> limit.count(99, rejected=99)
    >>> limit.exceeded  # too few to tell
    False
    >>> limit.count(1, rejected=0)
    >>> limit.exceeded
    True
    """

    __slots__ = ("_received", "_rejected", "_share")

    def __init__(self, share: float) -> None:
        self._share = share
        self._received = self._rejected = 0.0

    @property
    def exceeded(self) -> bool:
        """Whether too many of the last records were rejected."""
        return self._received >= FEWEST and self._rejected > self._share * self._received

    def count(self, received: int, rejected: int) -> None:
        """Take note of records that have come, and how many of them were rejected."""
        self._received += received
        self._rejected += rejected
        if self._received >= 2 * _WINDOW:
            half = _WINDOW / self._received
            self._received *= half
            self._rejected *= half
