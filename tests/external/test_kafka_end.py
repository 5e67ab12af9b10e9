"""Streams that end where their topics ended when they were opened, at a real broker."""

from contextlib import closing

import numpy as np
import pytest
from confluent_kafka import Producer

from kafka_tools import Cluster, drain, kafka_source, numbers_of
from live_streams import KEPT
from scadles.errors import ConfigError
from scadles.observe import RunFolder


@pytest.fixture(scope="module")
def cluster(kafka_broker):
    return Cluster(kafka_broker.address)


def test_a_stream_ends_where_its_partitions_ended_and_a_resumed_one_too(cluster):
    topic = cluster.new_topic(partitions=3)
    cluster.write(topic, range(100), partitions=3)
    with closing(kafka_source(cluster.servers, topic, stop_at_end=True)) as source:
        source.open(0)
        assert not source.ended
        cluster.write(topic, range(100, 200), partitions=3)
        first = numbers_of(drain(source, 60))
        assert source.lag() == 40
        mark = source.mark(60)
        source.commit(60)
    with closing(kafka_source(cluster.servers, topic, stop_at_end=True)) as source:
        source.open(60, mark)
        rest = numbers_of(drain(source, 40))
        assert sorted(first + rest) == list(range(100))
        assert source.ended
        assert len(source.poll(10, 600.0)) == 0  # nobody waits
        assert (source.position, source.lag(), source.notices()) == (100, 0, [])
        last = source.mark(100)
    with closing(kafka_source(cluster.servers, topic)) as source:  # and goes on where it shall wait
        source.open(100, last)
        assert sorted(numbers_of(drain(source, 100))) == list(range(100, 200))
        assert not source.ended


def test_an_end_that_is_no_record_is_reached(cluster):
    topic = cluster.new_topic()
    writer = Producer({"bootstrap.servers": cluster.servers, "transactional.id": topic, "log_level": 0, "linger.ms": 1})
    writer.init_transactions(30)
    writer.begin_transaction()
    cluster.write(topic, range(20), producer=writer)
    writer.commit_transaction(30)
    with closing(kafka_source(cluster.servers, topic, stop_at_end=True)) as source:
        source.open(0)
        assert numbers_of(drain(source, 20)) == list(range(20))
        while not source.ended:
            assert len(source.poll(10, 1.0)) == 0
        assert source.position == 21


def test_an_empty_topic_has_ended(cluster):
    with closing(kafka_source(cluster.servers, cluster.new_topic(), stop_at_end=True)) as source:
        source.open(0)
        assert source.ended


def test_a_topic_that_was_made_anew_with_fewer_partitions_is_no_way_on(cluster):
    topic = cluster.new_topic()
    with (
        closing(kafka_source(cluster.servers, topic)) as source,
        pytest.raises(ConfigError, match="partition 1 is in the checkpoint, and the topic has 1"),
    ):
        source.open(50, {"offsets": {"0": 20, "1": 30}, "started_unix_s": 0.0})


@pytest.mark.timeout(400)
@pytest.mark.parametrize("policy", ["persistence", "truncation"])
def test_a_run_ends_with_its_topics(cluster, start_training, finding, write_config, tmp_path, policy):
    topic = cluster.new_topic(partitions=2)
    cluster.write(topic, [2 * n for n in range(70)], partitions=2)
    cluster.write(topic, [2 * n + 1 for n in range(300)], partitions=2)
    x, y = np.arange(100, dtype=np.float32).reshape(100, 1, 1, 1), np.arange(100) % 10
    np.savez(tmp_path / "numbers.npz", train_x=x, train_y=y, test_x=x, test_y=y)
    settings = KEPT | {"steps": None, "buffer": {"policy": policy}, "batch": {"window_s": 0.25, "min": 8, "max": 50}}
    config = write_config(
        tmp_path / "c.yaml",
        devices=2,
        data={"dataset": f"npz:{tmp_path / 'numbers.npz'}"},
        stream={"url": f"kafka://{cluster.servers}/{topic}?partitions={{device}}", "end": "stop"},
        optimizer={"lr": 1e-5},
        **settings,
    )
    run = start_training(tmp_path, config, "--local", 2, "--out", "run")
    assert run.wait(200) == 0, run.err
    found = finding(tmp_path / "run", 2)
    found.assert_ended_together("streams")
    summary = RunFolder(found.path).summary
    assert [row.samples.received for row in summary.per_device] == [70, 300]
    assert summary.samples.held == 0
    assert summary.samples.dropped == 0 or policy == "truncation"
    assert f"the streams ended at step {summary.steps}" in run.err
