"""Fetching: from the client's queue into ours, whatever the device is doing meanwhile.

Whoever polls fetches itself, because handing thousands of messages from one thread to another costs as much as fetching
them. While nobody polls, during a step or a checkpoint, a thread does it, and serves the client.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from itertools import groupby
from threading import Event, Lock, Thread
from typing import Any

from confluent_kafka import Consumer, KafkaError, KafkaException, Message, TopicPartition

from scadles.clock import wall_seconds
from scadles.errors import ScadlesError, SourceError
from scadles.streams.kafka.address import KafkaAddress
from scadles.streams.kafka.backlog import Backlog
from scadles.streams.kafka.connection import Complaints
from scadles.streams.kafka.growth import Growth
from scadles.streams.kafka.outage import Outage

_WAIT_S = 0.05
_IDLE_S = 0.05
_BULK = 1024
_GATHER_S = 0.005
_ASK_S = 1.0
_ASK_AGAIN_S = 0.5
_LAST_COMMIT_S = 5.0
_CUT_S = 10.0
_STUCK_S = 5.0
_OUT_OF_RANGE = (KafkaError._AUTO_OFFSET_RESET, KafkaError._LOG_TRUNCATION, KafkaError.OFFSET_OUT_OF_RANGE)
_REFUSED = (KafkaError.TOPIC_AUTHORIZATION_FAILED, KafkaError.GROUP_AUTHORIZATION_FAILED)


class Fetcher:
    """Fetches assigned partitions of a topic until it is closed.

    It belongs to no consumer group: nobody can take its partitions away, however long a step lasts. What goes wrong
    ends up in the backlog, where the polling thread meets it.

    Args:
        client: connected, without an assignment.
        address: of the topic.
        backlog: where messages go.
        complaints: what the client's threads say.
        say: told what a user should know.
        grows: whether to look for partitions that appear.
    """

    def __init__(
        self,
        client: Consumer,
        address: KafkaAddress,
        backlog: Backlog,
        complaints: Complaints,
        say: Callable[[str], object],
        *,
        grows: bool = True,
    ) -> None:
        self._client = client
        self._stream = str(address)
        self._topic = address.topic
        self._say = say
        self._backlog = backlog
        self._partitions = list(backlog.fetched())
        self._complaints = complaints
        known = len(self._partitions) if address.partitions is None else 0
        self._growth = Growth(client, address, known, say) if grows else None
        self._outage = Outage(self._stream, address.patience_s, say)
        self._cut_s = min(_CUT_S, address.patience_s)
        self._ask_at_s = self._moved_at_s = wall_seconds()
        self._cut_since_s: float | None = None
        self._doubts = ""
        self._stalled = False
        self._commit: Mapping[int, int] | None = None
        self._committing = False
        self._turn = Lock()
        self._polled_at_s = wall_seconds()
        self._closing = Event()
        self._thread = Thread(target=self._run, name=f"fetching {address.topic}", daemon=True)

    def start(self) -> None:
        """Begin to fetch where the backlog begins."""
        self._assign()
        self._thread.start()

    def rewind(self, starts: Mapping[int, int]) -> None:
        """Fetch again from an offset of each partition on; what waits here is forgotten."""
        with self._turn:
            self._backlog.rewind(starts)
            self._try(self._assign)

    def fetch(self, count: int, timeout_s: float) -> bool:
        """Fetch up to ``count`` messages in the polling thread; return False where the other thread is at it.

        Args:
            count: at least 1.
            timeout_s: how long to wait for the first one.
        """
        self._polled_at_s = wall_seconds()
        if not self._turn.acquire(blocking=False):
            return False
        try:
            self._try(lambda: self._work(count, min(timeout_s, _WAIT_S)))
        finally:
            self._turn.release()
        self._polled_at_s = wall_seconds()
        return True

    def commit(self, offsets: Mapping[int, int]) -> None:
        """Let the brokers know how far this device has come, soon: lag tools want to know, ScaDLES does not."""
        self._commit = offsets

    def committed(self, error: KafkaError | None, partitions: Sequence[TopicPartition]) -> None:
        """Be told of a commit: this is the client's ``on_commit``."""
        self._committing = False
        error = error or next((part.error for part in partitions if part.error is not None), None)
        if error is not None:
            self._say(f"{self._stream}: lag tools see an old position, the new one was refused: {error.str()}")

    def close(self) -> None:
        """End the thread and the client."""
        self._closing.set()
        if self._thread.ident is not None:
            self._thread.join()
        self._client.close()

    def _run(self) -> None:
        while (
            not self._closing.is_set()
            and self._try(self._look_for_partitions)
            and self._try(self._work_where_nobody_polls)
        ):
            pass
        self._try(self._commit_for_the_last_time)

    def _try(self, work: Callable[[], object]) -> bool:
        """Do some work; what goes wrong is for the polling thread to raise."""
        try:
            work()
        except ScadlesError as error:
            self._backlog.fail(error)
        except KafkaException as error:
            self._backlog.fail(SourceError(f"{self._stream}: {error.args[0].str()}"))
        except Exception as error:
            self._backlog.fail(SourceError(f"{self._stream}: fetching broke: {error!r}"))
            raise
        else:
            return True
        return False

    def _look_for_partitions(self) -> None:
        """Take in partitions that have appeared, from their first offset on; whoever polls does not wait for a look."""
        if self._growth is not None and (ends := self._growth.look()):
            with self._turn:
                self._backlog.join(dict.fromkeys(ends, 0), ends)
                self._partitions += ends
                self._assign()

    def _work_where_nobody_polls(self) -> None:
        since_s = wall_seconds() - self._polled_at_s
        if since_s < _IDLE_S:
            self._closing.wait(_IDLE_S - since_s)
            return
        with self._turn:
            self._work(_BULK, _WAIT_S)

    def _work(self, count: int, timeout_s: float) -> None:
        self._send_commit()
        if self._backlog.far():
            self._assign()
        room = min(count, _BULK, self._backlog.room())
        if room:
            messages = self._fetch(room, timeout_s)
            self._sort(messages)
            if messages:
                self._moved_at_s = wall_seconds()
                self._ask_at_s = self._moved_at_s if self._outage.going_on else self._ask_at_s
            self._hear_of_ends()
        else:
            self._backlog.wait_for_room(timeout_s)
        self._ask(room)

    def _fetch(self, room: int, timeout_s: float) -> list[Any]:
        """Wait for a first message, then a moment for those behind it: few at a time cost more."""
        first = self._client.poll(timeout_s)
        if first is None:
            return []
        return [first, *(self._client.consume(room - 1, _GATHER_S) if room > 1 else ())]

    def _sort(self, messages: list[Any]) -> None:
        """Put messages, and what the client says between them, where they belong."""
        if messages and len(self._partitions) == 1 and not any(map(Message.error, messages)):
            self._backlog.add(self._partitions[0], messages)
            return
        for (partition, good), run in groupby(messages, lambda one: (one.partition(), one.error() is None)):
            if good:
                self._backlog.add(partition, list(run))
            else:
                for message in run:
                    self._hear(message)

    def _hear(self, message: Any) -> None:
        error, partition = message.error(), message.partition()
        if error.code() == KafkaError._PARTITION_EOF:
            # control records of transactions at the end are none of ours
            self._backlog.leap(partition, message.offset(), lost=False)
        elif error.code() in _OUT_OF_RANGE:
            self._find_again(partition)
        elif error.code() in _REFUSED:
            raise SourceError(f"{self._stream}: {error.str()}")
        else:
            # the client may fetch no more from this partition, until it is told to
            self._doubts, self._stalled = error.str(), True

    def _find_again(self, partition: int) -> None:
        """Go on where the log begins now: what was before is gone through retention."""
        try:
            low, high = self._ends(partition, _ASK_S)
        except KafkaException as error:
            self._doubts, self._stalled = error.args[0].str(), True
            return
        expected = self._backlog.fetched()[partition]
        if low > expected:
            self._say(
                f"{self._stream}: {low - expected:,} records of partition {partition} were deleted before they were "
                "read, and count as dropped: the retention of the topic is too short"
            )
            self._backlog.leap(partition, low, lost=True)
        elif expected > high:
            self._bear_with_cut_log(partition, expected, high)
        else:
            self._cut_since_s = None
        self._assign()

    def _bear_with_cut_log(self, partition: int, expected: int, high: int) -> None:
        """A broker that has just started may not know all its records yet; one that never will has lost them."""
        now_s = wall_seconds()
        self._cut_since_s = self._cut_since_s or now_s
        if now_s - self._cut_since_s > self._cut_s:
            raise SourceError(
                f"{self._stream}: partition {partition} was read up to offset {expected} and ends at {high}: the topic "
                "was made anew, or its newest records were lost at the broker; start a new run"
            )
        self._closing.wait(_ASK_AGAIN_S)

    def _assign(self) -> None:
        self._client.assign([TopicPartition(self._topic, *place) for place in self._backlog.to_fetch().items()])

    def _hear_of_ends(self) -> None:
        for partition in self._partitions:
            known = self._client.get_watermark_offsets(TopicPartition(self._topic, partition), cached=True)
            if known is not None and known[1] >= 0:
                self._backlog.heard_of_end(partition, known[1])

    def _ask(self, room: int) -> None:
        """Ask the brokers for the ends where the client does not hear of them by itself, and after bad news."""
        doubts = self._doubts or self._complaints.last
        silent = wall_seconds() - self._moved_at_s > _STUCK_S
        if (room and not doubts and not silent) or wall_seconds() < self._ask_at_s:
            return
        self._ask_at_s = wall_seconds() + _ASK_AGAIN_S
        try:
            for partition in self._partitions:
                self._backlog.heard_of_end(partition, self._ends(partition, _ASK_S)[1])
        except KafkaException as error:
            self._outage.unanswered(wall_seconds(), self._complaints.last or doubts or error.args[0].str())
        else:
            # a client that has lost its brokers, or a partition, may not fetch again by itself
            if self._stalled or self._outage.going_on or (silent and self._backlog.waits_at_broker()):
                self._assign()
            self._outage.answered(wall_seconds())
            self._doubts, self._stalled, self._moved_at_s = "", False, wall_seconds()
            self._complaints.last = ""

    def _ends(self, partition: int, timeout_s: float) -> tuple[int, int]:
        low, high = self._client.get_watermark_offsets(TopicPartition(self._topic, partition), timeout_s)
        return int(low), int(high)

    def _send_commit(self) -> None:
        if self._commit is not None and not self._committing and not self._outage.going_on:
            offsets, self._commit = self._commit, None
            self._committing = True
            self._client.commit(offsets=[TopicPartition(self._topic, *place) for place in offsets.items()])

    def _commit_for_the_last_time(self) -> None:
        deadline_s = wall_seconds() + _LAST_COMMIT_S
        while (self._commit or self._committing) and not self._outage.going_on and wall_seconds() < deadline_s:
            self._send_commit()
            self._client.poll(_WAIT_S)
