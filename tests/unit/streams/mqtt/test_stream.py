"""A stream of messages and its session, with a client that plays the broker itself; tests/external has real ones."""

import itertools
import threading
import time
from collections import deque

import pytest
import torch
from paho.mqtt.client import ConnectFlags, DisconnectFlags, MQTTMessage
from paho.mqtt.enums import MQTTErrorCode
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties
from paho.mqtt.reasoncodes import ReasonCode

from scadles.clock import VirtualClock
from scadles.config import CodecConfig
from scadles.errors import ConfigError, RunError, SourceError
from scadles.streams import make_codec, open_source_url
from scadles.streams.mqtt import session, source

CODEC = make_codec(CodecConfig(), (2,), torch.uint8, classes=10)
WELL, LOST = MQTTErrorCode.MQTT_ERR_SUCCESS, MQTTErrorCode.MQTT_ERR_CONN_LOST


def reason(packet, number):
    return ReasonCode(packet, identifier=number)


class Played:
    """A client and its broker in one: answers to a connection are taken from ``answers``, 0 where there is none.

    Attributes:
        answers: reason codes, or errors to raise.
        known: whether the broker has the session.
        waiting: messages that the broker will send.
        acknowledged: their numbers, as the client acknowledged them.
    """

    keepalive, hears, heard_s = 30, False, 0.0

    def __init__(self):
        self.answers, self.waiting, self.acknowledged = deque(), deque(), []
        self.known = self.connected = False
        self.connections = 0
        self._packets, self._numbers = deque(), itertools.count(1)

    def manual_ack_set(self, *, on):
        assert on

    def reconnect(self):
        answer = self.answers.popleft() if self.answers else 0
        if isinstance(answer, Exception):
            raise answer
        self.connections += 1
        self.connected = answer == 0
        flags = ConnectFlags(self.known)
        self.known = self.known or self.connected
        self._packets.append(lambda: self.on_connect(self, None, flags, reason(PacketTypes.CONNACK, answer), None))

    def subscribe(self, topic, *, options):
        assert (topic, options.QoS) == ("camera/1", 1)
        number = next(self._numbers)
        granted = [reason(PacketTypes.SUBACK, 1)]
        self._packets.append(lambda: self.on_subscribe(self, None, number, granted, None))
        return WELL, number

    def loop(self, timeout_s):
        if not self._packets and not self.waiting:
            time.sleep(0.001)
        return self.loop_read() if self.connected or self._packets else LOST

    def loop_read(self):
        if self._packets:
            self._packets.popleft()()
        elif self.connected and self.waiting:
            self.on_message(self, None, self.waiting.popleft())
        return WELL

    def ack(self, number, qos):
        self.acknowledged.append(number)

    def is_connected(self):
        return self.connected

    def disconnect(self):
        self.connected = False

    def cut(self, number=128):
        """Close the connection as a broker does."""
        self.connected = False
        flags, why = DisconnectFlags(is_disconnect_packet_from_server=True), reason(PacketTypes.DISCONNECT, number)
        self._packets.append(lambda: self.on_disconnect(self, None, flags, why, None))


def message(number, value, key="3"):
    sent = MQTTMessage(mid=100 + number, topic=b"camera/1")
    sent.payload, sent.qos = value, 1
    sent.properties = Properties(PacketTypes.PUBLISH)
    sent.properties.UserProperty = ("key", key)
    sent.properties.UserProperty = ("id", str(number))
    return sent


@pytest.fixture
def played(monkeypatch):
    client = Played()
    monkeypatch.setattr(source, "make_client", lambda *_: client)
    monkeypatch.setattr(source, "connect", lambda *_: None)
    monkeypatch.setattr(session, "_PAUSE_S", 0.01)
    return client


@pytest.fixture
def stream(played):
    made = open_source_url("mqtt://host/camera/1?patience_s=1", codec=CODEC, clock=VirtualClock())
    yield made
    made.close()
    assert not [thread for thread in threading.enumerate() if thread.name == "mqtt"]


def until(condition, timeout_s=30.0):
    deadline_s = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline_s
        time.sleep(0.002)


def test_messages_become_records_and_are_acknowledged_once_they_are_committed(stream, played):
    played.waiting.extend([message(0, bytes([1, 2])), message(1, b"not two bytes"), message(2, bytes([5, 6]))])
    stream.open(0)
    until(lambda: stream.lag() == 3)
    records = stream.poll(10, 1.0)
    assert records.offsets.tolist() == [0, 2]
    assert records.x.tolist() == [[1, 2], [5, 6]]
    assert records.y.tolist() == [3, 3]
    assert [rejected.offset for rejected in records.rejected] == [1]
    assert played.acknowledged == []
    stream.commit(2)
    until(lambda: played.acknowledged == [100, 101])
    # the first connection cleared what was there
    assert (played.connections, stream.position, stream.duplicates) == (2, 3, 0)


def test_a_lost_connection_is_made_again_and_what_comes_twice_counts_once(stream, played):
    stream.open(0)
    played.waiting.append(message(0, bytes(2)))
    until(lambda: stream.lag() == 1)
    played.cut()
    until(lambda: played.connections == 3)
    played.waiting.extend([message(0, bytes(2)), message(1, bytes(2))])
    until(lambda: stream.lag() == 2)
    assert stream.duplicates == 1
    assert stream.notices() == []
    assert stream.skip(1) == 1


def test_a_session_that_the_broker_has_forgotten_is_told(stream, played):
    stream.open(0)
    until(lambda: played.connections == 2)
    played.known = False
    played.cut()
    until(lambda: played.connections == 3)
    until(lambda: stream._notices)
    [told] = stream.notices()
    assert "mqtt://host:1883 has forgotten this device's session: messages of camera/1" in told


def test_who_is_away_too_long_has_broken_the_stream(stream, played):
    stream.open(0)
    until(lambda: played.connections == 2)
    played.answers.extend([ConnectionRefusedError(111, "Connection refused")] * 1000)
    played.cut()
    with pytest.raises(SourceError, match="no connection for 1 s: Connection refused"):
        until(lambda: stream.poll(1, 0.01) is None)


def test_a_session_that_another_takes_is_told(stream, played):
    stream.open(0)
    until(lambda: played.connections == 2)
    played.cut(142)
    with pytest.raises(SourceError, match="the session was taken over: does another client use the same client_id"):
        until(lambda: stream.poll(1, 0.01) is None)


def test_connections_that_do_not_last_are_told(stream, played):
    stream.open(0)
    for number in range(2, 7):
        until(lambda number=number: (played.connections >= number and played.connected) or stream._session.failed)
        time.sleep(0.02)
        played.cut(0)
    with pytest.raises(SourceError, match="5 connections in a row were closed soon after they were made"):
        until(lambda: stream.poll(1, 0.01) is None)


def test_a_refusal_is_final(stream, played):
    played.answers.append(134)
    with pytest.raises(ConfigError, match="mqtt://host:1883: the broker refuses us: Bad user name or password"):
        stream.open(0)


def test_who_does_not_answer_is_told(stream, played, monkeypatch):
    monkeypatch.setattr(session, "ANSWER_S", 0.1)
    played.answers.extend([136] * 1000)  # the server is unavailable
    with pytest.raises(ConfigError, match=r"no connection within 0.1 s: the broker refuses us: Server unavailable"):
        stream.open(0)


def test_before_it_is_open_there_is_nothing(stream):
    with pytest.raises(RunError, match="not open yet"):
        stream.poll(1, 0.0)
    with pytest.raises(ConfigError, match="position = -1"):
        stream.open(-1)


def test_a_mark_brings_the_session_back(stream, played):
    played.known = True
    stream.open(0)
    mark = stream.mark(0)
    again = open_source_url("mqtt://host/camera/1", codec=CODEC, clock=VirtualClock())
    again.open(0, mark)
    assert again.mark(0)["client_id"] == mark["client_id"]
    again.close()
