"""An MQTT topic as a stream."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from paho.mqtt.client import MQTT_CLEAN_START_FIRST_ONLY, MQTTMessage
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties

from scadles.clock import Clock
from scadles.errors import ConfigError, RunError
from scadles.streams.codec import Codec
from scadles.streams.contract import Records, Rejected, Source
from scadles.streams.mqtt.connection import ID, KEY, broker_of, connect, make_client
from scadles.streams.mqtt.inbox import Delivery, Inbox, Waiting
from scadles.streams.mqtt.session import Session
from scadles.streams.mqtt.terms import PARAMETERS, Terms
from scadles.streams.quarantine import Quarantine
from scadles.streams.registry import SourceURL


class MqttSource(Source):
    """One device's messages from a broker, QoS 1, in one persistent session.

    MQTT has no offsets and no history. Offsets are counted here, in the order of arrival; what a resumed run needs is
    redelivered by the broker, because nothing is acknowledged before it is in a checkpoint. Among redelivered messages
    those that were trained on already are known by the user property ``id``, an integer that no other message of the
    stream has; :meth:`mark` holds the ids that are settled. They are counted in :attr:`duplicates`, and not received
    a second time.

    **What ids show:** messages that never came leave a gap in the ids of their producer, which count on by one, as
    those of ``scadles publish`` do. They are counted in :attr:`missing`, and are no part of what was received. The
    first message may have any id. A message that comes late, or once more to a resumed run, is missing no longer. An
    id more than 100,000 ahead of all others is taken for a producer that was started again, so that a longer loss is
    not seen; ids that begin again at 0 are known from before, and count as duplicates. Where more ids jump than follow
    each other, they are no numbers of messages, and nothing is counted.

    **What is promised:** with persistence, ids, a broker that keeps sessions on its disk and room in its queue, each
    message is trained on exactly once, over crashes of devices and orderly restarts of the broker.

    **What is not:** messages without ids may be trained on twice after a crash. A broker that restarts without its
    sessions (mosquitto: ``persistence true``) has lost what it had not delivered; :meth:`notices` says so, nobody can
    say how much. One that is killed loses what it took in since it last wrote to its disk, and says nothing of it
    (``autosave_interval 1``: within a second). Mosquitto queues 1,000 messages for each session
    and drops the newest beyond that without a word: raise ``max_queued_messages``. The broker sends no more while
    ``receive_max`` messages, at most 65,535, are unacknowledged: a checkpoint must come before that many are trained
    and held together, so ``checkpoint.every_steps`` times the batch must stay below it. Messages that were published
    before the session began never come. Where the stream is truncated, messages that a device held when it crashed
    are gone, and count as never received.

    Memory: ``capacity`` times the size of a message, beside what the buffer holds. Where everything is kept and so many
    wait, nothing more is read from the connection until some are taken (but one message every quarter of
    ``keepalive_s``); the rest waits in the broker's memory. ``receive_max`` limits what waits there for
    acknowledgement, and no memory here: Mosquitto 2.0.11 sends more than that.

    Args:
        url: where, and how to log in.
        terms: what the device wants.
        codec: how messages are read.
        clock: event times are when a message arrived.
        quarantine: told of what the codec rejects.

    Raises:
        ConfigError: the address cannot be right, or its secrets are not there.
    """

    def __init__(
        self, url: SourceURL, terms: Terms, codec: Codec, clock: Clock, quarantine: Quarantine | None = None
    ) -> None:
        self._url = url
        self._terms = terms
        self._codec = codec
        self._clock = clock
        self._quarantine = quarantine
        self._broker = broker_of(url)
        self._client_id = terms.client_id
        self._session: Session | None = None
        self._inbox = Inbox(terms, self._acknowledge)
        self._notices: list[str] = []
        self._told = False
        make_client(url, terms.client_id, PARAMETERS)  # what cannot work is said before anything is opened

    def open(self, position: int, mark: Mapping[str, Any] | None = None) -> None:
        if position < 0:
            raise ConfigError(f"position = {position}: a stream begins at offset 0")
        self._inbox.open(position, mark)
        resumed = bool(mark)
        if mark:
            self._client_id = str(mark["client_id"])
        client = make_client(self._url, self._client_id, PARAMETERS)
        client.manual_ack_set(on=True)
        properties = Properties(PacketTypes.CONNECT)  # type: ignore[no-untyped-call]
        properties.SessionExpiryInterval = self._terms.expiry_s
        properties.ReceiveMaximum = self._terms.receive_max
        kept = resumed or self._terms.keep_session
        connect(client, self._url, self._broker, False if kept else MQTT_CLEAN_START_FIRST_ONLY, properties)
        self._session = Session(
            *(client, self._broker, self._receive, self._forget, self._terms.patience_s, self._inbox.full),
            self._inbox.connected,
        )
        self._session.open(expected=kept)

    def rewind(self, position: int, mark: Mapping[str, Any] | None = None) -> bool:
        """Go back where nothing that follows ``position`` is acknowledged: to a connection anew it comes again."""
        session = self._opened()
        goes_back = self._inbox.rewind(position, mark)
        if goes_back:
            session.reconnect()
        return goes_back

    def poll(self, max_records: int, timeout_s: float) -> Records:
        return self._decoded(*self._inbox.take(max_records, timeout_s, self._opened().check))

    def skip(self, keep: int) -> int:
        self._opened().check()
        return self._inbox.skip(keep)

    def lag(self) -> int:
        """Return how many messages wait here; what waits at the broker nobody can tell."""
        return self._inbox.lag()

    @property
    def position(self) -> int:
        return self._inbox.position

    @property
    def duplicates(self) -> int:
        return self._inbox.duplicates

    @property
    def missing(self) -> int:
        return self._inbox.missing()

    def mark(self, position: int) -> dict[str, Any]:
        return {"client_id": self._client_id, **self._inbox.mark(position)}

    def mark_without(
        self, position: int, settled: Sequence[Sequence[int]]
    ) -> tuple[dict[str, Any], Sequence[Sequence[int]]]:
        """Return a mark that knows these messages by their ids; those without an id come again, at other offsets."""
        return {"client_id": self._client_id, **self._inbox.mark(position, settled)}, ()

    def commit(self, position: int) -> None:
        self._opened().check()
        self._inbox.commit(position)

    def notices(self) -> list[str]:
        said, self._notices = self._notices, []
        if self._inbox.starved and not self._told:
            self._told = True
            said.append(
                f"{self._broker.place} may send no more than receive_max = {self._terms.receive_max} messages before "
                "they are acknowledged, and as many were trained or are held since the last checkpoint: lower "
                "checkpoint.every_steps"
            )
        return said

    def close(self) -> None:
        if self._session is not None:
            self._session.close()

    def _opened(self) -> Session:
        if self._session is None:
            raise RunError("the stream is not open yet")
        return self._session

    def _acknowledge(self, life: int, mid: int) -> None:
        self._opened().acknowledge(life, mid)

    def _receive(self, message: MQTTMessage, life: int) -> None:
        """Take in a message; called in the session's thread."""
        number, key = _user_properties(message)
        mid = message.mid if message.qos else None
        value = bytes(message.payload)
        self._inbox.deliver(Delivery(number, mid, life, message.dup, self._clock.now(), key, value))

    def _forget(self) -> None:
        self._inbox.forget()
        self._notices.append(
            f"{self._broker.place} has forgotten this device's session: messages of {self._broker.topic} that it had "
            "not delivered are lost, nobody knows how many (does the broker keep sessions on its disk?)"
        )

    def _decoded(self, messages: list[Waiting], lost: int) -> Records:
        decoded = self._codec.decode([m.value for m in messages], [m.key for m in messages])
        rejected = []
        for place, said in decoded.rejected:
            offset, _, key, value, reason = messages[place]
            rejected.append(Rejected(offset, reason or said))
            if self._quarantine is not None:
                self._quarantine.keep(offset, reason or said, value, key)
        offsets = np.array([m.offset for m in messages], dtype=np.int64)
        times = np.array([m.time_s for m in messages], dtype=np.float64)
        kept = decoded.kept
        return Records(offsets[kept], times[kept], decoded.x, decoded.y, tuple(rejected), lost)


def _user_properties(message: MQTTMessage) -> tuple[int | None, bytes | None]:
    """Return a message's id, if it has one that is an integer, and its key."""
    number: int | None = None
    key: bytes | None = None
    for name, value in getattr(message.properties, "UserProperty", ()):
        if name == ID and value.isascii() and value.isdigit() and len(value) < 20:
            number = int(value)
        elif name == KEY:
            key = value.encode()
    return number, key
