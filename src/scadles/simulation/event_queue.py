"""Virtual time: what happens next, and when."""

from __future__ import annotations

from collections.abc import Callable
from heapq import heappop, heappush
from itertools import count
from typing import Any


class EventQueue:
    """Events in the order of (time, priority, sequence): at one moment the lowest priority comes first, and of equal
    ones the one that was planned first.

    >>> queue, seen = EventQueue(), []
    >>> queue.at(2.0, seen.append, "later")
    >>> queue.at(1.0, seen.append, "sooner")
    >>> queue.at(2.0, seen.append, "first of its moment", priority=-1)
    >>> queue.run()
    >>> seen, queue.now_s
    (['sooner', 'first of its moment', 'later'], 2.0)
    """

    __slots__ = ("_events", "_sequence", "now_s")

    def __init__(self) -> None:
        self.now_s = 0.0
        self._events: list[tuple[float, int, int, Callable[..., None], tuple[Any, ...]]] = []
        self._sequence = count()

    def at(self, time_s: float, action: Callable[..., None], *arguments: Any, priority: int = 0) -> None:
        """Plan ``action(*arguments)`` for a stream time, which must not have passed."""
        if time_s < self.now_s:
            raise ValueError(f"an event at {time_s} s cannot be planned at {self.now_s} s")
        heappush(self._events, (time_s, priority, next(self._sequence), action, arguments))

    def run(self) -> None:
        """Let one event happen after the other until none is left."""
        events = self._events
        while events:
            self.now_s, _, _, action, arguments = heappop(events)
            action(*arguments)
