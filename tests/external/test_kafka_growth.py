"""Topics that get partitions while they are read, at a real broker."""

import signal
from contextlib import closing

import numpy as np
import pytest

from kafka_tools import Cluster, drain, kafka_source, numbers_of
from live_streams import KEPT
from mqtt_tools import until
from scadles.observe import Notice, RunFolder
from scadles.streams.kafka import growth


@pytest.fixture(scope="module")
def cluster(kafka_broker):
    return Cluster(kafka_broker.address)


@pytest.fixture
def looking(monkeypatch):
    """Looks come soon after each other."""
    monkeypatch.setattr(growth, "LOOK_S", 0.2)


def grown(cluster, topic):
    """Let a topic of fifty records have two partitions more, and fifty records in all three."""
    cluster.grow(topic, 3)
    cluster.write(topic, range(50, 100), partitions=3)


def test_new_partitions_are_read_from_their_beginning(cluster, looking):
    topic = cluster.new_topic()
    cluster.write(topic, range(50))
    with closing(kafka_source(cluster.servers, topic)) as source:
        source.open(0)
        seen = drain(source, 40)
        grown(cluster, topic)
        until(lambda: source.lag() == 60, "lag of all partitions")
        [notice] = source.notices()
        assert "the topic has 3 partitions now, 1 before: the new ones are read from their beginning" in notice
        before = source.mark(35)
        assert before["offsets"] == {"0": 35, "1": 0, "2": 0}
        seen += drain(source, 60)
        assert sorted(numbers_of(seen)) == list(range(100))
        assert np.concatenate([records.offsets for records in seen]).tolist() == list(range(100))
        assert (source.position, source.lag()) == (100, 0)
        middle, first = source.mark(70), numbers_of(seen)[:70]
        source.commit(70)
    with closing(kafka_source(cluster.servers, topic)) as source:
        source.open(70, middle)
        assert source.lag() == 30
        assert sorted(first + numbers_of(drain(source, 30))) == list(range(100))
        assert source.notices() == []
    with closing(kafka_source(cluster.servers, topic)) as source:
        source.open(35, {**before, "offsets": {"0": 35}})  # a checkpoint that knows of one partition
        assert sorted(numbers_of(drain(source, 65))) == list(range(35, 100))
        assert "3 partitions now, 1 at the checkpoint" in source.notices()[0]


def test_skipping_counts_new_partitions(cluster, looking):
    topic = cluster.new_topic()
    cluster.write(topic, range(50))
    with closing(kafka_source(cluster.servers, topic)) as source:
        source.open(0)
        grown(cluster, topic)
        until(lambda: source.lag() == 100, "lag of all partitions")
        assert source.skip(10) == 90
        assert len(numbers_of(drain(source, 10))) == 10
        assert (source.position, source.lag()) == (100, 0)


def test_an_address_that_names_partitions_keeps_to_them_and_says_so(cluster, looking):
    topic = cluster.new_topic()
    cluster.write(topic, range(50))
    with closing(kafka_source(cluster.servers, topic, "partitions=0")) as source:
        source.open(0)
        told = []
        until(lambda: not source.poll(1, 0.1) or True, "a look")
        until(lambda: source._fetcher._growth._known == 1, "first count")
        grown(cluster, topic)
        until(lambda: told.extend(source.notices()) or told, "notice")
        assert f"{topic}: the topic has 3 partitions now, 1 before, and this device reads partitions=0" in told[0]
        assert len(told) == 1


@pytest.mark.timeout(400)
def test_a_run_takes_in_new_partitions_and_is_resumed(cluster, start_training, finding, write_config, tmp_path):
    topic = cluster.new_topic()
    x, y = np.arange(100, dtype=np.float32).reshape(100, 1, 1, 1), np.arange(100) % 10
    np.savez(tmp_path / "numbers.npz", train_x=x, train_y=y, test_x=x, test_y=y)
    stream = {"url": f"kafka://{cluster.servers}/{topic}"}
    data = {"dataset": f"npz:{tmp_path / 'numbers.npz'}"}
    config = write_config(tmp_path / "c.yaml", devices=1, data=data, stream=stream, optimizer={"lr": 1e-5}, **KEPT)
    found = finding(tmp_path / "run", 1)

    def received():
        steps = [event for event in found.raw(0) if event["event"] == "checkpoint"]
        return steps[-1]["ledger"]["received"] if steps else 0

    cluster.write(topic, range(50))
    run = start_training(tmp_path, config, "--local", 1, "--quiet", "--out", "run")
    run.until(lambda: received() >= 50, "fifty records", 90)
    grown(cluster, topic)
    run.until(lambda: received() >= 100, "all records", 90)
    assert "the topic has 3 partitions now, 1 before" in run.err
    run.kill_all()
    cluster.write(topic, range(100, 160), partitions=3)
    run = start_training(tmp_path, config, "--local", 1, "--quiet", "--out", "run", "--resume")
    run.until(lambda: received() >= 160, "all records", 90)
    run.signal(signal.SIGTERM)
    assert run.wait() == 143, run.err
    found.assert_ended_together("stopped")
    assert RunFolder(found.path).summary.samples.received == 160
    assert any("3 partitions now" in notice.message for notice in found.events(0, Notice))
