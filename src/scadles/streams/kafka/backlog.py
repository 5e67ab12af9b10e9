"""What has come from a topic and is not polled yet: where the thread that fetches meets the one that polls.

It knows offsets and nothing of the client: messages are whatever has an ``offset()`` and a length.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping, Sequence
from threading import Condition, Lock
from typing import Any

from scadles.clock import wall_seconds
from scadles.errors import ScadlesError
from scadles.streams.kafka.fetched import Passed, Run
from scadles.streams.kafka.shares import shares

#: Messages and bytes of their values that wait here at most; more stays in the client's queue, then at the broker.
MAX_MESSAGES = 8192
MAX_BYTES = 32 * 2**20
_LOOK_AGAIN_S = 0.05
#: What lies this much further on is not read and thrown away, but jumped to.
_FAR = 2000


class Backlog:
    """A bounded queue of what was fetched, with the offsets of each partition.

    For each partition ``handed <= fetched <= end``: what lies before ``handed`` was polled or passed over, what lies
    before ``fetched`` waits here, what lies before ``end`` waits at the broker, as far as anybody has heard.

    Args:
        starts: offset of each partition to begin at.
        ends: offset behind the last record of each.
    """

    def __init__(self, starts: Mapping[int, int], ends: Mapping[int, int]) -> None:
        self._lock = Lock()
        self._arrived = Condition(self._lock)
        self._freed = Condition(self._lock)
        self._wanted = 0
        self._queue: deque[Run | Passed] = deque()
        self._handed = dict(starts)
        self._fetched = dict(starts)
        self._ends = {partition: max(end, starts[partition]) for partition, end in ends.items()}
        self._joined: dict[int, int] = {}
        self._messages = self._bytes = 0
        self._largest = 1
        self._far = False
        self._error: ScadlesError | None = None

    def join(self, starts: Mapping[int, int], ends: Mapping[int, int]) -> None:
        """Add partitions that have appeared, with their offsets as at the beginning."""
        with self._lock:
            self._handed |= starts
            self._fetched |= starts
            self._ends |= {partition: max(end, starts[partition]) for partition, end in ends.items()}
            self._joined |= starts

    def rewind(self, starts: Mapping[int, int]) -> None:
        """Begin again at an offset of each partition, but for those that :meth:`joined` has not returned yet."""
        with self._lock:
            self._queue.clear()
            self._messages = self._bytes = 0
            self._handed = {**starts, **self._joined}
            self._fetched = dict(self._handed)

    def joined(self) -> dict[int, int]:
        """Return, once, the partitions that were added and the offset at which each begins."""
        with self._lock:
            joined, self._joined = self._joined, {}
            return joined

    def room(self) -> int:
        """Return how many messages may be fetched now; their size is guessed from the largest one so far."""
        with self._lock:
            return self._room()

    def wait_for_room(self, timeout_s: float) -> None:
        """Wait until something was polled."""
        with self._lock:
            self._freed.wait(timeout_s)

    def add(self, partition: int, messages: Sequence[Any]) -> None:
        """Append messages of one partition; those that were passed over meanwhile are left out."""
        with self._lock:
            fetched = self._fetched[partition]
            if messages[0].offset() < fetched:
                messages = [message for message in messages if message.offset() >= fetched]
            if not messages:
                return
            sizes = list(map(len, messages))
            self._queue.append(Run(partition, messages))
            self._messages += len(messages)
            self._bytes += sum(sizes)
            self._largest = max(self._largest, max(sizes))
            self._reach(partition, messages[-1].offset() + 1)

    def leap(self, partition: int, offset: int, *, lost: bool) -> None:
        """Take note that the next message comes from ``offset`` on: what lies before is lost, or never was a record."""
        with self._lock:
            count = offset - self._fetched[partition]
            if count > 0:
                self._queue.append(Passed(partition, offset, count if lost else 0))
                self._reach(partition, offset)

    def heard_of_end(self, partition: int, end: int) -> None:
        """Take note of the offset behind a partition's last record."""
        with self._lock:
            self._ends[partition] = max(end, self._ends[partition])

    def waits_at_broker(self) -> bool:
        """Whether something should be there to fetch."""
        with self._lock:
            return any(end > self._fetched[partition] for partition, end in self._ends.items())

    def fetched(self) -> dict[int, int]:
        """Return the offset to fetch next from each partition."""
        with self._lock:
            return dict(self._fetched)

    def to_fetch(self) -> dict[int, int]:
        """Return the same for the partitions from which something may come."""
        return self.fetched()

    @property
    def ended(self) -> bool:
        """Whether everything was handed out and nothing more will ever come."""
        return False

    def far(self) -> bool:
        """Return, once, whether the next message lies so far ahead that the client should jump there."""
        with self._lock:
            far, self._far = self._far, False
            return far

    def fail(self, error: ScadlesError) -> None:
        """Let every later call of the polling thread raise ``error``."""
        with self._lock:
            self._error = error
            self._arrived.notify()

    def check(self) -> None:
        """Raise what the fetching thread died of."""
        if self._error is not None:
            raise self._error

    def take(
        self, count: int, timeout_s: float, fetch: Callable[[int, float], bool] = lambda count, left_s: False
    ) -> list[Run | Passed]:
        """Return up to ``count`` messages, and what was passed before them, as soon as so many are there.

        Lost records come first or not at all: what follows them is for the next time.

        Args:
            count: at least 1.
            timeout_s: how long to wait for them.
            fetch: adds up to so many that come within some seconds; says no where another thread is at it.
        """
        deadline_s = wall_seconds() + timeout_s
        parts: list[Run | Passed] = []
        while True:
            with self._lock:
                self.check()
                count -= self._move(count, parts)
                self._freed.notify()
                left_s = deadline_s - wall_seconds()
                if count <= 0 or left_s <= 0 or self._stopped(parts) or (not self._queue and self._over()):
                    return parts
            if not fetch(count, left_s):
                self._wait_for(count, min(left_s, _LOOK_AGAIN_S))

    def lag(self) -> int:
        """Return how many offsets lie between what was handed out and the end of each partition, all together."""
        with self._lock:
            self.check()
            return sum(self._waiting().values())

    def skip(self, keep: int) -> list[Passed]:
        """Pass over all but the newest ``keep`` offsets, the same share of what waits in each partition.

        Returns:
            What was passed over. What waits here is counted message by message, what is still at the broker by offset.
        """
        with self._lock:
            self.check()
            waiting = self._waiting()
            if sum(waiting.values()) <= keep:
                return []
            kept = shares(keep, waiting)
            passed = [self._pass(partition, self._ends[partition] - kept[partition]) for partition in waiting]
            self._freed.notify()
            return [part for part in passed if part is not None]

    def _wait_for(self, count: int, timeout_s: float) -> None:
        with self._lock:
            if not self._queue:
                self._wanted = count
                self._arrived.wait(timeout_s)
                self._wanted = 0

    def _waiting(self) -> dict[int, int]:
        return {partition: self._ends[partition] - handed for partition, handed in self._handed.items()}

    def _reach(self, partition: int, offset: int) -> None:
        self._fetched[partition] = offset
        self._ends[partition] = max(self._ends[partition], offset)
        # a thread that is woken for every few messages, only to wait for more, costs both threads time
        if self._wanted and (
            self._messages >= self._wanted or self._room() <= 0 or isinstance(self._queue[-1], Passed)
        ):
            self._arrived.notify()

    def _room(self) -> int:
        room = min(MAX_MESSAGES - self._messages, (MAX_BYTES - self._bytes) // self._largest)
        return max(room, int(not self._queue))

    def _over(self) -> bool:
        """Whether nothing more will ever be fetched."""
        return False

    def _stopped(self, parts: list[Run | Passed]) -> bool:
        """Whether lost records are next and cannot come first any more."""
        return bool(self._queue) and any(isinstance(part, Run) for part in parts)

    def _move(self, count: int, parts: list[Run | Passed]) -> int:
        """Move up to ``count`` messages from the queue to ``parts``; return how many."""
        moved = 0
        while self._queue:
            item = self._queue[0]
            if isinstance(item, Passed):
                if item.records and any(isinstance(part, Run) for part in parts):
                    break
                self._queue.popleft()
                self._handed[item.partition] = item.end
                parts.append(item)
                continue
            if moved == count:
                break
            messages = item.messages[: count - moved]
            moved += len(messages)
            parts.append(self._hand_out(item, messages))
        return moved

    def _hand_out(self, item: Run, messages: Sequence[Any]) -> Run:
        if len(messages) == len(item.messages):
            self._queue.popleft()
        else:
            self._queue[0] = Run(item.partition, item.messages[len(messages) :])
        self._forget(messages)
        self._handed[item.partition] = messages[-1].offset() + 1
        return Run(item.partition, messages)

    def _forget(self, messages: Sequence[Any]) -> None:
        self._messages -= len(messages)
        self._bytes -= sum(map(len, messages))

    def _pass(self, partition: int, target: int) -> Passed | None:
        """Let ``target`` be the next offset of a partition."""
        if target <= self._handed[partition]:
            return None
        records = 0
        queue: deque[Run | Passed] = deque()
        for item in self._queue:
            if item.partition != partition:
                queue.append(item)
            elif isinstance(item, Passed):
                # lost records follow each other up to the end
                left = item._replace(records=min(item.records, max(0, item.end - target)))
                records += item.records - left.records
                if item.end > target:
                    queue.append(left)
            else:
                kept = [message for message in item.messages if message.offset() >= target]
                old = item.messages[: len(item.messages) - len(kept)]
                records += len(old)
                self._forget(old)
                if kept:
                    queue.append(Run(partition, kept))
        self._queue = queue
        ahead = target - self._fetched[partition]
        if ahead > 0:
            records += ahead
            self._far = self._far or ahead > _FAR
            self._fetched[partition] = target
        self._handed[partition] = target
        return Passed(partition, target, records)
