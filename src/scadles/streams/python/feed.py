"""An iterator that a thread reads, into a bounded queue."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterable
from contextlib import suppress
from inspect import isgenerator
from itertools import islice
from typing import Any, NamedTuple

from scadles.clock import Clock, wall_seconds
from scadles.errors import ScadlesError
from scadles.importing import blame
from scadles.streams.python.items import Item, Reader

_SLICE_S = 0.5


class Waiting(NamedTuple):
    """A record that waits to be polled."""

    offset: int
    time_s: float
    item: Item


class Feed:
    """One life of an iterator: a thread asks it for the next item as soon as there is room for it.

    Nothing can interrupt a thread that an iterator keeps for ever: it is left behind, and ends with the process.

    Args:
        name: of the iterator, for the thread.
        make: returns what is iterated over; called in the thread.
        reader: makes records of items.
        clock: event times are when an item came.
        start: the offset of the first record.
        capacity: records that wait at most.
        truncates: whether the oldest are dropped for new ones; otherwise the iterator waits for room.

    Attributes:
        ended: whether the iterator has come to its end, by itself or by an error.
        error: what it raised, in words.
        refused: what stands against iterating at all, in words.
        next: the offset of the record that comes next.
        latest_s: when something came last, wall seconds.
    """

    def __init__(
        self,
        name: str,
        make: Callable[[], Iterable[Any]],
        reader: Reader,
        clock: Clock,
        start: int,
        *,
        capacity: int,
        truncates: bool,
    ) -> None:
        self._make = make
        self._reader = reader
        self._clock = clock
        self._capacity = capacity
        self._truncates = truncates
        self._news = threading.Condition()
        self._waiting = deque[Waiting]()
        self._made = threading.Event()
        self._stops = False
        self._stopped = False
        self.ended = False
        self.error = ""
        self.refused = ""
        self.next = start
        self.latest_s = wall_seconds()
        self._thread = threading.Thread(target=self._run, name=f"reading {name}", daemon=True)

    def __len__(self) -> int:
        """Return how many records wait."""
        return len(self._waiting)

    def start(self, patience_s: float) -> None:
        """Begin to read, and wait so long for the iterator to be made."""
        self._thread.start()
        self._made.wait(patience_s)

    def stop(self, patience_s: float) -> bool:
        """Let the thread end, and wait so long for it; return whether it has.

        One that has not goes on, unless it is told again.
        """
        with self._news:
            self._stops = True
            self._news.notify_all()
        self._thread.join(patience_s)
        with self._news:
            if self._thread.is_alive() and not self._stopped:
                self._stops = False
                return False
        return True

    def abandon(self, patience_s: float) -> None:
        """Let the thread end, whenever it can; wait so long for it, that the iterator may give back what it has."""
        with self._news:
            self._stops = True
            self._news.notify_all()
        if self._thread.ident is not None:
            self._thread.join(patience_s)

    def wait_for(self, count: int, timeout_s: float, *, until_end: bool) -> None:
        """Wait until so many records wait, no more have room, nothing more can come, or the time has passed.

        Args:
            count: records.
            timeout_s: wall seconds.
            until_end: whether a regular end counts as well.
        """
        deadline_s = wall_seconds() + timeout_s
        with self._news:
            while len(self._waiting) < min(count, self._capacity) and (left_s := deadline_s - wall_seconds()) > 0:
                if self.error or (self.ended and until_end):
                    return
                self._news.wait(min(left_s, _SLICE_S))

    def take(self, count: int) -> tuple[list[Waiting], int]:
        """Return up to so many of the oldest records, without a gap, and the offset before which none comes any more.

        That is the first one's, or where nothing waits the next one's.
        """
        with self._news:
            consecutive = 0
            for i, waiting in enumerate(islice(self._waiting, count)):
                if waiting.offset != self._waiting[0].offset + i:
                    break
                consecutive += 1
            taken = [self._waiting.popleft() for _ in range(consecutive)]
            self._news.notify_all()
            return taken, taken[0].offset if taken else self.next

    def drop(self, keep: int) -> int | None:
        """Forget all but the newest so many records; return the offset of the first of these, None where all stay."""
        with self._news:
            if len(self._waiting) <= keep:
                return None
            while len(self._waiting) > keep:
                self._waiting.popleft()
            self._news.notify_all()
            return self._waiting[0].offset if self._waiting else self.next

    def _run(self) -> None:
        made: Any = None
        try:
            made = self._begin()
            self._made.set()
            if made is not None:
                self._read(made)
        except BaseException as error:  # noqa: BLE001 - whatever the user's code raises is told by the polling thread
            self._fail(blame(error))
        finally:
            self._made.set()
            if isgenerator(made):
                with suppress(BaseException):
                    made.close()
            with self._news:
                self.ended = self._stopped = True
                self._news.notify_all()

    def _begin(self) -> Any:
        try:
            made = self._make()
        except ScadlesError as error:
            self.refused = str(error)
            return None
        if not isinstance(made, Iterable):
            self.refused = f"{type(made).__name__} cannot be iterated over: return an iterator, or write a generator"
            return None
        return iter(made)

    def _read(self, iterator: Any) -> None:
        for yielded in iterator:
            time_s, self.latest_s = self._clock.now(), wall_seconds()
            for item in self._reader.read(yielded):
                if not self._deliver(time_s, item):
                    return
            with self._news:
                if self._stops:
                    self._stopped = True
                    return

    def _deliver(self, time_s: float, item: Item) -> bool:
        """Let a record wait to be polled, once there is room; return False where reading shall end."""
        with self._news:
            while not self._truncates and len(self._waiting) >= self._capacity and not self._stops:
                self._news.wait()
            if self._stops:
                self._stopped = True
                return False
            offset = self.next if item.offset is None else item.offset
            if offset < self.next:
                self.error = f"it yielded record {offset} after record {self.next - 1}: offsets must ascend"
                return False
            self._waiting.append(Waiting(offset, time_s, item))
            self.next = offset + 1
            if self._truncates and len(self._waiting) > self._capacity:
                self._waiting.popleft()
            self._news.notify_all()
        return True

    def _fail(self, said: str) -> None:
        with self._news:
            self.error = said
