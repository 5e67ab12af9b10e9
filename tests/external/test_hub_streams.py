"""Devices at a hub whose streams come from real brokers, when steps that they took are void later."""

from contextlib import contextmanager
from itertools import count
from threading import Event, Thread

import pytest
import torch

from hub_devices import BATCH, SETTINGS, hub_starter, lose_steps
from kafka_tools import Cluster
from mqtt_tools import Sender, client_name, new_topic
from scadles.config import CodecConfig
from scadles.observe import Finished, Loss
from scadles.streams import make_codec

RECORDS = 100 * BATCH
CODEC = make_codec(CodecConfig(), (1, 8, 8), torch.uint8, 10)


@pytest.fixture
def start_hub(tmp_path):
    with hub_starter(tmp_path / "hub") as start:
        yield start


def settings_at(url):
    more = {"stream": {"url": url}, "clock": {"speed": 1}, "batch": {"size": BATCH, "max_wait_s": 60}}
    return SETTINGS | more


def message(number):
    return CODEC.encode(torch.full((1, 8, 8), number % 17, dtype=torch.uint8), number % 10)


def test_a_topic_goes_back_and_each_record_is_trained_on_once(kafka_broker, start_hub, tmp_path, monkeypatch):
    cluster = Cluster(kafka_broker.address)
    topic = cluster.new_topic(partitions=2)
    for number in range(RECORDS):
        key, value = message(number)
        for partition in range(2):
            cluster.producer.produce(topic, value, key, partition=partition)
    assert cluster.producer.flush(30) == 0
    url = f"kafka://{kafka_broker.address}/{topic}?partitions={{device}}"
    for device in lose_steps(start_hub, tmp_path, monkeypatch, settings_at(url)):
        device.assert_trained_once()
        assert device.events(Finished)[-1].ledger["received"] <= RECORDS


@contextmanager
def sending(broker, topics):
    """Send messages with ids to MQTT topics all the while, a hundred at a time."""
    ended = Event()

    def send():
        with Sender(broker) as sender:
            for first in count(0, 100):
                if ended.is_set():
                    return
                for number in range(first, first + 100):
                    key, value = message(number)
                    for topic in topics:
                        sender.send(topic, value, number, key.decode(), wait=False)
                sender.send(topics[0] + "/none", b"").wait_for_publish(20)

    thread = Thread(target=send)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


def test_a_session_goes_back_to_what_is_not_acknowledged(mosquitto_broker, start_hub, tmp_path, monkeypatch):
    topic, name = new_topic(), client_name()
    url = f"mqtt://{mosquitto_broker.address}/{topic}/{{device}}?client_id={name}-{{device}}"
    with sending(mosquitto_broker, [f"{topic}/{device}" for device in range(2)]):
        devices = lose_steps(start_hub, tmp_path, monkeypatch, settings_at(url))
    for device in devices:
        device.assert_trained_once()
        assert device.events(Loss) == []
