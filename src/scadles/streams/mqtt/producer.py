"""Messages into MQTT topics: QoS 1, each with an id by which a receiver knows it again."""

from __future__ import annotations

from collections.abc import Sequence
from copy import copy
from typing import Any

from paho.mqtt.client import Client, ConnectFlags
from paho.mqtt.enums import MQTTErrorCode
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties
from paho.mqtt.reasoncodes import ReasonCode

from scadles.clock import Clock, WallClock, unix_seconds, wall_seconds
from scadles.errors import ConfigError
from scadles.streams.mqtt.connection import ANSWER_S, ID, KEY, Broker, broker_of, connect, in_words, make_client
from scadles.streams.mqtt.terms import PARAMETERS
from scadles.streams.producing import DeliveryCounts, Producer, Retention
from scadles.streams.registry import SourceURL

#: Messages handed over and not yet acknowledged; fewer where the broker allows fewer.
MAX_WAITING = 1000
_PUBLISH = Properties(PacketTypes.PUBLISH)  # type: ignore[no-untyped-call]
_NO_SUBSCRIBERS = 16
_AGAIN_S = 1.0
_EXPIRY_S = 3600


class MqttProducer(Producer):
    """One client for topics of one broker, driven by whoever calls :meth:`serve`.

    A lost connection is made again, and what was not acknowledged is sent again: a receiver may get it twice, with the
    same id. Ids are the moment of the start in microseconds, counted on by one, so that they ascend over restarts.

    Args:
        broker: where.
        topics: names, without wildcards.
        url: how to log in.
        clock: for the moments of acknowledgements.
    """

    def __init__(self, broker: Broker, topics: Sequence[str], url: SourceURL, clock: Clock) -> None:
        self.counts = [DeliveryCounts() for _ in topics]
        self._broker = broker
        self._topics = list(topics)
        self._url = url
        self._clock = clock
        self._waiting: dict[int, int] = {}
        self._room = MAX_WAITING
        self._unheard = [0] * len(topics)
        self._first_id = round(unix_seconds() * 1e6)
        self._refusal = ""
        self._said = "no answer"
        self._tried_s = 0.0
        # the broker gives a name: one of our own would throw out another publisher of this name
        self._client = make_client(url, "", PARAMETERS)
        self._client.max_inflight_messages_set(0)  # the bound is ours
        self._client.on_connect = self._on_connect
        self._client.on_publish = self._on_publish

    def open(self, create: Retention | None) -> None:
        if create is not None:
            raise ConfigError(
                f"{self._broker.place}: MQTT has no topics to create and keeps no records for later: leave out "
                "--create-topics, --retention-s and --retention-mb"
            )
        properties = Properties(PacketTypes.CONNECT)  # type: ignore[no-untyped-call]
        properties.SessionExpiryInterval = _EXPIRY_S
        connect(self._client, self._url, self._broker, properties=properties)
        deadline_s = wall_seconds() + ANSWER_S
        while not self._client.is_connected():
            self.serve(0.05)
            if self._refusal:
                raise ConfigError(f"{self._broker.place}: {self._refusal}")
            if wall_seconds() > deadline_s:
                raise ConfigError(f"{self._broker.place}: no connection within {ANSWER_S:g} s: {self._said}")

    def send(self, topic: int, number: int, key: bytes | None, value: bytes) -> bool:
        if len(self._waiting) >= self._room:
            return False
        properties = copy(_PUBLISH)  # a fifth of what a new one takes
        properties.UserProperty = (ID, str(self._first_id + number))
        if key is not None:
            properties.UserProperty = (KEY, key.decode())
        try:
            sent = self._client.publish(self._topics[topic], value, qos=1, properties=properties)
        except ValueError as error:
            raise ConfigError(f"{self._broker.place}: a message of {len(value):,} bytes: {error}") from None
        self._waiting[sent.mid] = topic
        return True

    def serve(self, timeout_s: float) -> None:
        if self._client.loop(timeout_s) not in (MQTTErrorCode.MQTT_ERR_SUCCESS, MQTTErrorCode.MQTT_ERR_AGAIN):
            self._connect_again()

    def waiting(self) -> int:
        return len(self._waiting)

    def close(self) -> None:
        if self._client.is_connected():
            self._client.disconnect()
            self._client.loop_write()

    def _connect_again(self) -> None:
        if wall_seconds() - self._tried_s < _AGAIN_S:
            WallClock().sleep(0.01)
            return
        self._tried_s = wall_seconds()
        try:
            self._client.reconnect()
        except OSError as error:
            self._said = in_words(error)

    def _on_connect(
        self, client: Client, userdata: Any, flags: ConnectFlags, reason: ReasonCode, properties: Properties | None
    ) -> None:
        del client, userdata, flags
        if reason.is_failure:
            self._refusal = f"the broker refuses us: {reason}"
            return
        # a broker ends the connection of whoever sends more than it allows
        self._room = min(MAX_WAITING, getattr(properties, "ReceiveMaximum", MAX_WAITING))

    def _on_publish(
        self, client: Client, userdata: Any, mid: int, reason: ReasonCode, properties: Properties | None
    ) -> None:
        del client, userdata, properties
        topic = self._waiting.pop(mid, None)
        if topic is None:
            return
        counts = self.counts[topic]
        if reason.is_failure:
            counts.failed += 1
            counts.problem = str(reason)
            return
        counts.acknowledged += 1
        counts.last_s = self._clock.now()
        if reason.value == _NO_SUBSCRIBERS:
            self._unheard[topic] += 1
            counts.problem = f"nobody had subscribed: {self._unheard[topic]:,} were not kept"


def producer_from_urls(urls: Sequence[SourceURL], *, clock: Clock, **_: Any) -> MqttProducer:
    """Return the producer of ``mqtt://host:port/topic?...`` for some topics of one broker.

    Parameters are those of the source; those that say how to read are passed over.

    Raises:
        ConfigError: a topic with a wildcard, or a parameter that cannot work.
    """
    brokers = [broker_of(url) for url in urls]
    for broker in brokers:
        if "#" in broker.topic or "+" in broker.topic or broker.topic.startswith("$"):
            raise ConfigError(f"{broker.place}/{broker.topic}: many topics at once can be read and not published to")
    return MqttProducer(brokers[0], [broker.topic for broker in brokers], urls[0], clock)
