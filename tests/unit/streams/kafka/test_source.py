"""The source over the cluster that librdkafka imitates inside its own client: no broker, no Java, a few seconds.

tests/external has the same and more over a real one.
"""

from contextlib import closing

import pytest
import torch
from confluent_kafka import Producer

from kafka_tools import CODEC, EPOCH_S, drain, kafka_source, numbers_of
from scadles.errors import ConfigError, SourceError
from scadles.streams.quarantine import Quarantine
from scadles.testing import SOURCE_CHECKS


def imitated():
    """A cluster that lives as long as the producer that is returned, and its address."""
    producer = Producer({"test.mock.num.brokers": 1, "log_level": 0})
    [broker] = producer.list_topics(timeout=30).brokers.values()
    return producer, f"{broker.host}:{broker.port}"


def write(producer, topic, numbers):
    for number in numbers:
        key, value = CODEC.encode(torch.tensor([float(number)]), number % 10)
        producer.produce(topic, value, key, partition=0, timestamp=EPOCH_S * 1000 + 10 * number)
    assert producer.flush(30) == 0


@pytest.fixture(scope="module")
def numbers():
    """The address of a cluster with two hundred records in the topic ``numbers``."""
    producer, servers = imitated()
    write(producer, "numbers", range(200))
    yield servers
    del producer


@pytest.mark.parametrize("check", SOURCE_CHECKS, ids=lambda check: check.__name__)
def test_the_contract(numbers, check):
    check(lambda clock: kafka_source(numbers, "numbers", "partitions=0"))


def test_what_cannot_be_read_is_rejected_with_its_offset_and_kept_for_a_look(tmp_path):
    producer, servers = imitated()
    write(producer, "mixed", range(5))
    producer.produce("mixed", b"cut", b"3", partition=0)
    producer.produce("mixed", None, b"3", partition=0)
    write(producer, "mixed", range(7, 10))
    quarantine = Quarantine(tmp_path / "quarantine.jsonl", 1.0, 0)
    with closing(kafka_source(servers, "mixed", "partitions=0", quarantine=quarantine)) as source:
        source.open(0)
        parts = [source.poll(10, 20.0)]
        assert numbers_of(parts) == [0, 1, 2, 3, 4, 7, 8, 9]
        assert parts[0].offsets.tolist() == [0, 1, 2, 3, 4, 7, 8, 9]
        assert [record.offset for record in parts[0].rejected] == [5, 6]
    assert len((tmp_path / "quarantine.jsonl").read_text().splitlines()) == 2


def test_a_cluster_that_goes_away_is_asked_again_and_then_given_up():
    producer, servers = imitated()
    write(producer, "numbers", range(20))
    with closing(kafka_source(servers, "numbers", "partitions=0&patience_s=1")) as source:
        source.open(0)
        drain(source, 20)
        del producer
        with pytest.raises(SourceError, match=r"no answer for \d+ s, \d+ times asked"):
            source.poll(1, 60.0)
        with pytest.raises(SourceError, match="resume"):
            source.commit(20)


def test_a_topic_that_is_not_there_is_told_with_those_that_are(numbers):
    with (
        closing(kafka_source(numbers, "numbres")) as source,
        pytest.raises(ConfigError, match=r"has no topic 'numbres'; did you mean numbers\?"),
    ):
        source.open(0)


def test_an_option_that_the_client_does_not_know_is_told(numbers):
    with (
        closing(kafka_source(numbers, "numbers", "fetch.speed=fast")) as source,
        pytest.raises(ConfigError, match=r"fetch\.speed"),
    ):
        source.open(0)
