"""Partitions that a topic gets while it is read."""

from __future__ import annotations

from collections.abc import Callable

from confluent_kafka import Consumer, KafkaException, TopicPartition

from scadles.clock import wall_seconds
from scadles.streams.kafka.address import KafkaAddress

#: Wall seconds between two looks, and until the next one where the brokers did not answer.
LOOK_S = 10.0
LOOK_AGAIN_S = 1.0
_ASK_S = 1.0


class Growth:
    """Looks now and then for partitions that were not there before.

    A topic that is read as a whole takes them in; where an address names its partitions, a notice says that there are
    more. Fewer partitions than before are no matter of growth: the topic was made anew, and reading it says so.

    Args:
        client: connected.
        address: of the topic.
        known: how many partitions there were at the beginning; 0 where nobody has counted them yet.
        say: told what a user should know.
    """

    def __init__(self, client: Consumer, address: KafkaAddress, known: int, say: Callable[[str], object]) -> None:
        self._client = client
        self._address = address
        self._known = known
        self._say = say
        self._look_at_s = wall_seconds()

    def look(self) -> dict[int, int]:
        """Return, where it is time for a look, the partitions to take in from now on, and the end of each.

        It asks for at most 1 s and one more for each new partition; brokers that do not answer are asked again.
        """
        if wall_seconds() < self._look_at_s:
            return {}
        self._look_at_s = wall_seconds() + LOOK_S
        try:
            there = self._count()
            if there <= self._known or not self._known or self._address.partitions is not None:
                self._note(there)
                return {}
            found = {partition: self._end(partition) for partition in range(self._known, there)}
        except KafkaException:  # also where a new partition has no leader yet
            self._look_at_s = wall_seconds() + LOOK_AGAIN_S
            return {}
        self._say(
            f"{self._address}: the topic has {there} partitions now, {self._known} before: the new ones are read from "
            "their beginning"
        )
        self._known = there
        return found

    def _note(self, there: int) -> None:
        if self._known and there > self._known:
            read = ",".join(map(str, self._address.partitions or ()))
            self._say(
                f"{self._address}: the topic has {there} partitions now, {self._known} before, and this device reads "
                f"partitions={read} as its address says: the new ones need a device that names them"
            )
        self._known = max(self._known, there)

    def _count(self) -> int:
        topic = self._client.list_topics(self._address.topic, timeout=_ASK_S).topics.get(self._address.topic)
        return len(topic.partitions) if topic is not None and topic.error is None else 0

    def _end(self, partition: int) -> int:
        _, end = self._client.get_watermark_offsets(TopicPartition(self._address.topic, partition), _ASK_S)
        return int(end)
