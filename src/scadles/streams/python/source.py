"""An iterator as a stream."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, cast

import numpy as np

from scadles.clock import Clock, wall_seconds
from scadles.errors import ConfigError, RunError, SourceError
from scadles.importing import call_with
from scadles.streams.contract import Records, Rejected, Source
from scadles.streams.python.feed import Feed, Waiting
from scadles.streams.python.items import Reader

_OPEN_S, _REWIND_S, _CLOSE_S = 15.0, 5.0, 1.0
_SILENT_S = 60.0
_WAY_OUT = "an address gives more, python://MODULE:CALLABLE?NAME=VALUE; or "


@dataclass(frozen=True)
class Origin:
    """Where records come from.

    Attributes:
        name: for messages.
        make: returns something to iterate over.
        offered: what ``make`` is given of, by name.
        goes_back: whether it takes ``start``, the number of the record to begin with.
    """

    name: str
    make: Callable[..., Iterable[Any]]
    offered: Mapping[str, Any]
    goes_back: bool = False

    def begin(self, start: int) -> Iterable[Any]:
        """Return something that yields record ``start`` first, where it can go back."""
        offered = {"start": start, **self.offered}
        return cast("Iterable[Any]", call_with("stream.url", self.name, self.make, offered, _WAY_OUT))


class PythonSource(Source):
    """What an iterator yields, read by a thread and stamped with the time at which it came.

    Offsets are counted here, one for each record, whether it can be read or not; :class:`~scadles.records.Records`
    bring their own, and what these pass over counts as lost. An iterator that raises ends the stream: what it had
    brought is polled first, then :class:`~scadles.errors.SourceError` says what it raised. One that ends is silent
    from then on. One that blocks for ever is silent, too: a notice tells of it, and it is left behind at the end.

    **What is promised:** where the origin goes back (it takes ``start``), each record is trained on exactly once, over
    crashes and void steps. **What is not:** any other iterator is made anew after a crash and brings what comes then.
    What had arrived by the checkpoint and was not trained on is counted as lost; what came after it nobody knows, and
    a notice says so.

    Memory: ``capacity`` records, beside what the buffer holds.

    Args:
        origin: where records come from.
        reader: makes records of what is yielded.
        clock: event times are when a record came.
        capacity: records that wait here at most.
        truncates: whether the oldest of more are dropped; otherwise the iterator waits.
        stop_at_end: whether the stream ends with its iterator.
    """

    def __init__(
        self,
        origin: Origin,
        reader: Reader,
        clock: Clock,
        *,
        capacity: int,
        truncates: bool,
        stop_at_end: bool,
    ) -> None:
        self._origin = origin
        self._reader = reader
        self._clock = clock
        self._capacity = capacity
        self._truncates = truncates
        self._stop_at_end = stop_at_end
        self._feed: Feed | None = None
        self._position = 0
        self._notices: list[str] = []
        self._told_of_silence = self._told_of_end = False

    def open(self, position: int, mark: Mapping[str, Any] | None = None) -> None:
        if position < 0:
            raise ConfigError(f"position = {position}: a stream begins at offset 0")
        self._position = begin = position
        if not self._origin.goes_back:
            begin = max(position, int((mark or {}).get("arrived", position)))
            if mark:
                self._notices.append(
                    f"{self._origin.name} cannot go back, as it takes no start: {begin - position} records that had "
                    "come by the checkpoint are lost, and counted as dropped; how many came between then and now "
                    "nobody knows"
                )
        self._begin(begin, _OPEN_S)
        if refused := self._opened().refused:
            raise ConfigError(refused if self._origin.name in refused else f"{self._origin.name}: {refused}")

    def rewind(self, position: int, mark: Mapping[str, Any] | None = None) -> bool:
        del mark
        if not self._origin.goes_back or not self._opened().stop(_REWIND_S):
            return False
        self._position = position
        self._begin(position, 0.0)
        return True

    def poll(self, max_records: int, timeout_s: float) -> Records:
        feed = self._opened()
        feed.wait_for(max_records, timeout_s, until_end=self._stop_at_end)
        self._note_silence(feed)
        taken, until = feed.take(max_records)
        if until == self._position and not taken:
            self._check(feed)
        lost = until - self._position
        self._position = until + len(taken)
        return self._records(taken, lost)

    def skip(self, keep: int) -> int:
        until = self._opened().drop(keep)
        if until is None:
            return 0
        passed, self._position = until - self._position, until
        return passed

    def lag(self) -> int:
        return self._opened().next - self._position

    @property
    def position(self) -> int:
        return self._position

    @property
    def ended(self) -> bool:
        feed = self._feed
        return self._stop_at_end and feed is not None and feed.ended and not feed.error and not len(feed)

    def mark(self, position: int) -> dict[str, Any]:
        return {} if self._origin.goes_back else {"arrived": max(position, self._opened().next)}

    def notices(self) -> list[str]:
        said, self._notices = self._notices, []
        return said

    def commit(self, position: int) -> None:
        """Do nothing: an iterator keeps nothing that it has yielded."""

    def close(self) -> None:
        if self._feed is not None:
            self._feed.abandon(_CLOSE_S)

    def _begin(self, start: int, patience_s: float) -> None:
        self._feed = Feed(
            *(self._origin.name, partial(self._origin.begin, start), self._reader, self._clock, start),
            capacity=self._capacity,
            truncates=self._truncates,
        )
        self._feed.start(patience_s)

    def _opened(self) -> Feed:
        if self._feed is None:
            raise RunError("the stream is not open yet")
        return self._feed

    def _check(self, feed: Feed) -> None:
        if said := feed.error or feed.refused:
            raise SourceError(f"{self._origin.name} has broken off after {feed.next:,} records: {said}")

    def _note_silence(self, feed: Feed) -> None:
        name = self._origin.name
        if feed.ended and not self._stop_at_end and not feed.error and not self._told_of_end:
            self._told_of_end = True
            self._notices.append(
                f"{name} has ended after {feed.next:,} records, and this device goes on without; with stream.end: stop "
                "a run ends with its streams"
            )
        silent = not feed.ended and wall_seconds() - feed.latest_s > _SILENT_S
        if silent and not len(feed) and not self._told_of_silence:
            self._notices.append(f"{name} has brought nothing for {_SILENT_S:g} s; this device goes on without")
        self._told_of_silence = silent

    def _records(self, taken: list[Waiting], lost: int) -> Records:
        rejected = tuple(Rejected(one.offset, one.item.reason) for one in taken if one.item.reason)
        good = [one for one in taken if not one.item.reason]
        x, y = self._reader.together([one.item for one in good])
        offsets = np.array([one.offset for one in good], dtype=np.int64)
        times = np.array([one.time_s for one in good], dtype=np.float64)
        return Records(offsets, times, x, y, rejected, lost)
