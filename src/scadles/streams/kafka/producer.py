"""Records into Kafka topics: idempotent, acknowledged by all replicas, every delivery counted."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from confluent_kafka import KafkaError, KafkaException, Message
from confluent_kafka import Producer as Client
from confluent_kafka.admin import AdminClient
from confluent_kafka.cimpl import NewTopic

from scadles.clock import Clock
from scadles.errors import ConfigError
from scadles.streams.kafka.connection import ANSWER_S, Complaints, ask_for_topics, client_options, created, servers_of
from scadles.streams.producing import Producer, Retention, Tally
from scadles.streams.registry import SourceURL

_OPTIONS: dict[str, Any] = {
    "enable.idempotence": True,
    "acks": "all",
    "linger.ms": 5,
    "queue.buffering.max.kbytes": 64 * 1024,
    "delivery.timeout.ms": 120_000,
}
#: A topic's oldest records go in whole segments, so that a short retention needs short segments.
_SEGMENTS = 4
_SMALLEST_SEGMENT = 2**20


class KafkaProducer(Producer):
    """One client for topics of one cluster.

    Args:
        topics: where records go; a topic of several partitions is filled by key, as Kafka's own clients do.
        options: of the client, ``bootstrap.servers`` among them; they stand over those of this class.
        clock: for the moments of acknowledgements.
        complaints: told by the client's ``error_cb``, if options say so.
    """

    def __init__(
        self, topics: Sequence[str], options: dict[str, Any], clock: Clock, complaints: Complaints | None = None
    ) -> None:
        self.tallies = [Tally() for _ in topics]
        self._topics = list(topics)
        self._options = _OPTIONS | options
        self._complaints = complaints or Complaints()
        self._servers = str(options["bootstrap.servers"])
        self._reports = [_report(tally, clock) for tally in self.tallies]
        self._client: Client | None = None

    def open(self, create: Retention | None) -> None:
        client = self._client = created(Client, self._options)
        there = ask_for_topics(client, self._servers, self._complaints)
        missing = [topic for topic in dict.fromkeys(self._topics) if topic not in there]
        if missing and create is None:
            others = f" and {len(missing) - 1} more" if len(missing) > 1 else ""
            raise ConfigError(
                f"kafka://{self._servers} has no topic {missing[0]!r}{others}: make it, or publish with --create-topics"
            )
        if missing and create is not None:
            self._create(missing, create)

    def send(self, topic: int, number: int, key: bytes | None, value: bytes) -> bool:
        del number
        client = self._client
        if client is None:
            return False
        try:
            client.produce(self._topics[topic], value, key, on_delivery=self._reports[topic])
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

    def _create(self, topics: Sequence[str], retention: Retention) -> None:
        admin = AdminClient({name: self._options[name] for name in self._options if name not in _OPTIONS})
        config = topic_settings(retention)
        wishes = [NewTopic(topic, num_partitions=1, replication_factor=-1, config=config) for topic in topics]
        for topic, made in admin.create_topics(wishes, operation_timeout=ANSWER_S, request_timeout=ANSWER_S).items():
            try:
                made.result(ANSWER_S)
            except KafkaException as error:
                if error.args[0].code() != KafkaError.TOPIC_ALREADY_EXISTS:
                    raise ConfigError(f"cannot create the topic {topic!r}: {error.args[0].str()}") from None


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


def _report(tally: Tally, clock: Clock) -> Callable[[KafkaError | None, Message], None]:
    """Return the function that is told of each record of a topic what became of it."""

    def report(error: KafkaError | None, message: Message) -> None:
        del message
        if error is None:
            tally.acknowledged += 1
            tally.last_s = clock.now()
        else:
            tally.failed += 1
            tally.problem = error.str()

    return report


def producer_from_urls(urls: Sequence[SourceURL], *, clock: Clock, **_: Any) -> KafkaProducer:
    """Return the producer of ``kafka://host:port/topic?...`` for some topics of one cluster.

    Parameters with a dot in their name are librdkafka's; those that say how to read are passed over.

    Raises:
        ConfigError: no topic, or a parameter that cannot work.
    """
    complaints = Complaints()
    for url in urls:
        if not url.path or "/" in url.path:
            raise ConfigError(f"kafka://{servers_of(url)}/{url.path}: write kafka://host:port/topic, with one topic")
    options = client_options(urls[0], (*urls[0].query,), complaints)
    return KafkaProducer([url.path for url in urls], options, clock, complaints)
