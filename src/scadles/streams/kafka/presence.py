"""Whether a cluster answers, and what it has of a topic."""

from __future__ import annotations

import difflib
from collections.abc import Iterable

from confluent_kafka import Consumer, KafkaException, Producer, TopicPartition

from scadles.clock import wall_seconds
from scadles.errors import ConfigError
from scadles.streams.kafka.address import KafkaAddress
from scadles.streams.kafka.connection import ANSWER_S, Complaints, ask_for_topics, client_options, created
from scadles.streams.registry import SourceURL

_NEW_TOPIC_S = 2.0
_ASK_S = 1.0


def is_there(servers: str, timeout_s: float) -> bool:
    """Return whether one of ``servers`` (``host:port,host:port``) answers a question within ``timeout_s``."""
    client = created(Producer, client_options(SourceURL.parse(f"kafka://{servers}"), (), Complaints()))
    try:
        client.list_topics(timeout=timeout_s)
    except KafkaException:
        return False
    return True


def find_topic(client: Consumer, address: KafkaAddress, complaints: Complaints) -> dict[int, tuple[int, int]]:
    """Return the oldest offset and the one behind the newest of each partition that an address names.

    Raises:
        ConfigError: nobody answers within 10 s, we are refused, or there is no such topic or partition.
    """
    deadline_s = wall_seconds() + ANSWER_S
    topics = ask_for_topics(client, address.servers, complaints)
    until_s = wall_seconds() + _NEW_TOPIC_S
    while address.topic not in topics and wall_seconds() < until_s:
        client.poll(0.1)
        topics = ask_for_topics(client, address.servers, complaints)
    if address.topic not in topics:
        raise ConfigError(f"kafka://{address.servers} has no topic {address.topic!r}{_similar(address.topic, topics)}")
    there = range(topics[address.topic])
    wanted = address.partitions if address.partitions is not None else tuple(there)
    if missing := [partition for partition in wanted if partition not in there]:
        raise ConfigError(f"{address}: partitions={missing[0]}: the topic has {len(there)}, counted from 0")
    until_s = max(deadline_s, wall_seconds() + _NEW_TOPIC_S)
    return {partition: _range(client, address, partition, until_s) for partition in wanted}


def _range(client: Consumer, address: KafkaAddress, partition: int, until_s: float) -> tuple[int, int]:
    while True:
        try:
            low, high = client.get_watermark_offsets(TopicPartition(address.topic, partition), _ASK_S)
        except KafkaException as error:
            if wall_seconds() > until_s:
                raise ConfigError(f"{address}: partition {partition}: {error.args[0].str()}") from None
            client.poll(0.1)
        else:
            return int(low), int(high)


def _similar(topic: str, topics: Iterable[str]) -> str:
    known = sorted(name for name in topics if not name.startswith("__"))
    if close := difflib.get_close_matches(topic, known, n=1):
        return f"; did you mean {close[0]}?"
    some = ", ".join(known[:8]) + (", ..." if len(known) > 8 else "")
    return f"; it has {some}" if known else "; it has none"
