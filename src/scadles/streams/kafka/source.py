"""A Kafka topic as a stream.

**Position.** Of a stream of one partition it is the broker's own offset; of several it is the number of records that
they have brought together, and the checkpoint's mark holds the offset of each. Positions are kept in checkpoints; the
brokers are told after each checkpoint, for tools that show lag, and are never asked.

**The ledger and the broker's offsets.** Every record between where a stream began and its position is received, once,
however often the run was killed and resumed: trained, dropped, held or rejected. Records that retention deletes before
they are read are received and dropped. Offsets that were never records (markers of transactions, and what compaction
took away) are not counted where they are read past; where truncation or retention jumps over them unread, every offset
counts as a record.

**Partitions that appear** while the topic is read as a whole are taken in within seconds, from their beginning,
whatever the policy: under truncation what is too old is dropped and counted as everywhere. A resumed run takes in those
that have appeared meanwhile. Where an address names partitions, a notice says that there are more. How partitions are
split between devices that share a topic is up to their addresses (``partitions={device}``), so that it never changes by
itself.

**The end** (``stream.end: stop``) is where each partition ended when the stream was first opened; the checkpoint keeps
it. What is written behind it, and partitions that appear, are no part of the stream.

**The beginning** of a fresh run is the oldest record that the broker has (``from=beginning``), or behind the newest
(``from=now``). What was deleted before the run began was never part of it.

**Event time** is a record's timestamp in seconds since the run first opened the stream (what waited there already has
negative times), and as trustworthy as the clocks of those who wrote it. A record without a timestamp has the moment at
which it was polled.

**Lag** is counted in offsets up to the high watermark: an upper bound where a topic has transactions or is compacted.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from confluent_kafka import Consumer, Message

from scadles.clock import unix_seconds
from scadles.errors import ConfigError, RunError
from scadles.streams.codec import Codec
from scadles.streams.contract import Records, Rejected, Source
from scadles.streams.kafka.address import KafkaAddress
from scadles.streams.kafka.backlog import Backlog
from scadles.streams.kafka.bounded import BoundedBacklog
from scadles.streams.kafka.connection import Complaints, created
from scadles.streams.kafka.fetched import Run
from scadles.streams.kafka.fetcher import Fetcher
from scadles.streams.kafka.positions import ManyPartitions, OnePartition, StreamPositions
from scadles.streams.kafka.presence import find_topic
from scadles.streams.quarantine import Quarantine


class KafkaSource(Source):
    """One topic, or some of its partitions.

    Args:
        address: where it is, and how it is read.
        complaints: the one that the address was made with.
        codec: from bytes to samples.
        quarantine: where examples of what cannot be read are kept; None keeps none.
        started_unix_s: what event times of a fresh run count from; None is the moment of :meth:`open`.
        stop_at_end: whether the stream ends where each partition ended when it was first opened.
    """

    __slots__ = (
        *("_address", "_backlog", "_began", "_client", "_codec", "_complaints", "_fetcher", "_positions"),
        *("_notices", "_quarantine", "_started_unix_s", "_stop_at_end", "_stops"),
    )

    def __init__(
        self,
        address: KafkaAddress,
        complaints: Complaints,
        codec: Codec,
        quarantine: Quarantine | None = None,
        started_unix_s: float | None = None,
        *,
        stop_at_end: bool = False,
    ) -> None:
        self._address = address
        self._complaints = complaints
        self._codec = codec
        self._quarantine = quarantine
        self._started_unix_s = started_unix_s
        self._stop_at_end = stop_at_end
        self._stops: dict[int, int] = {}
        self._began: dict[int, int] = {}
        self._notices: deque[str] = deque()
        self._client: Consumer | None = None
        self._backlog = Backlog({}, {})
        self._fetcher: Fetcher | None = None
        self._positions: StreamPositions = OnePartition(0, 0)

    def open(self, position: int, mark: Mapping[str, Any] | None = None) -> None:
        address = self._address
        client = self._client = created(Consumer, address.options | {"on_commit": self._on_commit})
        ranges = find_topic(client, address, self._complaints)
        self._expect(ranges, mark or {})
        if self._stop_at_end:
            ranges = self._bounded(ranges, mark or {})
        starts = self._starts(ranges, position, mark)
        if self._started_unix_s is None:
            self._started_unix_s = mark["started_unix_s"] if mark else unix_seconds()
        self._began = {partition: low for partition, (low, _) in ranges.items()} if mark else dict(starts)
        self._positions = _positions(position, starts)
        ends = {partition: high for partition, (_, high) in ranges.items()}
        self._backlog = BoundedBacklog(starts, ends) if self._stop_at_end else Backlog(starts, ends)
        say = self._notices.append
        self._fetcher = Fetcher(client, address, self._backlog, self._complaints, say, grows=not self._stop_at_end)
        self._fetcher.start()

    def rewind(self, position: int, mark: Mapping[str, Any] | None = None) -> bool:
        fetcher = self._opened()
        self._take_in_partitions()
        starts = self._starts({partition: (first, first) for partition, first in self._began.items()}, position, mark)
        fetcher.rewind(starts)
        self._positions = _positions(position, starts)
        return True

    def poll(self, max_records: int, timeout_s: float) -> Records:
        lost = 0
        messages: list[Any] = []
        offsets: list[np.ndarray] = []
        parts = self._backlog.take(max_records, timeout_s, self._opened().fetch)
        self._take_in_partitions()
        for part in parts:
            if isinstance(part, Run):
                offsets.append(self._positions.of(part.partition, _offsets(part.messages)))
                messages += part.messages
            else:
                lost += part.records
                self._positions.passed(part.partition, part.records, part.end)
        decoded = self._codec.decode(list(map(Message.value, messages)), list(map(Message.key, messages)))
        where = np.concatenate(offsets) if offsets else np.empty(0, np.int64)
        if self._quarantine is not None:
            for number, reason in decoded.rejected:
                message = messages[number]
                self._quarantine.keep(int(where[number]), reason, message.value(), message.key())
        return Records(
            where[decoded.kept],
            self._times(messages)[decoded.kept],
            decoded.x,
            decoded.y,
            tuple(Rejected(int(where[number]), reason) for number, reason in decoded.rejected),
            lost,
        )

    def skip(self, keep: int) -> int:
        passed = self._backlog.skip(keep)
        self._take_in_partitions()
        for part in passed:
            self._positions.passed(part.partition, part.records, part.end)
        return sum(part.records for part in passed)

    def lag(self) -> int:
        return self._backlog.lag()

    @property
    def position(self) -> int:
        return self._positions.position

    @property
    def ended(self) -> bool:
        return self._backlog.ended

    def mark(self, position: int) -> dict[str, Any]:
        self._take_in_partitions()
        offsets = {str(partition): offset for partition, offset in self._positions.at(position).items()}
        ends = {"ends": {str(partition): end for partition, end in self._stops.items()}} if self._stop_at_end else {}
        return {"offsets": offsets, "started_unix_s": self._started_unix_s, **ends}

    def notices(self) -> list[str]:
        return [self._notices.popleft() for _ in range(len(self._notices))]

    def commit(self, position: int) -> None:
        self._backlog.check()
        if self._fetcher is not None:
            self._fetcher.commit(self._positions.at(position))
        self._positions.forget(position)

    def close(self) -> None:
        if self._fetcher is not None:
            self._fetcher.close()
        elif self._client is not None:
            self._client.close()
        self._fetcher = self._client = None

    def _opened(self) -> Fetcher:
        if self._fetcher is None:
            raise RunError("the stream is not open")
        return self._fetcher

    def _expect(self, ranges: Mapping[int, tuple[int, int]], mark: Mapping[str, Any]) -> None:
        known = mark.get("offsets", {})
        if gone := [partition for partition in known if int(partition) not in ranges]:
            raise ConfigError(
                f"{self._address}: partition {gone[0]} is in the checkpoint, and the topic has {len(ranges)}, counted "
                "from 0: it was made anew; start a new run"
            )

    def _bounded(self, ranges: Mapping[int, tuple[int, int]], mark: Mapping[str, Any]) -> dict[int, tuple[int, int]]:
        """Return what is to be read of each partition: up to where it ended when the stream was first opened."""
        ends = mark.get("ends") or {str(partition): high for partition, (_, high) in ranges.items()}
        self._stops = {int(partition): end for partition, end in ends.items()}
        return {partition: (ranges[partition][0], end) for partition, end in self._stops.items()}

    def _starts(
        self, ranges: Mapping[int, tuple[int, int]], position: int, mark: Mapping[str, Any] | None
    ) -> dict[int, int]:
        """Return the offset to begin at in each partition; partitions that are new since then begin at their oldest."""
        now = not mark and self._address.begin == "now"
        starts = {partition: high if now else low for partition, (low, high) in ranges.items()}
        if mark:
            known = {int(partition): offset for partition, offset in mark["offsets"].items()}
            if new := starts.keys() - known.keys():
                self._notices.append(
                    f"{self._address}: the topic has {len(starts)} partitions now, {len(starts) - len(new)} at the "
                    "checkpoint: the new ones are read from their beginning"
                )
            return starts | known
        if position and len(starts) > 1:
            raise ConfigError(
                f"{self._address}: a position in {len(starts)} partitions needs the mark that goes with it"
            )
        return dict.fromkeys(starts, position) if position else starts

    def _take_in_partitions(self) -> None:
        """Let the position know of partitions that have appeared."""
        for partition, offset in self._backlog.joined().items():
            self._positions = self._positions.joined(partition, offset)
            self._began[partition] = offset

    def _on_commit(self, error: Any, partitions: Any) -> None:
        if self._fetcher is not None:
            self._fetcher.committed(error, partitions)

    def _times(self, messages: list[Any]) -> np.ndarray:
        stamps = np.fromiter([ms for _, ms in map(Message.timestamp, messages)], np.float64, len(messages)) / 1000.0
        if len(stamps) and stamps.min() <= 0:
            stamps[stamps <= 0] = unix_seconds()
        return stamps - (self._started_unix_s or 0.0)


def _positions(position: int, starts: Mapping[int, int]) -> StreamPositions:
    return ManyPartitions(position, starts) if len(starts) > 1 else OnePartition(*next(iter(starts.items())))


def _offsets(messages: Sequence[Any]) -> np.ndarray:
    """Return the offsets of messages of one partition, which mostly follow each other without a gap."""
    first, last = messages[0].offset(), messages[-1].offset()
    if last - first == len(messages) - 1:
        return np.arange(first, last + 1, dtype=np.int64)
    return np.fromiter(map(Message.offset, messages), np.int64, len(messages))
