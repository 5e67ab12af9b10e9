"""Sending to an MQTT broker, and sources that listen to it."""

import itertools
import threading
import time

import torch
from paho.mqtt.client import Client
from paho.mqtt.enums import CallbackAPIVersion, MQTTProtocolVersion
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties

from scadles.clock import VirtualClock
from scadles.config import CodecConfig
from scadles.streams import make_codec, open_source_url

CODEC = make_codec(CodecConfig(), (2,), torch.uint8, classes=10)
_serial = itertools.count()


def new_topic():
    return f"test/{next(_serial)}-{time.monotonic_ns()}"


def client_name():
    return new_topic().replace("/", "-")


class Sender:
    """Publishes with QoS 1 and numbers its messages; use it as a context manager."""

    def __init__(self, broker, client_id="", username=None, password=None):
        self.client = Client(CallbackAPIVersion.VERSION2, client_id, protocol=MQTTProtocolVersion.MQTTv5)
        if username:
            self.client.username_pw_set(username, password)
        self._port = broker.port

    def __enter__(self):
        connected = threading.Event()
        self.client.on_connect = lambda *_: connected.set()
        self.client.connect("127.0.0.1", self._port)
        self.client.loop_start()
        assert connected.wait(20)
        return self

    def __exit__(self, *_):
        self.client.disconnect()
        self.client.loop_stop()

    def send(self, topic, value, number=None, key="0", *, wait=True):
        properties = Properties(PacketTypes.PUBLISH)
        properties.UserProperty = ("key", key)
        if number is not None:
            properties.UserProperty = ("id", str(number))
        sent = self.client.publish(topic, value, qos=1, properties=properties)
        if wait:
            sent.wait_for_publish(20)
            assert sent.is_published()
        return sent

    def send_numbers(self, topic, numbers, *, ids=True):
        sent = [
            self.send(topic, bytes([n % 256, n // 256]), n if ids else None, str(n % 10), wait=False) for n in numbers
        ]
        for info in sent:
            info.wait_for_publish(20)
            assert info.is_published()


def source_at(broker, topic, query="", clock=None, scheme="mqtt", **context):
    """A source of pairs of bytes; event times are 0, as the clock stands still."""
    url = f"{scheme}://{broker.address}/{topic}{query}"
    return open_source_url(url, clock=clock or VirtualClock(), codec=CODEC, **context)


def opened_at(broker, topic, query="", **context):
    """A source that has begun to listen."""
    source = source_at(broker, topic, query, **context)
    source.open(0)
    return source


def take(source, count, timeout_s=20.0):
    """Poll until so many records are there; return them as lists of numbers."""
    numbers, deadline = [], time.monotonic() + timeout_s
    while len(numbers) < count and time.monotonic() < deadline:
        numbers += numbers_in(source.poll(count - len(numbers), 0.2))
    return numbers


def until(condition, what, timeout_s=30.0):
    """Wait for ``condition()``."""
    deadline_s = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline_s, f"no {what} within {timeout_s} s"
        time.sleep(0.05)


def until_saved(broker):
    """Wait until the broker has begun and ended to write its sessions down, as it does every second."""
    saved = broker.folder / "mosquitto.db"
    for _ in range(2):  # the first one may have begun before
        before = saved.stat().st_mtime_ns if saved.exists() else None
        until(lambda before=before: saved.exists() and saved.stat().st_mtime_ns != before, "sessions on the disk")


def numbers_in(records):
    return [int(a) + 256 * int(b) for a, b in records.x.tolist()]
