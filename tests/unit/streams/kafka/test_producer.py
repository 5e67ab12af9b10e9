"""The producer against librdkafka's own mock cluster."""

import confluent_kafka
import pytest

from scadles.clock import WallClock
from scadles.errors import ConfigError
from scadles.streams import SourceURL
from scadles.streams.kafka import connection
from scadles.streams.kafka.producer import producer_from_urls


@pytest.fixture
def cluster():
    """``host:port`` of a cluster with the topics one and two."""
    mock = confluent_kafka.Producer({"test.mock.num.brokers": 1, "log_level": 0})
    [broker] = mock.list_topics(timeout=10).brokers.values()
    for topic in ("one", "two"):
        mock.list_topics(topic, timeout=10)
    return_address = f"{broker.host}:{broker.port}"
    yield return_address
    del mock


def producer_of(cluster, *topics, options=""):
    urls = [SourceURL.parse(f"kafka://{cluster}/{topic}{options}") for topic in topics]
    return producer_from_urls(urls, clock=WallClock())


def settled(producer):
    while producer.waiting():
        producer.serve(0.1)


def records_of(cluster, topic, count):
    consumer = confluent_kafka.Consumer({"bootstrap.servers": cluster, "group.id": "test", "log_level": 0})
    consumer.assign([confluent_kafka.TopicPartition(topic, 0, 0)])
    messages = consumer.consume(count, 20)
    consumer.close()
    return [(message.key(), message.value()) for message in messages]


def test_records_arrive_in_order_and_are_counted_by_topic(cluster):
    producer = producer_of(cluster, "one", "two", options="?partitions=0")
    producer.open(None)
    for number in range(300):
        assert producer.send(number % 2, number, str(number % 10).encode(), b"%d" % number)
    settled(producer)
    assert [(counted.acknowledged, counted.failed) for counted in producer.counts] == [(150, 0), (150, 0)]
    assert all(counted.last_s > 0 for counted in producer.counts)
    producer.close()
    producer.close()
    assert records_of(cluster, "two", 150) == [(str(n % 10).encode(), b"%d" % n) for n in range(1, 300, 2)]


def test_a_topic_of_several_partitions_is_filled_in_turn(cluster):
    producer = producer_of(cluster, "one")
    producer.open(None)
    for number in range(8):
        producer.send(0, number, None, b"%d" % number)
    settled(producer)
    producer.close()
    partitions = len(
        confluent_kafka.Producer({"bootstrap.servers": cluster}).list_topics("one", 10).topics["one"].partitions
    )
    assert records_of(cluster, "one", 8 // partitions) == [(None, b"%d" % n) for n in range(0, 8, partitions)]


def test_a_topic_that_is_not_there_is_named_with_the_way_out(cluster):
    with pytest.raises(ConfigError, match=r"has no topic 'three' and 1 more: make it, or publish with --create-topics"):
        producer_of(cluster, "one", "three", "four").open(None)


def test_a_partition_that_is_not_there_is_named(cluster):
    with pytest.raises(ConfigError, match=r"one has \d+ partitions, no partition 99"):
        producer_of(cluster, "one", options="?partitions=99").open(None)


def test_nobody_there_is_said_in_one_line(monkeypatch):
    monkeypatch.setattr(connection, "ANSWER_S", 1.5)
    with pytest.raises(ConfigError, match=r"kafka://127.0.0.1:1: no answer within 1.5 s .*Connection refused"):
        producer_of("127.0.0.1:1", "one").open(None)


def test_a_full_queue_takes_no_more_until_it_is_served(cluster):
    producer = producer_of(cluster, "one", options="?queue.buffering.max.messages=10&linger.ms=2000")
    producer.open(None)
    sent = [producer.send(0, number, None, b"x") for number in range(30)]
    assert sent == [True] * 10 + [False] * 20
    settled(producer)
    assert producer.send(0, 30, None, b"x")
    producer.close()


def test_a_record_that_is_too_large_is_refused(cluster):
    producer = producer_of(cluster, "one")
    producer.open(None)
    with pytest.raises(ConfigError, match=r"a record of 2,000,000 bytes is too large .*message.max.bytes"):
        producer.send(0, 0, None, bytes(2_000_000))
    producer.close()


def test_what_the_broker_does_not_take_is_counted_as_failed(cluster):
    producer = producer_of(cluster, "one", options="?delivery.timeout.ms=1000&request.timeout.ms=900&linger.ms=900")
    producer.open(None)
    producer.send(0, 0, None, b"x")
    producer._client.purge()
    settled(producer)
    assert (producer.counts[0].acknowledged, producer.counts[0].failed) == (0, 1)
    assert "purged" in producer.counts[0].problem.lower()
    producer.close()
