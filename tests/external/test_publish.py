"""``scadles publish`` to real brokers, looked at by other clients than its own."""

import signal
import time

import numpy as np
import pytest
import torch

from scadles.assembly import build_dataset, build_partition, samples_of
from scadles.clock import WallClock
from scadles.config import load_config
from scadles.errors import ConfigError
from scadles.paper.broker_watch import observe
from scadles.publishing.publish import publish
from scadles.streams import open_source_url
from scadles.streams.codec import make_codec
from scadles.streams.kafka.topics import Topics
from scadles.streams.producing import Retention
from scadles.testing.brokers.process import free_port

pytestmark = pytest.mark.timeout(300)


def config_of(url, devices, rates, **settings):
    return load_config({"devices": devices, "steps": 1, "stream": {"url": url, "rates": rates}, **settings})


def read(config, device, count):
    """What a device gets from its topic: samples and labels."""
    dataset = build_dataset(config)
    source = open_source_url(
        config.stream.url.format(device=device),
        codec=make_codec(config.stream.codec, dataset.shape, dataset.dtype, dataset.classes),
        clock=WallClock(),
    )
    source.open(0)
    records = source.poll(count, 30.0)
    source.close()
    return records


@pytest.mark.parametrize("codec", ["raw", "npy", "json"])
def test_a_device_gets_from_its_topic_what_a_replayed_one_gets(kafka_broker, codec):
    url = f"kafka://{kafka_broker.address}/published-{codec}-{{device}}"
    config = config_of(url, 3, [100, 60, 200], seed=3)
    config = load_config(config, [f"stream.codec.format={codec}"])
    report = publish(config, records=150, create=Retention())
    assert [(topic.sent, topic.acknowledged, topic.failed) for topic in report.topics] == [(150, 150, 0)] * 3
    dataset = build_dataset(config)
    partition = build_partition(config, dataset)
    for device in range(3):
        x, y = samples_of(dataset, partition, device)(np.arange(150))
        records = read(config, device, 150)
        assert records.offsets.tolist() == list(range(150))
        assert torch.equal(records.x, x)
        assert torch.equal(records.y, y)


def test_records_reach_the_broker_at_their_rate(kafka_broker):
    wanted = pytest.approx(np.full(4, 100.0), rel=0.1)  # of a machine that does other things too
    for _ in range(3):  # and if it stood still at the start, what was due then is late
        found = observe(kafka_broker.address, 4, 100.0, 6.0)
        if found.rates_hz == wanted:
            break
    assert found.rates_hz == wanted
    assert not any("scadles-rates" in topic for topic in kafka_broker.tool("TopicCommand", "--list").split())


def test_new_topics_have_the_retention_that_was_asked_for(kafka_broker):
    config = config_of(f"kafka://{kafka_broker.address}/kept-{{device}}", 1, 100)
    publish(config, records=1, create=Retention(seconds=120, megabytes=8))
    described = kafka_broker.tool("TopicCommand", "--describe", "--topic", "kept-0")
    for setting in ("retention.ms=120000", "segment.ms=30000", "retention.bytes=8000000", "segment.bytes=2000000"):
        assert setting in described


def test_partitions_of_one_topic_can_be_devices(kafka_broker, monkeypatch):
    monkeypatch.setattr("scadles.publishing.pace.GRACE_S", 60.0)  # whatever is late on a busy machine still counts
    url = f"kafka://{kafka_broker.address}/parts?partitions={{device}}"
    publish(config_of(url, 3, [100, 50, 20], seed=1), duration_s=1.0, create=Retention())
    shown = kafka_broker.tool("GetOffsetShell", "--topic", "parts", "--time", "latest").split()
    assert sorted(shown) == ["parts:0:100", "parts:1:50", "parts:2:20"]


def test_topics_are_not_made_unasked(kafka_broker):
    with pytest.raises(ConfigError, match=r"no topic 'absent-0' and 1 more"):
        publish(config_of(f"kafka://{kafka_broker.address}/absent-{{device}}", 2, 10), duration_s=1.0)


def test_ctrl_c_ends_it_with_the_table(kafka_broker, start, write_config, tmp_path):
    stream = {"url": f"kafka://{kafka_broker.address}/stopped-{{device}}", "rates": [50, 20]}
    config = write_config(tmp_path / "c.yaml", devices=2, steps=1, stream=stream)
    run = start(tmp_path, "-m", "scadles", "publish", config, "--create-topics")
    run.until(lambda: "due records acknowledged" in run.err, "a line of progress")
    run.signal(signal.SIGINT)
    assert run.wait() == 130
    rows = [line.split() for line in run.out.splitlines() if "stopped-" in line]
    ends = Topics(kafka_broker.address).ends(["stopped-0", "stopped-1"])
    assert [int(row[4].replace(",", "")) for row in rows] == ends.tolist()
    assert [float(row[1]) for row in rows] == pytest.approx([50, 20], rel=0.02)
    assert "Traceback" not in run.err


@pytest.mark.parametrize("outage_s", [4.0])
def test_a_broker_that_comes_back_gets_everything_once(fragile_kafka_broker, start, write_config, tmp_path, outage_s):
    stream = {"url": f"kafka://{fragile_kafka_broker.address}/through", "rates": 200}
    config = write_config(tmp_path / "c.yaml", steps=1, stream=stream)
    run = start(tmp_path, "-m", "scadles", "publish", config, "--records", 1500, "--create-topics")
    run.until(lambda: "due records acknowledged" in run.err, "a line of progress")
    fragile_kafka_broker.kill()
    time.sleep(outage_s)
    fragile_kafka_broker.start()
    assert run.wait(120) == 0, run.err
    assert Topics(fragile_kafka_broker.address).ends(["through"]).tolist() == [1500]


LOGIN_PORT = free_port()
WITH_PASSWORDS = {
    "listeners": f"PLAINTEXT://127.0.0.1:{{port}},SASL_PLAINTEXT://127.0.0.1:{LOGIN_PORT},"
    "CONTROLLER://127.0.0.1:{controller}",
    "advertised.listeners": f"PLAINTEXT://127.0.0.1:{{port}},SASL_PLAINTEXT://127.0.0.1:{LOGIN_PORT}",
    "sasl.enabled.mechanisms": "PLAIN",
    "listener.name.sasl_plaintext.plain.sasl.jaas.config": "org.apache.kafka.common.security.plain.PlainLoginModule "
    'required user_edge="open-sesame";',
}


@pytest.mark.parametrize("fragile_kafka_broker", [WITH_PASSWORDS], ids=["passwords"], indirect=True)
@pytest.mark.parametrize("place", ["env", "file"])
def test_passwords_come_from_the_environment_or_a_file(fragile_kafka_broker, monkeypatch, tmp_path, place):
    login = "security.protocol=SASL_PLAINTEXT&sasl.mechanism=PLAIN&sasl.username=edge&sasl.password="
    where = "env:SCADLES_TEST_PASSWORD" if place == "env" else f"file:{tmp_path}/password"
    config = config_of(f"kafka://127.0.0.1:{LOGIN_PORT}/locked-{{device}}?{login}{where}", 2, 100)
    for password, right in (("open-barley", False), ("open-sesame", True)):
        monkeypatch.setenv("SCADLES_TEST_PASSWORD", password)
        (tmp_path / "password").write_text(f"{password}\n")
        began_s = time.monotonic()
        if right:
            report = publish(config, records=20, create=Retention())
            assert [topic.acknowledged for topic in report.topics] == [20, 20]
            assert "sesame" not in str(report)
        else:
            with pytest.raises(ConfigError, match=r"refuses us.*[Aa]uthentication failed") as refused:
                publish(config, records=20, create=Retention())
            assert time.monotonic() - began_s < 15
            assert "barley" not in str(refused.value)


def test_mqtt_messages_have_a_key_and_ids_that_ascend(mosquitto_broker):
    client_module = pytest.importorskip("paho.mqtt.client")
    config = config_of(f"mqtt://{mosquitto_broker.address}/published/{{device}}", 2, [100, 50], seed=2)
    got = []
    client = client_module.Client(client_module.CallbackAPIVersion.VERSION2, protocol=client_module.MQTTv5)
    client.on_message = lambda client, userdata, message: got.append(message)
    client.connect("127.0.0.1", mosquitto_broker.port)
    client.subscribe("published/0", qos=1)
    client.loop_start()
    report = publish(config, records=80)
    assert [(topic.sent, topic.acknowledged, topic.failed) for topic in report.topics] == [(80, 80, 0)] * 2
    assert report.topics[0].problem == ""
    assert report.topics[1].problem == "nobody had subscribed: 80 were not kept"
    deadline_s = time.monotonic() + 20
    while len(got) < 80 and time.monotonic() < deadline_s:
        time.sleep(0.05)
    client.disconnect()
    client.loop_stop()
    properties = [dict(message.properties.UserProperty) for message in got]
    ids = [int(mine["id"]) for mine in properties]
    assert ids == list(range(ids[0], ids[0] + 80))
    dataset = build_dataset(config)
    x, y = samples_of(dataset, build_partition(config, dataset), 0)(np.arange(80))
    assert [int(mine["key"]) for mine in properties] == y.tolist()
    assert [message.payload for message in got] == [sample.numpy().tobytes() for sample in x]


def test_an_mqtt_broker_that_comes_back_gets_everything(fragile_mosquitto, start, write_config, tmp_path):
    broker = fragile_mosquitto()
    stream = {"url": f"mqtt://{broker.address}/through/{{device}}", "rates": 50}
    config = write_config(tmp_path / "c.yaml", devices=2, steps=1, stream=stream)
    run = start(tmp_path, "-m", "scadles", "publish", config, "--records", 600)
    run.until(lambda: "due records acknowledged" in run.err, "a line of progress")
    broker.kill()
    time.sleep(2.0)
    broker.start()
    assert run.wait(120) == 0, run.err
    rows = [line.split() for line in run.out.splitlines() if "through/" in line]
    assert [row[3:5] for row in rows] == [["600", "600"]] * 2


def test_brokers_to_play_with_start_say_how_and_end(start, tmp_path, kafka_broker, mosquitto_broker):
    run = start(tmp_path, "-m", "scadles.testing.brokers")
    run.until(lambda: "Ctrl-C ends them" in run.out, "brokers", timeout_s=120)
    assert "kafka: kafka://127.0.0.1:" in run.out
    assert "mqtt: mqtt://127.0.0.1:" in run.out
    assert "scadles publish examples/kafka.yaml --create-topics" in run.out
    run.signal(signal.SIGINT)
    assert run.wait(60) == 0
