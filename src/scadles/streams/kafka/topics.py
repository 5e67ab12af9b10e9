"""The topics of a cluster from outside: make them, remove them, and look how far they have come."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from confluent_kafka import KafkaError, KafkaException, TopicPartition
from confluent_kafka.admin import AdminClient
from confluent_kafka.admin._listoffsets import OffsetSpec
from confluent_kafka.cimpl import NewTopic

from scadles.clock import WallClock, wall_seconds
from scadles.errors import ConfigError, SourceError
from scadles.streams.kafka.connection import ANSWER_S, Complaints, ask_for_topics, client_options, created
from scadles.streams.producing import Retention
from scadles.streams.registry import SourceURL

#: A topic's oldest records go in whole segments, so that a short retention needs short segments.
_SEGMENTS = 4
_SMALLEST_SEGMENT = 2**20
_PAUSE_S = 0.1


class Topics:
    """All topics of one cluster.

    Args:
        servers: ``host:port,host:port``, perhaps with parameters, ``host:port?security.protocol=ssl``.

    Raises:
        ConfigError: nobody answers within 15 s, or we are refused.
    """

    def __init__(self, servers: str) -> None:
        url = SourceURL.parse(f"kafka://{servers}")
        complaints = Complaints()
        self._admin: AdminClient = created(AdminClient, client_options(url, url.query, complaints))
        ask_for_topics(self._admin, url.netloc, complaints)

    def create(self, topics: Sequence[str], retention: Retention) -> None:
        """Make topics of one partition, and wait until they can be used."""
        create_topics(self._admin, dict.fromkeys(topics, 1), retention)
        deadline_s = wall_seconds() + ANSWER_S
        while missing := self._leaderless(topics):
            if wall_seconds() > deadline_s:
                raise ConfigError(f"the topic {missing[0]!r} was made, and is not there after {ANSWER_S:g} s")
            WallClock().sleep(_PAUSE_S)

    def delete(self, topics: Sequence[str]) -> None:
        """Remove topics with all that is in them; one that is not there is no error."""
        _settle(
            self._admin.delete_topics(list(topics), operation_timeout=ANSWER_S, request_timeout=ANSWER_S),
            "delete the topic",
            KafkaError.UNKNOWN_TOPIC_OR_PART,
        )

    def ends(self, topics: Sequence[str]) -> np.ndarray:
        """Return the offset that the next record of each topic's first partition will have, int64 ``[topics]``.

        Raises:
            SourceError: the cluster does not answer, or has no such topic.
        """
        newest: OffsetSpec = OffsetSpec.latest()  # type: ignore[no-untyped-call]
        wishes = {TopicPartition(topic, 0): newest for topic in topics}
        deadline_s = wall_seconds() + ANSWER_S
        while True:
            try:
                found = self._admin.list_offsets(wishes, request_timeout=ANSWER_S)
                ends = {partition.topic: future.result().offset for partition, future in found.items()}
            except KafkaException as error:  # such as: not leader for the partition, soon after it was made
                if wall_seconds() > deadline_s:
                    raise SourceError(f"cannot look how far topics have come: {error.args[0].str()}") from None
                WallClock().sleep(_PAUSE_S)
            else:
                return np.array([ends[topic] for topic in topics], dtype=np.int64)

    def _leaderless(self, topics: Sequence[str]) -> list[str]:
        """Return the topics that no broker serves yet; asking for their ends too early would be remembered as a no."""
        known = self._admin.list_topics(timeout=ANSWER_S).topics
        return [topic for topic in topics if topic not in known or known[topic].partitions[0].leader < 0]


def create_topics(admin: AdminClient, partitions: Mapping[str, int], retention: Retention) -> None:
    """Make topics of so many partitions each; one that is there already is no error.

    Raises:
        ConfigError: the cluster refuses.
    """
    config = topic_settings(retention)
    wishes = [NewTopic(name, num_partitions=count, config=config) for name, count in partitions.items()]
    _settle(
        admin.create_topics(wishes, operation_timeout=ANSWER_S, request_timeout=ANSWER_S),
        "create the topic",
        KafkaError.TOPIC_ALREADY_EXISTS,
    )


def topic_settings(retention: Retention) -> dict[str, str]:
    """Return a topic's settings for a retention.

    >>> topic_settings(Retention(seconds=60))
    {'retention.ms': '60000', 'segment.ms': '15000'}
    """
    settings: dict[str, int] = {}
    if retention.seconds is not None:
        settings["retention.ms"] = max(1, round(retention.seconds * 1000))
        settings["segment.ms"] = max(1, settings["retention.ms"] // _SEGMENTS)
    if retention.megabytes is not None:
        settings["retention.bytes"] = round(retention.megabytes * 1e6)
        settings["segment.bytes"] = max(_SMALLEST_SEGMENT, settings["retention.bytes"] // _SEGMENTS)
    return {name: str(value) for name, value in settings.items()}


def _settle(wishes: Mapping[str, Any], what: str, harmless: int) -> None:
    """Wait until the cluster has done everything that was asked for."""
    for topic, wish in wishes.items():
        try:
            wish.result(2 * ANSWER_S)
        except KafkaException as error:
            if error.args[0].code() != harmless:
                raise ConfigError(f"cannot {what} {topic!r}: {error.args[0].str()}") from None
