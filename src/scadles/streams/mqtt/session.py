"""A session at a broker, kept alive by a thread of its own."""

from __future__ import annotations

import ssl
import threading
from collections import deque
from collections.abc import Callable
from typing import Any

from paho.mqtt.client import Client, ConnectFlags, DisconnectFlags, MQTTMessage
from paho.mqtt.enums import MQTTErrorCode
from paho.mqtt.properties import Properties
from paho.mqtt.reasoncodes import ReasonCode
from paho.mqtt.subscribeoptions import SubscribeOptions

from scadles.clock import wall_seconds
from scadles.errors import ConfigError, SourceError
from scadles.streams.mqtt.connection import ANSWER_S, Broker, PatientClient, in_words

_TURN_S = 0.05
_REST_S = 0.01
_PACKETS_A_TURN = 50
_PAUSE_S = 1.0
_GOODBYE_S = 10.0
# a broker need not say that it gives a session to another client: it closes, and each takes the session back
_SHORT_S = 3.0
_SHORT_ONES = 5
_TAKEN_OVER = 142
#: Reasons for which no attempt more can succeed: protocol, client id, password, permission, ban, method.
_FINAL = frozenset({128, 132, 133, 134, 135, 138, 140})

_SHARED = "does another client use the same client_id?"

Received = Callable[[MQTTMessage, int], None]


class Session:
    """Subscribes to a topic with QoS 1, acknowledges what it is told to, and connects again when it must.

    Args:
        client: not connected yet, with manual acknowledgement.
        broker: where, and the topic.
        received: called in the session's thread with each message and the life it belongs to.
        forgotten: called there when the broker knows nothing of a session that should be there.
        patience_s: wall seconds without a connection after which the stream is broken for good.
        full: whether nothing more should be read for now. What is not read fills the buffers of the network, and then
            the broker waits, however many messages MQTT lets it send.
        connected: called in the session's thread before a new connection brings anything.

    Attributes:
        life: grows when the broker has forgotten the session; message numbers (mid) of an earlier life mean nothing.
    """

    def __init__(
        self,
        client: PatientClient,
        broker: Broker,
        received: Received,
        forgotten: Callable[[], None],
        patience_s: float,
        full: Callable[[], bool] = lambda: False,
        connected: Callable[[], None] = lambda: None,
    ) -> None:
        self.life = 0
        self._client = client
        self._broker = broker
        self._received = received
        self._forgotten = forgotten
        self._patience_s = patience_s
        self._full = full
        self._connected = connected
        self._read_s = self._spoke_s = 0.0
        self._awaited: int | None = None
        self._expected = False
        self._clearing = False
        self._messages = 0
        self._acknowledgements = deque[tuple[int, int]]()
        self._connected_s = wall_seconds()
        self._said = "no answer"
        self._made_s: float | None = None
        self._short_ones = 0
        self._failure = ""
        self._settled = threading.Event()
        self._leaving = threading.Event()
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._run, name="mqtt", daemon=True)
        client.on_connect = self._on_connect
        client.on_subscribe = self._on_subscribe
        client.on_disconnect = self._on_disconnect
        client.on_message = self._on_message

    @property
    def failed(self) -> bool:
        """Whether the stream is broken for good."""
        return bool(self._failure)

    def open(self, *, expected: bool) -> None:
        """Connect and subscribe.

        Args:
            expected: whether the broker should know the session already.

        Raises:
            ConfigError: nobody answers within 10 s, or we are refused.
        """
        self._expected = expected
        # Mosquitto 2.0.11 writes no session to its disk that began with a clean start. So one connection
        # clears what was there, and the next one finds an empty session.
        self._clearing = not expected
        self._thread.start()
        answered = self._settled.wait(ANSWER_S)
        if self._failure or not answered:
            problem = self._failure or f"no connection within {ANSWER_S:g} s: {self._said}"
            self.close()
            raise ConfigError(f"{self._broker.place}: {problem}")

    def check(self) -> None:
        """Raise a SourceError where the stream is broken for good."""
        if self._failure:
            raise SourceError(f"{self._broker.place}: {self._failure}")

    def acknowledge(self, life: int, mid: int) -> None:
        """Tell the broker, soon, that a message need not come again. Any thread may say so."""
        self._acknowledgements.append((life, mid))

    def reconnect(self) -> None:
        """Leave the broker and come back, soon: it delivers again what is not acknowledged. Any thread may say so."""
        self._leaving.set()

    def close(self) -> None:
        """Say goodbye; the session stays at the broker. Closing twice is no error."""
        self._closing.set()
        if self._thread.is_alive() and threading.current_thread() is not self._thread:
            self._thread.join(_GOODBYE_S + 2.0)

    def _run(self) -> None:
        try:
            while not self._closing.is_set() and not self._failure:
                clearing = self._clearing
                self._attempt()
                if self._leaving.is_set():
                    self._say_goodbye()
                    self._leaving.clear()
                    continue
                if clearing and not self._clearing:
                    continue
                if wall_seconds() - self._connected_s > self._patience_s:
                    self._fail(f"no connection for {self._patience_s:g} s: {self._said}")
                self._closing.wait(_PAUSE_S)
            self._say_goodbye()
        except Exception as error:  # noqa: BLE001 - an error that stayed in this thread would be a stream gone silent
            self._fail(f"{type(error).__name__}: {error}")

    def _say_goodbye(self) -> None:
        """Send the last acknowledgements and wait until the broker has read them, or it sends those messages again.

        To close a socket while messages wait in it unread resets the connection, and the broker's kernel then throws
        away what the broker has not read. A broker answers in order, so its answer to a further request is the proof.
        """
        self._send_acknowledgements()
        self._settled.clear()
        if self._client.is_connected():
            self._awaited = self._subscribe()
        deadline_s = wall_seconds() + _GOODBYE_S
        while not self._settled.is_set() and self._client.is_connected() and wall_seconds() < deadline_s:
            self._turn()
        self._client.disconnect()

    def _subscribe(self) -> int | None:
        """Ask for the topic's messages; return the number by which the answer tells what it answers."""
        # retained messages are of the past, and would come once more after each connection
        options = SubscribeOptions(qos=1, retainHandling=SubscribeOptions.RETAIN_DO_NOT_SEND)
        self._spoke_s = wall_seconds()
        return self._client.subscribe(self._broker.topic, options=options)[1]

    def _speak(self) -> None:
        """Give the broker a sign of life where no pings are sent: to subscribe once more changes nothing."""
        pinged = self._made_s is None or not self._client.hears or not self._client.is_connected()
        if not pinged and wall_seconds() - self._spoke_s > self._client.keepalive / 2:
            self._subscribe()

    def _attempt(self) -> None:
        """Connect, and serve the connection until it breaks."""
        self._made_s = None
        try:
            self._client.reconnect()
            while not (self._closing.is_set() or self._leaving.is_set() or self._failure) and self._turn():
                pass
            self._count_short_ones()
        except OSError as error:
            self._said = in_words(error)
            if isinstance(error, ssl.SSLCertVerificationError):
                self._fail(self._said)

    def _count_short_ones(self) -> None:
        if self._made_s is None or self._closing.is_set() or self._leaving.is_set():
            return
        self._short_ones = self._short_ones + 1 if wall_seconds() - self._made_s < _SHORT_S else 0
        if self._short_ones == _SHORT_ONES:
            self._fail(f"{_SHORT_ONES} connections in a row were closed soon after they were made: {_SHARED}")

    def _turn(self) -> bool:
        """Read and write what there is; return whether the connection still stands."""
        self._speak()
        if self._rests():
            self._settled.set()  # the answer to our subscription lies behind messages that it brought
            self._send_acknowledgements()
            self._closing.wait(_REST_S)
            return self._client.is_connected()
        self._read_s = wall_seconds()
        code = self._client.loop(_TURN_S)
        until, before = self._messages + _PACKETS_A_TURN, -1
        while code == MQTTErrorCode.MQTT_ERR_SUCCESS and before < self._messages < until and not self._full():
            before = self._messages
            code = self._client.loop_read()  # a turn of paho's own reads one message only
        self._send_acknowledgements()
        if self._client.is_connected():
            self._connected_s = wall_seconds()
        return code == MQTTErrorCode.MQTT_ERR_SUCCESS

    def _rests(self) -> bool:
        """Whether nothing is read now; a message every now and then shows, as does our ping, that we are all there."""
        if self._closing.is_set() or not self._client.is_connected() or not self._full():
            return False
        return wall_seconds() - self._read_s < self._client.keepalive / 4

    def _send_acknowledgements(self) -> None:
        while self._acknowledgements and self._client.is_connected():
            life, mid = self._acknowledgements.popleft()
            if life == self.life:
                self._client.ack(mid, 1)

    def _on_connect(
        self, client: Client, userdata: Any, flags: ConnectFlags, reason: ReasonCode, properties: Properties | None
    ) -> None:
        del userdata, properties
        if reason.is_failure:
            self._said = f"the broker refuses us: {reason}"
            if reason.value in _FINAL:
                self._fail(self._said)
            return
        if self._clearing:
            self._clearing = False
            client.disconnect()
            return
        if not flags.session_present:
            self.life += 1
            self._acknowledgements.clear()
            if self._expected:
                self._forgotten()
        self._expected = True
        self._made_s = wall_seconds()
        self._connected()
        self._subscribe()

    def _on_subscribe(
        self, client: Client, userdata: Any, mid: int, reasons: list[ReasonCode], properties: Properties | None
    ) -> None:
        del client, userdata, properties
        for reason in reasons:
            if reason.is_failure:
                self._fail(f"the broker does not let us subscribe to {self._broker.topic}: {reason}")
            elif reason.value < 1:
                self._fail(f"the broker grants {self._broker.topic} with QoS 0 only, which loses messages")
        if self._awaited is None or mid == self._awaited:
            self._settled.set()

    def _on_disconnect(
        self,
        client: Client,
        userdata: Any,
        flags: DisconnectFlags,
        reason: ReasonCode,
        properties: Properties | None,
    ) -> None:
        del client, userdata, properties
        if flags.is_disconnect_packet_from_server or reason.is_failure:
            self._said = f"the connection was closed: {reason}"
        if reason.value == _TAKEN_OVER:
            self._fail(f"the session was taken over: {_SHARED}")

    def _on_message(self, client: Client, userdata: Any, message: MQTTMessage) -> None:
        del client, userdata
        self._messages += 1
        self._client.heard_s = wall_seconds()
        if not self._closing.is_set():  # who is leaving takes nothing in: not acknowledged, it comes again
            self._received(message, self.life)

    def _fail(self, problem: str) -> None:
        self._failure = self._failure or problem
        self._settled.set()
