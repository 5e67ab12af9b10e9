"""What of a stream cannot be trained on: why, in few words, and when there is so much that going on makes no sense."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from scadles.records import Rejected

#: Fewer records than this say nothing about a stream.
FEWEST = 100
_WINDOW = 10_000
_LONGEST = 200
_MOST_REASONS = 16
_OTHERS = "other reasons"


def short_reason(reason: str) -> str:
    """Return a reason of bounded length that does nothing to a terminal, whoever gave it."""
    text = reason if reason.isprintable() else "".join(c if c.isprintable() else "?" for c in reason[:_LONGEST])
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]}..."


class Reasons:
    """Counts rejected records by reason, in bounded memory: beyond 16 reasons the others are counted together.

    >>> reasons = Reasons()
    >>> reasons.note([Rejected(3, "torn"), Rejected(4, "too long"), Rejected(7, "torn")])
    >>> list(reasons)
    [('torn', 2, 3), ('too long', 1, 4)]
    """

    __slots__ = ("_found",)

    def __init__(self) -> None:
        self._found: dict[str, tuple[int, int]] = {}

    def note(self, rejected: Iterable[Rejected]) -> None:
        """Take note of records, in the order of their offsets."""
        for record in rejected:
            reason = short_reason(record.reason)
            if reason not in self._found and len(self._found) >= _MOST_REASONS:
                reason = _OTHERS
            count, first = self._found.get(reason, (0, record.offset))
            self._found[reason] = count + 1, first

    def __iter__(self) -> Iterator[tuple[str, int, int]]:
        """Yield reason, count and first offset of each."""
        return ((reason, count, first) for reason, (count, first) in self._found.items())


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
