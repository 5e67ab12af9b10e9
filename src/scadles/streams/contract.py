"""What a stream is to ScaDLES: records that arrive by themselves, in order, each with an offset and an event time."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any

from scadles.records import Records, Rejected, Span

__all__ = ["Records", "Rejected", "Source"]


class Source(ABC):
    """One device's stream.

    A source is opened once, polled by one thread and closed once. It never blocks longer than it was told to, and a
    silent stream simply returns nothing. Whatever its own queue, memory it takes is bounded.

    Raises (all methods): :class:`~scadles.errors.SourceError` when the stream broke for good.
    """

    __slots__ = ()

    @abstractmethod
    def open(self, position: int, mark: Mapping[str, Any] | None = None) -> None:
        """Start at ``position``, the offset of the first record to be returned (0: the beginning).

        Args:
            position: 0 for a fresh run, else what :attr:`position` or an offset was in an earlier life.
            mark: None, or empty at position 0, for a fresh run, whose beginning the source may choose itself; else what
                :meth:`mark` said of ``position`` when the checkpoint was taken from which the run goes on.

        Raises:
            ConfigError: nobody can read from there: no such stream, no answer, no permission.
        """

    def rewind(self, position: int, mark: Mapping[str, Any] | None = None) -> bool:
        """Go back while it is open: bring again what follows ``position``, as a source would that is opened there.

        A device whose last steps do not count, because all others that took them were lost, asks for it.

        Args:
            position, mark: as in :meth:`open`; the position is not behind the present one, but may lie before the last
                one committed.

        Returns:
            Whether it went back. If not, nothing has changed: the stream goes on where it is, and what lies between is
            counted as dropped.
        """
        del position, mark
        return False

    @abstractmethod
    def poll(self, max_records: int, timeout_s: float) -> Records | Span:
        """Return up to ``max_records`` records, in order, as soon as that many are there or ``timeout_s`` has passed.

        They are :class:`Records`; only a stream made for a simulated device brings :class:`~scadles.records.Span`.
        Records that are gone for good before they could be polled are counted in ``lost`` of the records that follow
        them, and the position moves past them; a poll ends before such a gap.

        Args:
            max_records: at least 1.
            timeout_s: stream seconds; 0 returns what has arrived already.
        """

    @abstractmethod
    def skip(self, keep: int) -> int:
        """Pass over everything that has arrived but the newest ``keep`` records; return how many were passed over."""

    @abstractmethod
    def lag(self) -> int | None:
        """Return how many records have arrived and were neither polled nor skipped; None where nobody can tell."""

    @property
    @abstractmethod
    def position(self) -> int:
        """The offset of the next record that :meth:`poll` would return."""

    @property
    def ended(self) -> bool:
        """Whether the last record was polled or skipped and none will follow; from then on :meth:`poll` does not wait.

        A source that its factory was told to end (``stop_at_end``) says so; others wait for more, and it is never true.
        """
        return False

    def mark(self, position: int) -> dict[str, Any]:
        """Return what a checkpoint must hold beside ``position`` to open there again, ready for JSON.

        Args:
            position: not before the last one committed and not behind the present one.
        """
        del position
        return {}

    def mark_without(
        self, position: int, settled: Sequence[Sequence[int]]
    ) -> tuple[dict[str, Any], Sequence[Sequence[int]]]:
        """Return the same for a stream of which some records behind ``position`` need not come again.

        Args:
            position: as in :meth:`mark`.
            settled: their offsets, as pairs of the first and the last.

        Returns:
            The mark, and offsets of records that come again all the same, each where it was.
        """
        return self.mark(position), settled

    @property
    def duplicates(self) -> int:
        """How many records were delivered once more and known again; they count as received once."""
        return 0

    @property
    def missing(self) -> int:
        """How many records never came and never will, as those that came show; they are not received."""
        return 0

    @property
    def waiting(self) -> int:
        """How many records have come that :meth:`poll` does not return yet, because they wait for their targets."""
        return 0

    @property
    def stray_targets(self) -> int:
        """How many targets came later than their samples and were given to none, since the run began."""
        return 0

    def strays_since_last_time(self) -> Sequence[tuple[str, int]]:
        """Return (reason, count) of these since the last call."""
        return ()

    def notices(self) -> list[str]:
        """Return what a user should know and what ends nothing, since the last call; nearly always nothing."""
        return []

    @abstractmethod
    def commit(self, position: int) -> None:
        """Take note that everything before ``position`` is safe in a checkpoint and will not be asked for again."""

    @abstractmethod
    def close(self) -> None:
        """Give everything back. Closing twice is no error."""
