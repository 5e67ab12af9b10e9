"""Partitions that a topic gets while it is read, with a client that answers as it is told."""

from types import SimpleNamespace

import numpy as np
import pytest
from confluent_kafka import KafkaError, KafkaException

from scadles.streams import SourceURL
from scadles.streams.kafka import growth
from scadles.streams.kafka.address import KafkaAddress
from scadles.streams.kafka.backlog import Backlog
from scadles.streams.kafka.connection import Complaints
from scadles.streams.kafka.growth import Growth
from scadles.streams.kafka.positions import OnePartition


class Answers:
    """A client that knows a topic of ``partitions`` partitions, the n-th of which ends at n hundred."""

    def __init__(self, partitions):
        self.partitions, self.leaderless = partitions, set()

    def list_topics(self, topic, timeout):
        if self.partitions is None:
            raise KafkaException(KafkaError(KafkaError._TRANSPORT))
        return SimpleNamespace(
            topics={topic: SimpleNamespace(partitions=dict.fromkeys(range(self.partitions)), error=None)}
        )

    def get_watermark_offsets(self, partition, timeout):
        if partition.partition in self.leaderless:
            raise KafkaException(KafkaError(KafkaError.LEADER_NOT_AVAILABLE))
        return 0, 100 * partition.partition


@pytest.fixture
def at_once(monkeypatch):
    """Every look is due."""
    monkeypatch.setattr(growth, "LOOK_S", 0.0)
    monkeypatch.setattr(growth, "LOOK_AGAIN_S", 0.0)


def growth_of(client, known, query=""):
    address = KafkaAddress.of(SourceURL.parse(f"kafka://host:1/topic{query}"), Complaints(), group="g", client="c")
    said = []
    return Growth(client, address, known, said.append), said


def test_new_partitions_are_taken_in_once_and_told(at_once):
    client = Answers(1)
    looks, said = growth_of(client, 1)
    assert looks.look() == {}
    client.partitions = 3
    assert looks.look() == {1: 100, 2: 200}
    assert looks.look() == {}
    assert said == [
        "kafka://host:1/topic: the topic has 3 partitions now, 1 before: the new ones are read from their beginning"
    ]


def test_partitions_that_nobody_serves_yet_and_brokers_that_are_away_are_asked_again(at_once):
    client = Answers(3)
    looks, said = growth_of(client, 2)
    client.leaderless = {2}
    assert looks.look() == {}
    client.partitions = None
    assert looks.look() == {}
    assert said == []
    client.partitions, client.leaderless = 3, set()
    assert looks.look() == {2: 200}
    assert len(said) == 1


def test_a_topic_with_fewer_partitions_has_not_grown(at_once):
    client = Answers(1)
    looks, said = growth_of(client, 3)
    assert looks.look() == {}
    client.partitions = 3
    assert looks.look() == {}
    assert said == []


def test_an_address_that_names_partitions_is_told_of_others(at_once):
    client = Answers(2)
    looks, said = growth_of(client, 0, "?partitions=0,1")
    assert looks.look() == {}
    client.partitions = 4
    assert looks.look() == {}
    assert looks.look() == {}
    [notice] = said
    assert "topic: the topic has 4 partitions now, 2 before, and this device reads partitions=0,1" in notice


def test_a_look_is_rare():
    client = Answers(1)
    looks, _ = growth_of(client, 1)
    looks.look()
    client.partitions = 2
    assert looks.look() == {}


def test_joined_partitions_count_as_waiting_and_are_told_once():
    backlog = Backlog({0: 40}, {0: 50})
    backlog.join({1: 0, 2: 0}, {1: 7, 2: 0})
    assert backlog.lag() == 17
    assert backlog.fetched() == {0: 40, 1: 0, 2: 0}
    assert backlog.joined() == {1: 0, 2: 0}
    assert backlog.joined() == {}


def test_the_position_of_one_partition_goes_on_with_those_that_join_it():
    one = OnePartition(3, 100)
    one.of(3, np.arange(100, 105))
    positions = one.joined(4, 0).joined(5, 0)
    assert positions.position == 105
    assert positions.at(102) == {3: 102, 4: 0, 5: 0}
    assert positions.of(4, np.array([0, 1])).tolist() == [105, 106]
    assert positions.of(3, np.array([105])).tolist() == [107]
    assert positions.at(104) == {3: 104, 4: 0, 5: 0}
    assert positions.at(106) == {3: 105, 4: 1, 5: 0}
    assert positions.at(108) == {3: 106, 4: 2, 5: 0}
    positions.forget(106)
    assert positions.joined(6, 0).at(107) == {3: 105, 4: 2, 5: 0, 6: 0}
