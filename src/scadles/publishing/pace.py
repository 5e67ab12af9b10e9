"""Records leave when they are due: deadlines, not pauses, so that no delay adds up."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from heapq import heapify, heapreplace

from scadles.clock import Clock
from scadles.errors import SourceError
from scadles.publishing.feed import Feed
from scadles.streams.producing import Producer

#: A record that leaves so long after it was due is counted as late.
LATE_S = 0.05
#: A sleep is not shorter than this: many records at high rates then share a wake-up.
TICK_S = 0.001
#: A sleep is not longer than this, so that acknowledgements and a wish to stop are seen.
NAP_S = 0.05
#: At the end, records that are late have so long to leave.
GRACE_S = 1.0
#: Whoever is stopped waits so long for acknowledgements.
PARTING_S = 5.0
#: A server that acknowledges nothing for so long, while records wait for it, is given up.
SILENCE_S = 60.0


@dataclass
class Line:
    """A stream on its way out.

    Attributes:
        feed: its records.
        producer: who sends them.
        topic: which of the producer's topics it is.
        late: records that left later than 50 ms after they were due.
        latest_s: by how much the latest one did.
    """

    feed: Feed
    producer: Producer
    topic: int
    late: int = field(default=0, init=False)
    latest_s: float = field(default=0.0, init=False)

    def has_sent(self, late_s: float) -> None:
        """Take note that the record at hand has left, and go on to the next."""
        if late_s > LATE_S:
            self.late += 1
        if late_s > self.latest_s:
            self.latest_s = late_s
        self.feed.advance()


class Pacer:
    """Sends the records of all lines, each when it is due, and those that are late at once.

    Args:
        lines: the streams; at least one.
        producers: those of the lines, each once.
        clock: stream time, running from 0.
        stopped: asked often whether to stop.
        look: called every 50 ms or so with the stream time, for whoever shows progress.
    """

    def __init__(
        self,
        lines: Sequence[Line],
        producers: Sequence[Producer],
        clock: Clock,
        stopped: Callable[[], bool],
        look: Callable[[float], None],
    ) -> None:
        self._lines = lines
        self._producers = producers
        self._clock = clock
        self._stopped = stopped
        self._look = look
        self._looked_s = self._heard_s = 0.0
        self._settled = 0

    def run(self, until_s: float) -> None:
        """Send every record that is due by ``until_s``; return early when stopped or when all streams have ended.

        Where records are so late that they have not left a second after ``until_s``, they never do.

        Raises:
            SourceError: no server acknowledged anything for 60 s while records waited for it.
        """
        queue = [(line.feed.due_s, number) for number, line in enumerate(self._lines)]
        heapify(queue)
        while (due_s := queue[0][0]) <= until_s and due_s < math.inf and not self._stopped():
            now_s = self._clock.now()
            if now_s > until_s + GRACE_S:
                return
            if due_s > now_s:
                self._rest(now_s, due_s - now_s)
            elif not self._send(queue, now_s):
                self._lines[queue[0][1]].producer.serve(TICK_S)
                self._rest(now_s, 0.0)
            elif now_s - self._looked_s > NAP_S:
                self._rest(now_s, 0.0)

    def drain(self) -> None:
        """Wait until every record that has left is acknowledged or given up; no longer than 5 s once stopped.

        Raises:
            SourceError: as for :meth:`run`.
        """
        started_s = now_s = self._clock.now()
        while any(producer.waiting() for producer in self._producers):
            if self._stopped() and now_s - started_s > PARTING_S:
                return
            self._rest(now_s, TICK_S)
            now_s = self._clock.now()

    def _send(self, queue: list[tuple[float, int]], now_s: float) -> bool:
        """Send the record that is due first, where its producer has room for it."""
        due_s, number = queue[0]
        line = self._lines[number]
        feed = line.feed
        if not line.producer.send(line.topic, feed.number, feed.key, feed.value):
            return False
        line.has_sent(now_s - due_s)
        heapreplace(queue, (feed.due_s, number))
        return True

    def _rest(self, now_s: float, pause_s: float) -> None:
        """Take acknowledgements, and sleep for ``pause_s`` or about that."""
        for producer in self._producers:
            producer.serve(0.0)
        if now_s - self._looked_s > NAP_S:
            self._looked_s = now_s
            self._watch(now_s)
            self._look(now_s)
        if pause_s > 0:
            self._clock.sleep(min(max(pause_s, TICK_S), NAP_S))

    def _watch(self, now_s: float) -> None:
        """Give up a server that does not answer any more."""
        waiting = sum(producer.waiting() for producer in self._producers)
        counts = [counted for producer in self._producers for counted in producer.counts]
        settled = sum(counted.acknowledged + counted.failed for counted in counts)
        if settled != self._settled or not waiting:
            self._settled, self._heard_s = settled, now_s
        elif now_s - self._heard_s > SILENCE_S:
            raise SourceError(
                f"{waiting:,} records wait, and none was acknowledged for {SILENCE_S:g} s: is the server still there?"
            )
