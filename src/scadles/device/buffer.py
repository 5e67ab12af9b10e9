"""What has arrived and is not trained on yet, what is dropped, and the ledger that accounts for every sample."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import asdict, dataclass
from typing import Any

from scadles.errors import RunError
from scadles.records import Records, Span

Chunk = Records | Span
NOTHING: Chunk = Records.concatenate([])


@dataclass(slots=True)
class Ledger:
    """One device's account of its stream: received = trained + dropped + held + rejected + unlabelled + tested, always.

    Samples that other devices injected are counted apart. ``tested`` are those that were kept for tests alone,
    ``unlabelled`` those whose targets did not come in time.
    """

    received: int = 0
    trained: int = 0
    dropped: int = 0
    held: int = 0
    rejected: int = 0
    injected: int = 0
    unlabelled: int = 0
    tested: int = 0

    @property
    def balanced(self) -> bool:
        fates = (self.trained, self.dropped, self.held, self.rejected, self.unlabelled, self.tested)
        return self.received == sum(fates)

    def check(self) -> None:
        """Raise RunError when a sample is unaccounted for."""
        if not self.balanced:
            raise RunError(f"the ledger does not balance, a sample was lost or counted twice: {self}")

    def as_dict(self) -> dict[str, int]:
        return asdict(self)


class BufferPolicy(ABC):
    """What is kept after a step."""

    #: Whether samples that do not fit are dropped (the oldest first) rather than left at the source.
    drops: bool

    @abstractmethod
    def keep(self, rate_hz: float) -> int | None:
        """Return how many of the newest samples to keep after a step; None keeps all of them."""

    def resize(self, window_s: float) -> None:  # noqa: B027 - not all policies have a window
        """Take another window from now on, where this policy has one."""


class Persistence(BufferPolicy):
    """Keep every sample until it is trained on (paper, section IV): the queue grows with S T.

    What does not fit into memory stays at the source.
    """

    drops = False

    def keep(self, rate_hz: float) -> None:
        return None


class Truncation(BufferPolicy):
    """After each step keep only the newest S samples, one window of the stream (paper, section IV).

    Args:
        window_s: stream seconds that are kept.

    >>> Truncation(window_s=1.0).keep(rate_hz=38.2)
    38
    """

    drops = True

    def __init__(self, window_s: float) -> None:
        self.window_s = window_s

    def keep(self, rate_hz: float) -> int:
        return max(1, round(rate_hz * self.window_s))

    def resize(self, window_s: float) -> None:
        self.window_s = window_s


class Buffer:
    """Records in order of arrival, oldest first, at most ``capacity`` of them.

    Records are kept in the chunks in which they came; only a take copies them, once. Chunks are all :class:`Records`,
    or all :class:`Span`.
    """

    __slots__ = ("_chunks", "_held", "capacity")

    def __init__(self, capacity: int) -> None:
        self.capacity = capacity
        self._chunks: list[Any] = []
        self._held = 0

    def __len__(self) -> int:
        return self._held

    @property
    def room(self) -> int:
        return self.capacity - self._held

    @property
    def first_offset(self) -> int | None:
        """The stream offset of the oldest record; None for an empty buffer."""
        return self._chunks[0].first_offset if self._chunks else None

    def add(self, records: Chunk) -> int:
        """Append ``records``; drop the oldest of all where they do not fit, and return how many were dropped."""
        if size := len(records):
            if self._chunks and isinstance(records, Span) and records.follows(self._chunks[-1]):
                records = Span.concatenate([self._chunks.pop(), records])
            self._chunks.append(records)
            self._held += size
        return self.drop_oldest(self._held - self.capacity) if self._held > self.capacity else 0

    def take(self, count: int) -> Chunk:
        """Remove and return the oldest ``count`` records (fewer where fewer are held)."""
        parts = self._pop(count)
        return parts[0].concatenate(parts) if parts else NOTHING

    def put_back(self, records: Chunk) -> None:
        """Return records of the last take, untrained, to the front."""
        if len(records):
            self._chunks.insert(0, records)
            self._held += len(records)

    def drop_oldest(self, count: int) -> int:
        """Remove the oldest ``count`` records and return how many there were."""
        return sum(len(part) for part in self._pop(count)) if count > 0 else 0

    def _pop(self, count: int) -> list[Any]:
        missing = min(count, self._held)
        self._held -= missing
        whole = 0
        while whole < len(self._chunks) and len(self._chunks[whole]) <= missing:
            missing -= len(self._chunks[whole])
            whole += 1
        parts = self._chunks[:whole]
        del self._chunks[:whole]
        if missing:
            parts.append(self._chunks[0][:missing])
            self._chunks[0] = self._chunks[0][missing:]
        return parts
