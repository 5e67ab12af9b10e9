"""A device's way in: from the stream through inspection into the buffer, with the ledger and the rate meter."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from scadles.clock import Clock
from scadles.device.ahead import Ahead
from scadles.device.buffer import NOTHING, Buffer, BufferPolicy, Chunk, Ledger
from scadles.device.holdout import Holdout
from scadles.records import Records, Rejected
from scadles.streams import Inspector, RateMeter, Source
from scadles.streams.quarantine import Quarantine
from scadles.streams.rejections import Reasons, RejectionLimit

_NO_OFFSETS = np.empty(0, dtype=np.int64)


@dataclass(frozen=True)
class IntakeState:
    """What must survive a crash, as of ``position``: samples held then are read again from the source.

    Attributes:
        position: stream offset to go on from.
        ledger: counts of everything before ``position``; nothing is held.
        meter: state of the rate meter.
        mark: what the source needs beside ``position`` to open there.
    """

    position: int
    ledger: dict[str, int]
    meter: dict[str, float]
    mark: dict[str, Any] = field(default_factory=dict)


class Intake:
    """Takes in what a stream brings, and accounts for all of it.

    Args:
        source: an opened or yet unopened stream; :meth:`open` opens it.
        inspector: decides what can be trained on, where the source brings samples.
        buffer: where records wait.
        policy: what is kept after a step.
        meter: estimates the stream's rate from arrivals.
        clock: stream time.
        quarantine: keeps examples of what is rejected.
        limit: says when too much is rejected.
        holdout: keeps some samples for tests alone; None where none are.
    """

    __slots__ = (
        *(
            "_arrived",
            "_buffer",
            "_clock",
            "_counted_ahead",
            "_inspector",
            "_lag",
            "_limit",
            "_missing",
            "_missing_told",
            "_news",
            "_void",
        ),
        *("_policy", "_quarantine", "_taken", "_told"),
        *("holdout", "ledger", "max_waiting", "meter", "source"),
    )

    def __init__(
        self,
        source: Source,
        inspector: Inspector,
        buffer: Buffer,
        policy: BufferPolicy,
        meter: RateMeter,
        clock: Clock,
        *,
        quarantine: Quarantine | None = None,
        limit: RejectionLimit | None = None,
        holdout: Holdout | None = None,
    ) -> None:
        self.source = source
        self.ledger = Ledger()
        self.meter = meter
        self.max_waiting = 0
        self.holdout = holdout
        self._inspector = inspector
        self._buffer = buffer
        self._policy = policy
        self._clock = clock
        self._quarantine = quarantine
        self._limit = limit
        self._told = False
        self._taken: Chunk = NOTHING
        self._lag: int | None = None
        self._arrived = 0
        # by column of the ledger: records that are counted and not held; most columns are rare, and made for the first
        self._counted_ahead: dict[str, Ahead] = {}
        self._news: Reasons | None = None
        self._missing = self._missing_told = self._void = 0

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

    @property
    def rejects_too_much(self) -> bool:
        """Whether so much of the stream is rejected that the run should end."""
        return self._limit is not None and self._limit.exceeded

    @property
    def ended(self) -> bool:
        """Whether the stream has ended, and nothing more will come in."""
        return self.source.ended

    def open(self, state: IntakeState | None = None) -> None:
        """Start the stream: at its beginning, or where a checkpoint stood."""
        if state is not None:
            self.ledger = Ledger(**state.ledger)
            self.meter.load(state.meter)
            self.source.open(state.position, state.mark)
        else:
            self.source.open(0)
        self._missing = self._missing_told = self.source.missing

    def go_back(self, state: IntakeState) -> None:
        """Between steps, take back those since ``state``, which do not count: their samples come once more.

        Where the source cannot bring them, what was trained on in these steps is dropped, and what is held stays.
        """
        if self.source.rewind(state.position, state.mark):
            self._buffer.drop_oldest(self.held)
            self._taken, self._news = NOTHING, None
            self._counted_ahead.clear()
            if self.holdout is not None:
                self.holdout.forget_from(state.position)
            self.ledger = Ledger(**state.ledger)
            self._missing = self._missing_told = self.source.missing
            return
        void = self.ledger.trained - state.ledger["trained"]
        self.ledger.trained -= void
        self.ledger.dropped += void
        self.ledger.injected = state.ledger["injected"]
        self._void += void

    def start(self) -> None:
        """Begin to measure the stream's rate."""
        self._count_arrived()
        self.meter.observe(self._clock.now(), 0)

    def resize(self, window_s: float) -> None:
        """Keep what another window holds from now on, where the policy goes by a window."""
        self._policy.resize(window_s)

    def pull(self, timeout_s: float = 0.0, want: int | None = None) -> None:
        """Take in what has arrived, waiting up to ``timeout_s`` stream seconds for ``want`` more records."""
        limit = self._buffer.capacity if self._policy.drops else self._buffer.room
        if want is not None and want < limit:
            limit = want
        if limit > 0:
            before = self.source.position
            records = self.source.poll(limit, timeout_s)
            if records.lost:
                self._book_lost(before, records.lost)
            self._add(records)
        else:
            self._clock.sleep(timeout_s)  # no room: the stream waits at its source
        self._observe()

    def take(self, count: int) -> Chunk:
        """Take the oldest ``count`` samples; :meth:`settle` must say what became of them."""
        self._taken = self._buffer.take(count)
        return self._taken

    def settle(self, *, trained: bool) -> None:
        """Book the samples of the last take: trained on, or left out because their gradient was not finite."""
        if trained:
            self.ledger.trained += len(self._taken)
        else:
            self.ledger.rejected += len(self._taken)
        self._taken = NOTHING
        self._book_held()

    def undo_take(self) -> None:
        """Put the samples of the last take back."""
        self._buffer.put_back(self._taken)
        self._taken = NOTHING

    def truncate(self) -> None:
        """After a step: drop what the policy does not keep, in the buffer and at the source."""
        if not self.rate_hz:
            self._observe()  # what waits for a device that comes back may be its first batch before any time has passed
        keep = self._policy.keep(self.rate_hz)
        if keep is not None:
            self._keep_newest(keep)
        self._observe()  # so that a checkpoint taken now needs no memory of earlier moments

    def drop_held(self) -> None:
        """Drop what is held: nothing can come that it could be trained with."""
        self.ledger.dropped += self._buffer.drop_oldest(self.held)
        self._book_held()

    def rejected_since_last_time(self) -> list[tuple[str, int, int]]:
        """Return (reason, count, first offset) of samples rejected since the last call, of few reasons at most."""
        news, self._news = self._news or (), None
        return list(news)

    def missing_since_last_time(self, *, at_the_end: bool = False) -> int:
        """Return how many records were found missing since the last call.

        One that was not missing at the last call may only be late and is left for the next one, unless none will be.
        """
        before, self._missing = self._missing, self.source.missing
        settled = self._missing if at_the_end else min(before, self._missing)
        found = max(0, settled - self._missing_told)
        self._missing_told = settled
        return found

    def notices(self) -> list[str]:
        """Return what a user should know and what ends nothing, since the last call."""
        said = self.source.notices()
        if self._void:
            said.append(
                f"{self._void} samples are counted as dropped: the steps that they were trained on in do not count, "
                "and their stream cannot bring them again"
            )
            self._void = 0
        if self._quarantine is not None and self._quarantine.problem and not self._told:
            self._told = True
            said.append(f"cannot keep examples of rejected records: {self._quarantine.problem}; they are still counted")
        return said

    def state(self) -> IntakeState:
        """Return what a checkpoint needs; only between steps, with no samples in flight."""
        position = self._oldest()
        self._forget_before(position)
        return self._as_of(position)

    def state_after(self, *, trained: bool) -> IntakeState:
        """Return what :meth:`state` will be once what was taken last is settled; nothing changes."""
        taken, self._taken = self._taken, NOTHING
        after = self._as_of(self._oldest())
        self._taken = taken
        after.ledger["trained" if trained else "rejected"] += len(taken)
        return after

    def _as_of(self, position: int) -> IntakeState:
        """Return what there is before a position; the source will bring again, or miss again, what lies behind it."""
        ledger = self.ledger.as_dict()
        ledger["received"] -= self.held
        for column, ahead in self._counted_ahead.items():
            again = ahead.count_from(position)
            ledger["received"] -= again
            ledger[column] -= again
        ledger["held"] = 0
        return IntakeState(position, ledger, self.meter.state(), self.source.mark(position))

    def describe(self) -> dict[str, Any]:
        """Return the ledger as it stands, checked."""
        self._book_held()
        self.ledger.check()
        ledger, waiting = self.ledger.as_dict(), self.source.waiting
        ledger["received"] += waiting
        ledger["held"] += waiting
        return ledger

    def _keep_newest(self, keep: int) -> None:
        waiting = self.source.lag()
        if waiting is None:
            self.pull()
            waiting = 0
        self._note_waiting(self.held + waiting)
        at_source = min(waiting, keep)
        if waiting > at_source:
            skipped = self.source.skip(at_source)
            self.ledger.received += skipped
            self.ledger.dropped += skipped
        self.ledger.dropped += self._buffer.drop_oldest(max(0, self.held - (keep - at_source)))

    def _add(self, records: Chunk) -> None:
        rejected: Sequence[Rejected] = ()
        unlabelled, tested = records.unlabelled, _NO_OFFSETS
        if isinstance(records, Records):
            records, rejected = self._inspector.split(records)
            if self.holdout is not None and len(records):
                records, tested = self.holdout.split(records)
        brought = len(records) + len(rejected) + len(unlabelled) + len(tested)
        self.ledger.received += brought
        if self._limit is not None:
            self._limit.count(brought, len(rejected))
        if rejected:
            self._look_at(rejected)
        self.ledger.dropped += self._buffer.add(records)
        if not (rejected or len(unlabelled) or len(tested) or self._counted_ahead):
            return
        apart: dict[str, Sequence[int] | np.ndarray] = {
            "rejected": [record.offset for record in rejected],
            "unlabelled": unlabelled,
            "tested": tested,
        }
        self.ledger.rejected += len(rejected)
        self.ledger.unlabelled += len(unlabelled)
        self.ledger.tested += len(tested)
        self._note_ahead(records, apart)

    def _look_at(self, rejected: Sequence[Rejected]) -> None:
        if self._quarantine is not None:
            for record in rejected:
                self._quarantine.keep(record.offset, record.reason)
        self._news = self._news or Reasons()
        self._news.note(rejected)

    def _note_ahead(self, records: Chunk, apart: Mapping[str, Sequence[int] | np.ndarray]) -> None:
        """Take note of what a resumed stream brings again, though nothing holds it, by its column in the ledger."""
        for column, offsets in apart.items():
            if len(offsets) and column not in self._counted_ahead:
                self._counted_ahead[column] = Ahead()
        if self._counted_ahead:
            good = records.offsets if isinstance(records, Records) else _NO_OFFSETS
            for column, ahead in self._counted_ahead.items():
                ahead.note(apart.get(column, ()), good)
            self._forget_before(self._oldest())

    def _book_lost(self, position: int, count: int) -> None:
        """Book records that were gone from ``position`` on before they could be polled."""
        self.ledger.received += count
        self.ledger.dropped += count
        self._counted_ahead.setdefault("dropped", Ahead()).add(position, count)

    def _oldest(self) -> int:
        """Return the position of the oldest record that is held or taken, or of the next one where there is none."""
        if len(self._taken):
            return self._taken.first_offset
        held = self._buffer.first_offset
        return self.source.position if held is None else held

    def _forget_before(self, position: int) -> None:
        for ahead in self._counted_ahead.values():
            ahead.forget_before(position)

    def _observe(self) -> None:
        before = self._arrived
        self._count_arrived()
        self.meter.observe(self._clock.now(), max(0, self._arrived - before))
        self.ledger.held = waiting = len(self._buffer) + len(self._taken)
        self._note_waiting(waiting + (self._lag or 0))

    def _note_waiting(self, samples: int) -> None:
        if samples > self.max_waiting:
            self.max_waiting = samples

    def _count_arrived(self) -> None:
        """Ask how many records this stream has ever brought, those waiting at the source included."""
        self._lag = self.source.lag()
        self._arrived = self.source.position + (self._lag or 0)

    def _book_held(self) -> None:
        self.ledger.held = self.held + len(self._taken)
