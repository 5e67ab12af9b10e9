"""The source over a real broker: the contract, the broker's own offsets, retention, transactions, partitions."""

import time
from contextlib import closing

import numpy as np
import pytest
from confluent_kafka import Producer, TopicPartition

from kafka_tools import EPOCH_S, Cluster, drain, kafka_source, numbers_of
from live_streams import refusal
from scadles.errors import SourceError
from scadles.testing import SOURCE_CHECKS
from scadles.testing.brokers.process import free_port

SMALL_QUEUE = "queued.min.messages=1000&fetch.message.max.bytes=20000"

# Which of several partitions is read first is chance, so that a position may be another record the next time.
ANY_ORDER = [
    check
    for check in SOURCE_CHECKS
    if check.__name__
    not in ("resuming_brings_the_same_records", "skip_keeps_the_newest", "poll_in_pieces_changes_nothing",
            "resuming_before_what_was_polled_brings_it_again", "rewinding_brings_the_same_records",
            "records_come_in_order")
]  # fmt: skip


@pytest.fixture(scope="module")
def cluster(kafka_broker):
    return Cluster(kafka_broker.address)


@pytest.fixture(scope="module")
def numbers(cluster):
    """Two hundred records in one partition, which nobody adds to."""
    topic = cluster.new_topic()
    cluster.write(topic, range(200))
    return topic


@pytest.fixture(scope="module")
def numbers_in_three(cluster):
    topic = cluster.new_topic(partitions=3)
    cluster.write(topic, range(200), partitions=3)
    return topic


@pytest.mark.parametrize("check", SOURCE_CHECKS, ids=lambda check: check.__name__)
def test_one_partition_keeps_the_contract(cluster, numbers, check):
    check(lambda clock: kafka_source(cluster.servers, numbers))


@pytest.mark.parametrize("check", ANY_ORDER, ids=lambda check: check.__name__)
def test_three_partitions_keep_the_contract(cluster, numbers_in_three, check):
    check(lambda clock: kafka_source(cluster.servers, numbers_in_three))


def test_positions_are_the_brokers_offsets_and_times_its_timestamps(cluster, numbers):
    with closing(kafka_source(cluster.servers, numbers, started_unix_s=EPOCH_S + 1)) as source:
        source.open(0)
        [records] = drain(source, 200)
        assert records.offsets.tolist() == list(range(200))
        assert numbers_of([records]) == list(range(200))
        assert records.y.tolist() == [number % 10 for number in range(200)]
        assert np.allclose(records.times, np.arange(200) * 0.01 - 1.0, atol=1e-3)
        assert (source.position, source.lag()) == (200, 0)


@pytest.mark.parametrize("nothing", [None, {}])  # {}: of a device that comes to a hub for the first time
def test_a_fresh_run_may_begin_with_what_comes_from_now_on(cluster, nothing):
    topic = cluster.new_topic()
    cluster.write(topic, range(30))
    with closing(kafka_source(cluster.servers, topic, "from=now")) as source:
        source.open(0, nothing)
        assert (source.position, source.lag()) == (30, 0)
        mark = source.mark(30)
        cluster.write(topic, range(30, 40))
        assert numbers_of(drain(source, 10)) == list(range(30, 40))
    with closing(kafka_source(cluster.servers, topic, "from=now")) as source:
        source.open(30, mark)
        assert numbers_of(drain(source, 10)) == list(range(30, 40))


def test_some_partitions_only(cluster, numbers_in_three):
    with closing(kafka_source(cluster.servers, numbers_in_three, "partitions=0,2")) as source:
        source.open(0)
        wanted = [number for number in range(200) if number % 3 != 1]
        assert sorted(numbers_of(drain(source, len(wanted)))) == wanted
        assert source.lag() == 0


def test_every_record_of_three_partitions_once_over_three_lives(cluster, numbers_in_three):
    seen, position, mark = [], 0, None
    for life in range(4):
        with closing(kafka_source(cluster.servers, numbers_in_three)) as source:
            source.open(position, mark)
            parts = drain(source, 200 - position if life == 3 else 60)
            kept = 200 - position if life == 3 else 37  # the others were polled and not trained on
            offsets = np.concatenate([records.offsets for records in parts])
            assert offsets.tolist() == list(range(position, position + len(offsets)))
            seen += numbers_of(parts)[:kept]
            position += kept
            mark = source.mark(position)
            assert sum(mark["offsets"].values()) == position
            source.commit(position)
    assert sorted(seen) == list(range(200))


def test_skipping_leaves_the_newest_of_each_partition(cluster, numbers_in_three):
    with closing(kafka_source(cluster.servers, numbers_in_three)) as source:
        source.open(0)
        assert source.skip(30) == 170
        assert (source.position, source.lag()) == (170, 30)
        assert sorted(numbers_of(drain(source, 30))) == list(range(170, 200))


def test_skipping_far_jumps(cluster):
    topic = cluster.new_topic()
    cluster.write(topic, range(30_000))
    with closing(kafka_source(cluster.servers, topic)) as source:
        source.open(0)
        first = drain(source, 5)
        assert source.skip(100) == 30_000 - 5 - 100
        cluster.write(topic, range(30_000, 30_010))
        assert numbers_of(first) == [0, 1, 2, 3, 4]
        assert numbers_of(drain(source, 110)) == list(range(29_900, 30_010))


def test_what_retention_took_is_lost_and_counted(cluster):
    topic = cluster.new_topic()
    cluster.write(topic, range(100))
    with closing(kafka_source(cluster.servers, topic)) as source:
        source.open(0)
        drain(source, 40)
        mark = source.mark(25)
    for deleted in cluster.admin.delete_records([TopicPartition(topic, 0, 70)]).values():
        deleted.result(30)
    with closing(kafka_source(cluster.servers, topic)) as source:
        source.open(25, mark)
        parts = drain(source, 30)
        assert sum(records.lost for records in parts) == 45
        [notice] = source.notices()
        assert "45 records of partition 0 were deleted before they were read" in notice
        assert numbers_of(parts) == list(range(70, 100))
        assert source.position == 100
    # a fresh run never had them
    with closing(kafka_source(cluster.servers, topic)) as source:
        source.open(0)
        parts = drain(source, 30)
        assert sum(records.lost for records in parts) == 0
        assert parts[0].offsets[0] == 70


def test_what_retention_takes_from_a_running_stream_is_counted(cluster):
    topic = cluster.new_topic()
    cluster.write(topic, range(20_000))
    with closing(kafka_source(cluster.servers, topic, SMALL_QUEUE)) as source:
        source.open(0)
        assert numbers_of(drain(source, 10)) == list(range(10))
        time.sleep(1.0)  # the queues are full
        for deleted in cluster.admin.delete_records([TopicPartition(topic, 0, 19_000)]).values():
            deleted.result(30)
        received, lost, last = 10, 0, 9
        while last < 19_999:
            records = source.poll(5000, 10.0)
            received, lost = received + len(records), lost + records.lost
            last = int(records.offsets[-1]) if len(records) else last
        assert lost >= 1000
        assert received + lost == 20_000


def test_markers_of_transactions_are_no_records(cluster):
    topic = cluster.new_topic()
    writer = Producer({"bootstrap.servers": cluster.servers, "transactional.id": topic, "log_level": 0, "linger.ms": 1})
    writer.init_transactions(30)
    for first in range(0, 50, 10):
        writer.begin_transaction()
        cluster.write(topic, range(first, first + 10), producer=writer)
        writer.abort_transaction(30) if first == 20 else writer.commit_transaction(30)
    with closing(kafka_source(cluster.servers, topic)) as source:
        source.open(0)
        parts = drain(source, 40)
        assert numbers_of(parts) == [*range(20), *range(30, 50)]
        until_s = time.monotonic() + 20
        while source.lag() and time.monotonic() < until_s:
            assert len(source.poll(1, 0.05)) == 0
        # 50 records and 5 markers
        assert (source.position, source.lag()) == (55, 0)


def test_the_lag_of_a_full_queue_is_still_known(cluster):
    topic = cluster.new_topic()
    cluster.write(topic, range(20_000))
    with closing(kafka_source(cluster.servers, topic, SMALL_QUEUE)) as source:
        source.open(0)
        drain(source, 10)
        cluster.write(topic, range(20_000, 20_500))
        until_s = time.monotonic() + 20
        while source.lag() != 20_490 and time.monotonic() < until_s:
            time.sleep(0.05)
        assert source.lag() == 20_490


def test_lag_tools_see_what_is_safe(kafka_broker, cluster, numbers):
    with closing(kafka_source(cluster.servers, numbers, "group=watched")) as source:
        source.open(0)
        drain(source, 120)
        source.commit(90)
    described = kafka_broker.tool("consumer.group.ConsumerGroupCommand", "--describe", "--group", "watched")
    [row] = [line.split() for line in described.splitlines() if numbers in line]
    assert row[3:6] == ["90", "200", "110"]


def test_a_topic_that_was_made_anew_is_no_way_on(cluster):
    topic = cluster.new_topic()
    cluster.write(topic, range(10))
    with closing(kafka_source(cluster.servers, topic, "patience_s=1")) as source:
        source.open(50, {"offsets": {"0": 50}, "started_unix_s": 0.0})
        with pytest.raises(SourceError, match="read up to offset 50 and ends at 10"):
            source.poll(1, 40.0)


@pytest.mark.parametrize(
    ("topic", "parameters", "told"),
    [
        ("no-such-topic", "", "has no topic 'no-such-topic'"),
        (None, "partitions=0,7", "partitions=7: the topic has 1, counted from 0"),
    ],
)
def test_what_cannot_be_read_is_said_at_once(cluster, numbers, topic, parameters, told):
    assert told in refusal(kafka_source(cluster.servers, topic or numbers, parameters))


def test_nobody_there_is_said_within_fifteen_seconds():
    said = refusal(kafka_source(f"127.0.0.1:{free_port()}", "topic"))
    assert "no answer within 10 s" in said
    assert "refused" in said
