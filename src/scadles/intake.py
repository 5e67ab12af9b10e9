"""A device's way in: from the stream through inspection into the buffer, with the ledger and the rate meter."""

from __future__ import annotations

from collections import Counter, deque
from dataclasses import dataclass
from typing import Any

from scadles.buffer import Buffer, BufferPolicy, Ledger
from scadles.clock import Clock
from scadles.records import Records, Rejected
from scadles.streams import Inspector, RateMeter, Source


@dataclass(frozen=True)
class IntakeState:
    """What must survive a crash, as of ``position``: samples held then are read again from the source.

    Attributes:
        position: stream offset to go on from.
        ledger: counts of everything before ``position``; nothing is held.
        meter: state of the rate meter.
    """

    position: int
    ledger: dict[str, int]
    meter: dict[str, float]


class Intake:
    """Takes in what a stream brings, and accounts for all of it.

    Args:
        source: an opened or yet unopened stream; :meth:`open` opens it.
        inspector: decides what can be trained on.
        buffer: where records wait.
        policy: what is kept after a step.
        meter: estimates the stream's rate from arrivals.
        clock: stream time.
    """

    def __init__(
        self,
        source: Source,
        inspector: Inspector,
        buffer: Buffer,
        policy: BufferPolicy,
        meter: RateMeter,
        clock: Clock,
    ) -> None:
        self.source = source
        self.ledger = Ledger()
        self.meter = meter
        self.max_waiting = 0
        self._inspector = inspector
        self._buffer = buffer
        self._policy = policy
        self._clock = clock
        self._taken = Records.concatenate([])
        self._lag: int | None = None
        self._arrived = 0
        self._rejected_offsets: deque[int] = deque()
        self._news: list[Rejected] = []

    @property
    def held(self) -> int:
        """Samples ready to be taken."""
        return len(self._buffer)

    @property
    def lag(self) -> int | None:
        """Samples waiting at the source when it was last asked; None where it cannot tell."""
        return self._lag

    @property
    def rate_hz(self) -> float:
        """The measured rate of the stream, samples per second."""
        return self.meter.rate_hz

    def open(self, state: IntakeState | None = None) -> None:
        """Start the stream: at its beginning, or where a checkpoint stood."""
        if state is not None:
            self.ledger = Ledger(**state.ledger)
            self.meter.load(state.meter)
        self.source.open(state.position if state else 0)

    def start(self) -> None:
        """Begin to measure the stream's rate."""
        self._arrived = self._count_arrived()
        self.meter.observe(self._clock.now(), 0)

    def pull(self, timeout_s: float = 0.0, want: int | None = None) -> None:
        """Take in what has arrived, waiting up to ``timeout_s`` stream seconds for ``want`` more records."""
        limit = self._buffer.capacity if self._policy.drops else self._buffer.room
        limit = min(limit, want) if want is not None else limit
        if limit > 0:
            self._add(self.source.poll(limit, timeout_s))
        else:
            self._clock.sleep(timeout_s)  # no room: the stream waits at its source
        self._observe()

    def take(self, count: int) -> Records:
        """Take the oldest ``count`` samples; :meth:`settle` must say what became of them."""
        self._taken = self._buffer.take(count)
        return self._taken

    def settle(self, *, trained: bool) -> None:
        """Book the samples of the last take: trained on, or left out because their gradient was not finite."""
        if trained:
            self.ledger.trained += len(self._taken)
        else:
            self.ledger.rejected += len(self._taken)
        self._taken = Records.concatenate([])
        self._book_held()

    def undo_take(self) -> None:
        """Put the samples of the last take back."""
        self._buffer.put_back(self._taken)
        self._taken = Records.concatenate([])

    def truncate(self) -> None:
        """After a step: drop what the policy does not keep, in the buffer and at the source."""
        keep = self._policy.keep(self.rate_hz)
        if keep is None:
            return
        waiting = self.source.lag()
        if waiting is None:
            self.pull()
            waiting = 0
        at_source = min(waiting, keep)
        if waiting > at_source:
            skipped = self.source.skip(at_source)
            self.ledger.received += skipped
            self.ledger.dropped += skipped
        self.ledger.dropped += self._buffer.drop_oldest(max(0, self.held - (keep - at_source)))
        self._observe()

    def rejected_since_last_time(self) -> list[tuple[str, int, int]]:
        """Return (reason, count, first offset) of samples rejected since the last call."""
        counts = Counter(news.reason for news in self._news)
        first = {news.reason: news.offset for news in reversed(self._news)}
        self._news.clear()
        return [(reason, count, first[reason]) for reason, count in counts.items()]

    def state(self) -> IntakeState:
        """Return what a checkpoint needs; only between steps, with no samples in flight."""
        position = self._buffer.first_offset
        if position is None:
            position = self.source.position
        while self._rejected_offsets and self._rejected_offsets[0] < position:
            self._rejected_offsets.popleft()
        # the source will bring these again
        ahead = len(self._rejected_offsets)
        ledger = self.ledger.as_dict()
        ledger["received"] -= self.held + ahead
        ledger["rejected"] -= ahead
        ledger["held"] = 0
        return IntakeState(position, ledger, self.meter.state())

    def describe(self) -> dict[str, Any]:
        """Return the ledger as it stands, checked."""
        self._book_held()
        self.ledger.check()
        return self.ledger.as_dict()

    def _add(self, records: Records) -> None:
        good, rejected = self._inspector.split(records)
        self.ledger.received += len(good) + len(rejected)
        self.ledger.rejected += len(rejected)
        self._news.extend(rejected)
        self._rejected_offsets.extend(record.offset for record in rejected)
        self.ledger.dropped += self._buffer.add(good)

    def _observe(self) -> None:
        before, self._arrived = self._arrived, self._count_arrived()
        self.meter.observe(self._clock.now(), max(0, self._arrived - before))
        self.max_waiting = max(self.max_waiting, self.held + len(self._taken) + (self._lag or 0))
        self._book_held()

    def _count_arrived(self) -> int:
        """Return how many records this stream has ever brought, those waiting at the source included."""
        self._lag = self.source.lag()
        return self.source.position + (self._lag or 0)

    def _book_held(self) -> None:
        self.ledger.held = self.held + len(self._taken)
