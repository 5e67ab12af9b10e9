"""What all clients of an MQTT broker have in common: options from an address, and words for what goes wrong."""

from __future__ import annotations

import math
import ssl
from collections.abc import Collection
from typing import NamedTuple
from urllib.parse import unquote

from paho.mqtt.client import MQTT_CLEAN_START_FIRST_ONLY, CleanStartOption, Client
from paho.mqtt.enums import CallbackAPIVersion, MQTTErrorCode, MQTTProtocolVersion
from paho.mqtt.properties import Properties

from scadles.clock import wall_seconds
from scadles.errors import ConfigError
from scadles.streams.registry import SourceURL
from scadles.streams.secrets import read_secret

#: User properties of a message: its number, which no other message of the stream has, and what Kafka calls its key.
ID, KEY = "id", "key"
#: A broker that has not answered for so long at the start is not there.
ANSWER_S = 10.0
_CONNECT_S = 5.0
_PORTS = {"mqtt": 1883, "mqtts": 8883}
_COMMON = ("username", "password", "ca", "cert", "key", "key_password", "keepalive_s")
_KEEPALIVE_S = 30


class Broker(NamedTuple):
    """Where a broker is.

    Attributes:
        scheme: ``mqtt``, or ``mqtts`` for an encrypted connection.
        topic: what an address names there.
    """

    scheme: str
    host: str
    port: int
    topic: str

    @property
    def place(self) -> str:
        """The address without the topic and without parameters, for messages."""
        return f"{self.scheme}://{self.host}:{self.port}"


def broker_of(url: SourceURL) -> Broker:
    """Return the broker and topic of an address; a topic's ``#`` is written ``%23``.

    Raises:
        ConfigError: there is none.
    """
    host, colon, port = url.netloc.rpartition(":") if not url.netloc.endswith("]") else (url.netloc, "", "")
    if not colon:
        host, port = url.netloc, str(_PORTS[url.scheme])
    if not host or not port.isdecimal() or not 0 < int(port) < 65536:
        raise ConfigError(f"{url.scheme}://{url.netloc}: names no broker; write {url.scheme}://host:port/topic")
    if not url.path:
        raise ConfigError(f"{url.scheme}://{url.netloc}: names no topic; write {url.scheme}://{url.netloc}/topic")
    return Broker(url.scheme, host.strip("[]"), int(port), unquote(url.path))


class PatientClient(Client):
    """A client that knows messages for a sign of life.

    paho only counts answers to its pings. Such an answer lies behind all messages that wait to be read, so that a
    healthy connection with many of them would be given up.

    Attributes:
        heard_s: wall seconds at which the last message came; whoever gets it sets this.
    """

    heard_s = -math.inf

    @property
    def hears(self) -> bool:
        """Whether messages come, and no ping is needed."""
        return wall_seconds() - self.heard_s < self.keepalive / 2

    def loop_misc(self) -> MQTTErrorCode:
        return MQTTErrorCode.MQTT_ERR_SUCCESS if self.hears else super().loop_misc()


def make_client(url: SourceURL, client_id: str, ours: Collection[str] = ()) -> PatientClient:
    """Return a client for MQTT 5 that is not connected yet; secrets are read from where the address says they are.

    Parameters of all clients: ``username`` and ``password`` (``env:NAME`` or ``file:PATH``); for mqtts ``ca`` (a file
    of certificates to trust; the system's by default), ``cert`` and ``key`` of a client that must prove who it is, and
    ``key_password`` (as ``password``); ``keepalive_s``, after which silence means a dead connection (30).

    Args:
        url: the address.
        client_id: the client's name at the broker, which tells sessions apart.
        ours: further parameters that are allowed.

    Raises:
        ConfigError: an unknown parameter, a secret that is not there, a certificate that cannot be read.
    """
    url.expect(*_COMMON, *ours)
    client = PatientClient(CallbackAPIVersion.VERSION2, client_id, protocol=MQTTProtocolVersion.MQTTv5)
    client.connect_timeout = _CONNECT_S
    if (password := url.text("password", "")) and "username" not in url.query:
        raise ConfigError(f"{url.scheme}://: password without username")
    if "username" in url.query:
        secret = read_secret(f"{url.scheme}:// password", password) if password else None
        client.username_pw_set(url.text("username", ""), secret)
    if url.scheme == "mqtts":
        client.tls_set_context(_encryption(url))
    elif given := [name for name in ("ca", "cert", "key", "key_password") if name in url.query]:
        raise ConfigError(f"mqtt://: {given[0]} is of an encrypted connection; write mqtts://")
    return client


def connect(
    client: Client,
    url: SourceURL,
    broker: Broker,
    clean_start: CleanStartOption = MQTT_CLEAN_START_FIRST_ONLY,
    properties: Properties | None = None,
) -> None:
    """Remember how to connect; whoever runs the network loop does so by ``client.reconnect()``.

    Args:
        client: of :func:`make_client`.
        url: the address.
        broker: what :func:`broker_of` makes of it.
        clean_start: whether the broker shall forget an earlier session of this client, the first time or never.
        properties: of MQTT 5's CONNECT.
    """
    keepalive_s = url.integer("keepalive_s", _KEEPALIVE_S)
    if not 1 <= keepalive_s < 65536:
        raise ConfigError(f"{url.scheme}://: keepalive_s={keepalive_s} must be from 1 to 65535")
    client.connect_async(broker.host, broker.port, keepalive_s, clean_start=clean_start, properties=properties)


def in_words(error: Exception) -> str:
    """Return what went wrong with a connection, without addresses or secrets."""
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"its certificate is not to be trusted ({error.verify_message})"
    if isinstance(error, ssl.SSLError):
        return f"no encrypted connection ({error.reason or error.strerror or error})"
    if isinstance(error, TimeoutError):
        return "no answer"
    return str(getattr(error, "strerror", None) or error or type(error).__name__)


def _encryption(url: SourceURL) -> ssl.SSLContext:
    """Return how an encrypted connection is made: certificates are always checked, TLS 1.2 or later."""
    cert, key = url.text("cert", ""), url.text("key", "")
    password = url.text("key_password", "")
    secret = read_secret("mqtts:// key_password", password) if password else ""
    if bool(cert) != bool(key):
        raise ConfigError("mqtts://: cert and key belong together, give both or none")
    try:
        context = ssl.create_default_context(cafile=url.text("ca", "") or None)
    except (OSError, ssl.SSLError) as error:
        raise ConfigError(f"mqtts://: ca={url.text('ca', '')}: {in_words(error)}") from None
    if cert:
        try:
            # without a password here OpenSSL would ask for one on the terminal
            context.load_cert_chain(cert, key, password=lambda: secret)
        except (OSError, ssl.SSLError, ValueError) as error:
            raise ConfigError(f"mqtts://: cert={cert}, key={key}: {in_words(error)}") from None
    return context
