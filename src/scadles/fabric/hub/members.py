"""The devices that a hub knows: seats, connections and notes, what waits to be sent, and whether they are there."""

from __future__ import annotations

import math
from collections import deque
from dataclasses import dataclass, field
from queue import SimpleQueue
from threading import Lock
from typing import Any

from scadles.fabric.hub.connection import Connection
from scadles.fabric.hub.frames import Frame, FrameError

#: The longest name of a device.
MOST_NAME = 64
#: The longest reason that a device gives for leaving.
MOST_REASON = 300
#: Between two signs of life of either end.
PULSE_S = 0.2
#: Nobody is given up for a shorter silence.
LEAST_S = 1.0
#: Before so many intervals are known, a silence is not shorter than this: a start is rough.
_FEW, _LEAST_OF_FEW_S = 16, 2.5
_KEPT = 64
_SUSPICION = 8.0
_ROUGH_S = 0.1


class Pulse:
    """Whether silence means that the other end is gone: phi accrual over the intervals between its signs of life.

    An interval is taken to be of a normal distribution about those before; phi is the negative logarithm, to base 10,
    of the probability of a silence as long as the present one. Source: Hayashibara et al., "The phi accrual failure
    detector" (SRDS 2004).

    Args:
        now_s: monotonic seconds at which the other end was heard.

    >>> pulse = Pulse(0.0)
    >>> for i in range(1, 20):
    ...     pulse.heard(i * PULSE_S)
    >>> pulse.suspicion(19 * PULSE_S + 0.3) < 8 < pulse.suspicion(19 * PULSE_S + 1.5)
    True
    """

    def __init__(self, now_s: float) -> None:
        self._heard_s = now_s
        self._intervals: deque[float] = deque([PULSE_S], maxlen=_KEPT)

    def heard(self, now_s: float) -> None:
        """Take note of a sign of life."""
        self._intervals.append(now_s - self._heard_s)
        self._heard_s = now_s

    def silent_s(self, now_s: float) -> float:
        """Return for how long there has been none."""
        return now_s - self._heard_s

    def suspicion(self, now_s: float) -> float:
        """Return phi."""
        mean = math.fsum(self._intervals) / len(self._intervals)
        variance = math.fsum((interval - mean) ** 2 for interval in self._intervals) / len(self._intervals)
        deviation = max(math.sqrt(variance), _ROUGH_S)
        tail = math.erfc((self.silent_s(now_s) - mean) / deviation / math.sqrt(2)) / 2
        return -math.log10(tail) if tail > 0 else math.inf

    def is_gone(self, now_s: float) -> bool:
        """Whether the other end must be taken to be gone."""
        least_s = LEAST_S if len(self._intervals) > _FEW else _LEAST_OF_FEW_S
        return self.silent_s(now_s) > least_s and self.suspicion(now_s) > _SUSPICION


def is_name(name: object) -> bool:
    """Whether a device may be called that."""
    return isinstance(name, str) and 0 < len(name) <= MOST_NAME and name.isprintable()


def reason_of(said: object, most: int = MOST_REASON) -> str:
    r"""Return a reason that the other end gives as one short line, which can be shown and written into events.

    >>> reason_of("its disk\x1b[2J\n is full")
    'its disk[2J is full'
    """
    return "".join(c for c in str(said)[: 2 * most] if c.isprintable())[:most]


class Outbox:
    """What is for a device, in order: texts, pieces of collectives, states of others; None ends it.

    Attributes:
        bytes: of the pieces that wait.
    """

    def __init__(self) -> None:
        self._items: SimpleQueue[Any] = SimpleQueue()
        self._lock = Lock()
        self._put = self._taken = self._due = 0
        self.bytes = 0

    def put(self, item: Any, size: int = 0) -> None:
        """Add something that takes so many bytes of memory while it waits."""
        with self._lock:
            self.bytes += size
            self._put += 1
        self._items.put((item, size))

    def get(self) -> Any:
        """Wait for the next item, and return it."""
        item, size = self._items.get()
        with self._lock:
            self.bytes -= size
            self._taken += 1
        return item

    def is_behind(self) -> bool:
        """Whether items wait still that were there at the call before: called at the end of each step."""
        with self._lock:
            due, self._due = self._due, self._put
            return self._taken < due


def checked_name(name: object) -> str:
    """Return what a device says that it is called.

    Raises:
        FrameError: nobody may be called that.
    """
    if not isinstance(name, str) or not is_name(name):
        raise FrameError(f"a name must be 1 to {MOST_NAME} printable characters")
    return name


@dataclass(eq=False)
class Member:
    """A device, from its welcome to the end of its connections.

    Attributes:
        name, seat: who it is.
        session: a secret of its connections; a later one of the same name has another.
        control, up, down: its connections; the latter two are None until they are there.
        giving: the connection over which it gave its state last.
        outbox: what is for it.
        pulse: its signs of life.
        step: how far its model has come, as it said last; -1 before, and where no run can begin with its values.
        is_ready: whether it waits to be admitted.
        follows: whether it gets what comes of the steps of others, and does not count yet.
        is_near: whether one that follows has come as near to the others as it can.
        has_been_in: whether it has taken part or followed.
        has_state: whether it has the common state of the present view, or will have when it has read what is sent.
        is_told: whether it was said that it takes part.
        process: a secret of the process that it is; a later one of the same name has another.
        note: what it sent with the present step, with its number; counts once the step is whole.
        boundary: the collective that ends this step.
        has_brought: whether messages have come since that note.
        relayed: which message for the others is on its way, or was last, and how much of it has come.
        moves: changes, as the device says, whenever its stream brings something.
    """

    name: str
    seat: int
    session: str
    control: Connection
    pulse: Pulse
    up: Connection | None = None
    down: Connection | None = None
    giving: Connection | None = None
    outbox: Outbox = field(default_factory=Outbox)
    step: int = -1
    is_ready: bool = False
    follows: bool = False
    is_near: bool = False
    has_been_in: bool = False
    has_state: bool = False
    is_told: bool = False
    process: str = ""
    is_gone: bool = False
    note: tuple[int, dict[str, Any]] | None = None
    boundary: int = -1
    has_brought: bool = False
    relayed: tuple[int, int] = (0, 0)
    moves: object = None
    _lag: float = math.inf
    _moved: object = None
    _moved_s: float = -math.inf

    def is_silent(self, now_s: float) -> bool:
        """Whether there are neither signs of life nor bytes: on a thin link the signs queue up behind the bytes.

        Bytes that go down count as well, because what confirms signs of life queues up behind them.
        """
        if not self.pulse.is_gone(now_s):
            return False
        since_s = [one.since_data_s() for one in (self.up, self.giving) if one is not None]
        since_s += [self.down.since_taken_s()] if self.down is not None else []
        return min(since_s, default=math.inf) > LEAST_S

    def hangs_s(self, now_s: float, *, is_awaited: bool) -> float:
        """Return for how long others have waited for this device while nothing has moved."""
        moved = (self.moves, *(one.received + one.sent for one in (self.up, self.down) if one is not None))
        if moved != self._moved or not is_awaited or self._moved_s == -math.inf:
            self._moved, self._moved_s = moved, now_s
        return now_s - self._moved_s

    def follow_up(self, step: int, newest: int) -> None:
        """Take note of which step one that follows is at; it is near where it stops coming nearer.

        Args:
            step: that it is at.
            newest: step of the others that is whole.
        """
        lag = newest + 1 - step
        self.is_near = self.is_near or lag <= 1 or (step > self.step and lag >= self._lag)
        self.step, self._lag = step, lag

    def relays(self, frame: Frame) -> bool:
        """Take note of a piece for the others; whether it comes after those before it."""
        sequence, expected = self.relayed
        if frame.sequence > sequence:
            sequence, expected = frame.sequence, 0
        if frame.sequence != sequence or frame.offset != expected:
            return False
        self.relayed = (sequence, expected + max(frame.length, 1))
        return True

    def connections(self) -> list[Connection]:
        """Return those that there are."""
        return [one for one in (self.control, self.up, self.down) if one is not None]
