"""What has come from a broker: in which order, how often, and what is still to be acknowledged."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from scadles.clock import wall_seconds
from scadles.streams.mqtt.ids import Ids
from scadles.streams.mqtt.missing import MissingIds
from scadles.streams.mqtt.terms import Terms
from scadles.streams.runs import from_runs, to_runs

_SLICE_S = 0.5

#: Told (life, mid) of a message that need not come again; called with the lock held, from any thread.
Acknowledge = Callable[[int, int], None]


class Delivery(NamedTuple):
    """A message as the broker delivers it.

    Attributes:
        number: its ``id``; None where it has none.
        mid: what the broker calls it until it is acknowledged; None for QoS 0, which is never acknowledged.
        life: of the session in which ``mid`` means something.
        again: whether the broker says that it may have delivered it before.
        time_s: when it came, stream seconds.
        key, value: the message.
    """

    number: int | None
    mid: int | None
    life: int
    again: bool
    time_s: float
    key: bytes | None
    value: bytes


class Waiting(NamedTuple):
    """A message that waits to be polled; ``value`` is None where ``reason`` says why it was not kept."""

    offset: int
    time_s: float
    key: bytes | None
    value: bytes | None
    reason: str


class _CameAgain(NamedTuple):
    """A message that was settled before its turn: when it came again, and its name at the broker in which life."""

    offset: int
    mid: int | None
    life: int


class Inbox:
    """Messages in order of arrival, each once, numbered by offsets of our own.

    One thread delivers, another takes.

    Args:
        terms: what the device wants.
        acknowledge: how to acknowledge.

    Attributes:
        position: the offset that is taken next.
        duplicates: messages that came more than once, counted once for each time more.
        starved: whether fewer messages were taken than wanted because the broker may send no more before some are
            acknowledged.
    """

    def __init__(self, terms: Terms, acknowledge: Acknowledge) -> None:
        self._terms = terms
        self._acknowledge = acknowledge
        self._news = threading.Condition()
        self._waiting = deque[Waiting]()
        # by offset, ascending: id, and the name in which life of the session
        self._unacknowledged: dict[int, tuple[int | None, int | None, int]] = {}
        self._by_number: dict[int, int] = {}
        self._by_mid: dict[int, int] = {}
        self._settled = Ids()
        # of these, what lay behind the position that was opened, once it has come again
        self._beyond: dict[int, _CameAgain | None] = {}
        self._missing = MissingIds()
        self._arrived = self._lost = self._committed = 0
        self._awaits_connection = False
        self.position = 0
        self.duplicates = 0
        self.starved = False

    def open(self, position: int, mark: Mapping[str, Any] | None) -> None:
        """Begin at ``position``, with what :meth:`mark` said of it."""
        self.position = self._arrived = self._committed = position
        if mark:
            self._settled = Ids(mark["ids"])
            self._know_beyond(mark)
            self.duplicates = int(mark["duplicates"])
            self._missing = MissingIds(mark.get("missing", ()))

    def rewind(self, position: int, mark: Mapping[str, Any] | None = None) -> bool:
        """Forget all from ``position`` on, and whatever comes before :meth:`connected`; return whether it comes again.

        Of what comes again the ids that are ``beyond`` in the mark are known.

        It does not where some of it is acknowledged, or the broker has lost it; then nothing is forgotten.
        """
        with self._news:
            kept = set(self._by_mid.values())
            behind = [offset for offset in self._unacknowledged if offset >= position]
            if self._terms.truncates or position < self._committed or not kept.issuperset(behind):
                return False
            self._waiting.clear()
            for offset in behind:
                self._release(offset)
            self._missing = MissingIds(self._missing.at(position))
            self._know_beyond(mark)
            self.position = self._arrived = position
            self._awaits_connection = True
            return True

    def connected(self) -> None:
        """The broker begins to deliver, first of all what is not acknowledged."""
        with self._news:
            self._awaits_connection = False

    def deliver(self, delivery: Delivery) -> None:
        """Take in a message, unless it is here or settled already."""
        terms, value, reason = self._terms, delivery.value, ""
        with self._news:
            if self._awaits_connection:
                return
            if self._known(delivery):
                self.duplicates += 1
                return
            if len(value) > terms.max_bytes:
                reason = f"{len(value):,} bytes, at most {terms.max_bytes:,} are allowed"
            kept = None if reason else value
            self._waiting.append(Waiting(self._arrived, delivery.time_s, delivery.key, kept, reason))
            self._remember(delivery)
            if delivery.number is not None:
                self._missing.note(self._arrived, delivery.number)
            self._arrived += 1
            if terms.truncates and len(self._waiting) > terms.capacity:
                self._waiting.popleft()
                self._lost += 1
            self._news.notify_all()

    def take(self, count: int, timeout_s: float, check: Callable[[], None]) -> tuple[list[Waiting], int]:
        """Return up to ``count`` messages as soon as they are there or the time has passed, and how many were lost.

        Args:
            count: at least 1.
            timeout_s: wall seconds.
            check: raises what has gone wrong; asked now and then, and always before anything is taken.
        """
        deadline_s = wall_seconds() + timeout_s
        with self._news:
            check()
            while len(self._waiting) < count and not self.full() and (left_s := deadline_s - wall_seconds()) > 0:
                self._news.wait(min(left_s, _SLICE_S))
                check()
            taken = [self._waiting.popleft() for _ in range(min(count, len(self._waiting)))]
            lost, self._lost = self._lost, 0
            held = len(self._unacknowledged) + sum(came is not None for came in self._beyond.values())
            if len(taken) < count and held >= self._terms.receive_max:
                self.starved = True
            self.position = taken[-1].offset + 1 if taken else self.position + lost
        return taken, lost

    def skip(self, keep: int) -> int:
        """Pass over all but the newest ``keep``; return how many, those that had no room included."""
        with self._news:
            until = self._arrived - keep
            passed = until - self.position
            if passed <= 0:
                return 0
            while self._waiting and self._waiting[0].offset < until:
                self._settle(self._waiting.popleft().offset)
            self.position, self._lost = until, 0
        return passed

    def lag(self) -> int:
        """Return how many have come and were neither taken nor passed over."""
        with self._news:
            return self._arrived - self.position

    def missing(self) -> int:
        """Return how many messages have not come, as gaps in their ids show."""
        with self._news:
            return self._missing.count

    def full(self) -> bool:
        """Whether no more should be read for now: everything is kept, and as much waits as may."""
        return not self._terms.truncates and len(self._waiting) >= self._terms.capacity

    def mark(self, position: int, beyond: Sequence[Sequence[int]] = ()) -> dict[str, Any]:
        """Return what to know of messages before ``position``, and of those at runs of offsets ``beyond`` it.

        These are the ids that the broker may deliver once more, the duplicates so far, and what was missing.
        """
        with self._news:
            settled = Ids(self._settled.runs())
            for offset, (number, _, _) in self._unacknowledged.items():
                if offset >= position:
                    break
                if number is not None:
                    settled.add(number)
            ahead = [self._unacknowledged.get(offset) for first, last in beyond for offset in range(first, last + 1)]
            numbers = [found[0] for found in ahead if found is not None and found[0] is not None]
            known = to_runs([*numbers, *self._beyond])
            return {
                **({"beyond": known} if known else {}),
                "ids": [list(run) for run in settled.runs()],
                "duplicates": self.duplicates,
                "missing": self._missing.at(position),
            }

    def commit(self, position: int) -> None:
        """Acknowledge everything before ``position``."""
        with self._news:
            done = []
            for offset in self._unacknowledged:
                if offset >= position:
                    break
                done.append(offset)
            for offset in done:
                self._settle(offset)
            self._committed = max(self._committed, position)
            self._missing.commit(position)
            for number, came in list(self._beyond.items()):
                if came is not None and came.offset < position:  # a mark there has counted it
                    self._tell(came.life, came.mid)
                    del self._beyond[number]

    def forget(self) -> None:
        """The broker has lost the session: what it called messages means nothing any more."""
        with self._news:
            self._by_mid.clear()

    def _know_beyond(self, mark: Mapping[str, Any] | None) -> None:
        """Know the ids of messages behind the position that need not come again."""
        self._beyond = dict.fromkeys(from_runs((mark or {}).get("beyond", ())))
        for number in sorted(self._beyond):
            if number not in self._settled:
                self._settled.add(number)

    def _known(self, delivery: Delivery) -> bool:
        """Whether a message was received before; if so, see to its acknowledgement."""
        number, mid, life = delivery.number, delivery.mid, delivery.life
        if number is None:
            # without an id only the broker's own name tells, as long as it keeps the session
            return delivery.again and mid in self._by_mid
        if number in self._beyond:
            self._come_again(number, mid, life)
            return True
        if number in self._settled:
            self._tell(life, mid)
            return True
        offset = self._by_number.get(number)
        if offset is None:
            return False
        _, known_mid, known_life = self._unacknowledged[offset]
        if known_life != life:
            self._unacknowledged[offset] = (number, mid, life)
            if mid is not None:
                self._by_mid[mid] = offset
        elif known_mid != mid:  # the publisher sent it twice: one of the two is enough
            self._tell(life, mid)
        return True

    def _come_again(self, number: int, mid: int | None, life: int) -> None:
        """Take note of a message that lay behind the position; it must come until a mark has counted it."""
        before = self._beyond[number]
        if before is None:
            self._missing.note(self._arrived, number)  # as it was when it came first
        elif before.life == life and before.mid != mid:  # the publisher sent it twice: one of the two is enough
            self._tell(life, mid)
            return
        self._beyond[number] = _CameAgain(self._arrived if before is None else before.offset, mid, life)

    def _remember(self, delivery: Delivery) -> None:
        """Remember to acknowledge a new message, or do so at once."""
        number, mid, life = delivery.number, delivery.mid, delivery.life
        if self._terms.truncates:
            self._tell(life, mid)
            if number is not None:
                self._settled.add(number)
            return
        self._unacknowledged[self._arrived] = (number, mid, life)
        if mid is not None:
            self._by_mid[mid] = self._arrived
        if number is not None:
            self._by_number[number] = self._arrived

    def _settle(self, offset: int) -> None:
        """Acknowledge a message, and know it from now on."""
        if offset not in self._unacknowledged:
            return
        number, mid, life = self._release(offset)
        self._tell(life, mid)
        if number is not None:
            self._settled.add(number)

    def _release(self, offset: int) -> tuple[int | None, int | None, int]:
        """Know an unacknowledged message no more; return its id, and where it can be acknowledged its mid and life."""
        number, mid, life = self._unacknowledged.pop(offset)
        if number is not None:
            del self._by_number[number]
        if mid is None or self._by_mid.get(mid) != offset:
            return number, None, life
        del self._by_mid[mid]
        return number, mid, life

    def _tell(self, life: int, mid: int | None) -> None:
        if mid is not None:
            self._acknowledge(life, mid)
