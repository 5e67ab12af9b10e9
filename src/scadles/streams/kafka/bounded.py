"""What has come from a topic up to where it ended when it was opened."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from scadles.streams.kafka.backlog import Backlog


class BoundedBacklog(Backlog):
    """A backlog of partitions of which each has an end, whatever is written behind it.

    Args:
        starts: offset of each partition to begin at.
        stops: offset behind the last record that counts of each.
    """

    def __init__(self, starts: Mapping[int, int], stops: Mapping[int, int]) -> None:
        super().__init__(starts, stops)
        self._stops = dict(stops)

    @property
    def ended(self) -> bool:
        with self._lock:
            return not self._queue and self._over()

    def add(self, partition: int, messages: Sequence[Any]) -> None:
        stop = self._stops[partition]
        kept = messages
        if messages[-1].offset() >= stop:
            kept = [message for message in messages if message.offset() < stop]
        if kept:
            super().add(partition, kept)
        if len(kept) < len(messages):
            self.leap(partition, stop, lost=False)

    def leap(self, partition: int, offset: int, *, lost: bool) -> None:
        super().leap(partition, min(offset, self._stops[partition]), lost=lost)

    def heard_of_end(self, partition: int, end: int) -> None:
        """Do nothing: the end is known."""

    def to_fetch(self) -> dict[int, int]:
        return {partition: offset for partition, offset in self.fetched().items() if offset < self._stops[partition]}

    def _over(self) -> bool:
        return all(self._fetched[partition] >= stop for partition, stop in self._stops.items())

    def _reach(self, partition: int, offset: int) -> None:
        super()._reach(partition, offset)
        if offset >= self._stops[partition]:
            self._far = True  # the client goes on with the other partitions alone
            self._arrived.notify()
