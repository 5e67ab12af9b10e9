"""Streams that go back while they are open, at a real broker."""

import random
from contextlib import closing

import pytest
from confluent_kafka import TopicPartition

from kafka_tools import Cluster, drain, kafka_source, numbers_of
from mqtt_tools import until
from scadles.streams.kafka import growth

pytestmark = pytest.mark.timeout(240)


@pytest.fixture(scope="module")
def cluster(kafka_broker):
    return Cluster(kafka_broker.address)


@pytest.mark.parametrize("partitions", [1, 3])
def test_records_are_the_same_however_often_it_goes_back_while_more_are_written(cluster, partitions):
    luck, total = random.Random(partitions), 6000
    topic = cluster.new_topic(partitions=partitions)
    cluster.write(topic, range(1000), partitions)
    seen, marks = [], {}
    with closing(kafka_source(cluster.servers, topic)) as source:
        source.open(0)
        for first in range(1000, total, 1000):
            for _ in range(10):
                marks[source.position] = source.mark(source.position)
                kept = len(seen)
                seen += numbers_of([source.poll(luck.randint(1, 150), luck.random())])
                if luck.random() < 0.7:
                    position = luck.choice([at for at in marks if at <= kept])
                    assert source.rewind(position, marks[position])
                    assert source.position == position
                    del seen[position:]
                    marks = {at: mark for at, mark in marks.items() if at <= position}
            cluster.write(topic, range(first, first + 1000), partitions)
        seen += numbers_of(drain(source, total - len(seen)))
        assert (source.position, source.lag()) == (total, 0)
    assert sorted(seen) == list(range(total))
    for partition in range(partitions):
        assert [n for n in seen if n % partitions == partition] == list(range(partition, total, partitions))


def test_without_a_mark_it_goes_back_to_where_it_began(cluster):
    topic = cluster.new_topic()
    cluster.write(topic, range(30))
    with closing(kafka_source(cluster.servers, topic, "from=now")) as source:
        source.open(0)
        cluster.write(topic, range(30, 50))
        drain(source, 20)
        source.commit(45)
        assert source.rewind(0, {})
        assert (source.position, numbers_of(drain(source, 20))) == (30, list(range(30, 50)))


def test_what_retention_took_meanwhile_is_lost_and_counted(cluster):
    topic = cluster.new_topic()
    cluster.write(topic, range(100))
    with closing(kafka_source(cluster.servers, topic)) as source:
        source.open(0)
        drain(source, 80)
        for deleted in cluster.admin.delete_records([TopicPartition(topic, 0, 70)]).values():
            deleted.result(30)
        assert source.rewind(25, source.mark(25))
        parts = drain(source, 30)
        assert (numbers_of(parts), sum(records.lost for records in parts)) == (list(range(70, 100)), 45)
        assert source.position == 100


def test_partitions_that_came_meanwhile_are_read_from_their_beginning(cluster, monkeypatch):
    monkeypatch.setattr(growth, "LOOK_S", 0.2)
    topic = cluster.new_topic()
    cluster.write(topic, range(50))
    with closing(kafka_source(cluster.servers, topic)) as source:
        source.open(0)
        drain(source, 40)
        mark = source.mark(20)
        cluster.grow(topic, 3)
        cluster.write(topic, range(50, 100), partitions=3)
        until(lambda: source.lag() == 60, "lag of all partitions")
        drain(source, 30)
        assert source.rewind(20, mark)
        assert sorted(numbers_of(drain(source, 80))) == list(range(20, 100))
        assert (source.position, source.lag()) == (100, 0)


def test_a_stream_that_has_ended_goes_back_and_ends_again(cluster):
    topic = cluster.new_topic(partitions=2)
    cluster.write(topic, range(60), partitions=2)
    with closing(kafka_source(cluster.servers, topic, stop_at_end=True)) as source:
        source.open(0)
        kept = numbers_of(drain(source, 20))
        mark = source.mark(20)
        drain(source, 40)
        assert source.ended
        assert source.rewind(20, mark)
        assert not source.ended
        assert sorted(kept + numbers_of(drain(source, 40))) == list(range(60))
        assert source.ended


def test_it_goes_back_while_the_broker_is_away(fragile_kafka_broker):
    broker = fragile_kafka_broker
    cluster = Cluster(broker.address)
    topic = cluster.new_topic()
    cluster.write(topic, range(100))
    with closing(kafka_source(broker.address, topic)) as source:
        source.open(0)
        drain(source, 60)
        broker.kill()
        assert source.rewind(25, source.mark(25))
        until(lambda: len(source.poll(1, 0.2)) == 0 and "no answer" in " ".join(source.notices()), "word of the outage")
        broker.start()
        assert numbers_of(drain(source, 75, timeout_s=60.0)) == list(range(25, 100))
