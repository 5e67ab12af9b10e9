"""Records into Kafka topics: idempotent, acknowledged by all replicas, every delivery counted."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from confluent_kafka import KafkaError, KafkaException, Message
from confluent_kafka import Producer as Client
from confluent_kafka.admin import AdminClient

from scadles.clock import Clock
from scadles.errors import ConfigError
from scadles.streams.kafka.address import KafkaAddress
from scadles.streams.kafka.connection import Complaints, ask_for_topics, client_options, created
from scadles.streams.kafka.topics import create_topics
from scadles.streams.producing import DeliveryCounts, Producer, Retention
from scadles.streams.registry import SourceURL

_OPTIONS: dict[str, Any] = {
    "enable.idempotence": True,
    "acks": "all",
    # with more, a first batch that a new partition's leader is not ready for is overtaken by the second; its retry then
    # looks like a duplicate, and counts as delivered although it is lost
    "max.in.flight": 1,
    "linger.ms": 5,
    "queue.buffering.max.kbytes": 64 * 1024,
    "delivery.timeout.ms": 120_000,
}


class KafkaProducer(Producer):
    """One client for topics of one cluster.

    Args:
        topics: where records go.
        partitions: which of the partitions of each topic take turns; None for all there are.
        options: of the client, ``bootstrap.servers`` among them; they stand over those of this class.
        clock: for the moments of acknowledgements.
        complaints: what the client's ``error_cb`` tells, as options say.
    """

    def __init__(
        self,
        topics: Sequence[str],
        partitions: Sequence[tuple[int, ...] | None],
        options: dict[str, Any],
        clock: Clock,
        complaints: Complaints,
    ) -> None:
        self.counts = [DeliveryCounts() for _ in topics]
        self._topics = list(topics)
        self._wanted = list(partitions)
        self._partitions: list[tuple[int, ...]] = []
        self._options = _OPTIONS | options
        self._complaints = complaints
        self._servers = str(options["bootstrap.servers"])
        self._reports = [_report(counts, clock) for counts in self.counts]
        self._client: Client | None = None

    def open(self, create: Retention | None) -> None:
        client = self._client = created(Client, self._options)
        there = ask_for_topics(client, self._servers, self._complaints)
        needed = self._needed()
        missing = [topic for topic in needed if topic not in there]
        if missing and create is None:
            others = f" and {len(missing) - 1} more" if len(missing) > 1 else ""
            raise ConfigError(
                f"kafka://{self._servers} has no topic {missing[0]!r}{others}: make it, or publish with --create-topics"
            )
        for topic in needed:
            if there.get(topic, needed[topic]) < needed[topic]:
                raise ConfigError(
                    f"kafka://{self._servers}/{topic} has {there[topic]} partitions, no partition {needed[topic] - 1}"
                )
        if missing and create is not None:
            own = {name: value for name, value in self._options.items() if name not in _OPTIONS}
            create_topics(created(AdminClient, own), {topic: needed[topic] for topic in missing}, create)
        self._partitions = [
            wanted or tuple(range(there.get(topic, 1)))
            for topic, wanted in zip(self._topics, self._wanted, strict=True)
        ]

    def send(self, topic: int, number: int, key: bytes | None, value: bytes) -> bool:
        client = self._client
        if client is None:
            return False
        partitions = self._partitions[topic]
        partition = partitions[number % len(partitions)]
        try:
            client.produce(self._topics[topic], value, key, partition, self._reports[topic])
        except BufferError:
            return False
        except KafkaException as error:
            if error.args[0].code() == KafkaError.MSG_SIZE_TOO_LARGE:
                raise ConfigError(
                    f"a record of {len(value):,} bytes is too large for kafka://{self._servers}: raise "
                    "message.max.bytes, in the address (?message.max.bytes=...) and at the broker"
                ) from None
            raise ConfigError(f"kafka://{self._servers}: {error.args[0].str()}") from None
        return True

    def serve(self, timeout_s: float) -> None:
        if self._client is not None:
            self._client.poll(timeout_s)
            self._complaints.raise_refusal(self._servers)

    def waiting(self) -> int:
        return len(self._client) if self._client is not None else 0

    def close(self) -> None:
        if self._client is not None:
            self._client.purge()
            self._client.poll(0)
            self._client = None

    def _needed(self) -> dict[str, int]:
        """Return how many partitions each topic must have, by name."""
        needed: dict[str, int] = {}
        for topic, partitions in zip(self._topics, self._wanted, strict=True):
            needed[topic] = max(needed.get(topic, 0), max(partitions or (0,)) + 1)
        return needed


def _report(counts: DeliveryCounts, clock: Clock) -> Callable[[KafkaError | None, Message], None]:
    """Return the function that is told of each record of a topic what became of it."""

    def report(error: KafkaError | None, message: Message) -> None:
        del message
        if error is None:
            counts.acknowledged += 1
            counts.last_s = clock.now()
        else:
            counts.failed += 1
            counts.problem = error.str()

    return report


def producer_from_urls(urls: Sequence[SourceURL], *, clock: Clock, **_: Any) -> KafkaProducer:
    """Return the producer of ``kafka://host:port/topic?...`` for some topics of one cluster.

    Parameters with a dot in their name are librdkafka's, ``partitions`` says where records go (all take turns where
    it says nothing), those that say how to read are passed over.

    Raises:
        ConfigError: no topic, or a parameter that cannot work.
    """
    complaints = Complaints()
    topics = [KafkaAddress.of(url, complaints, group="", client="") for url in urls]
    options = client_options(urls[0], urls[0].query, complaints)
    return KafkaProducer(
        [topic.topic for topic in topics], [topic.partitions for topic in topics], options, clock, complaints
    )
