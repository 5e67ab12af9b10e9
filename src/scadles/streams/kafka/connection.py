"""What all clients of a Kafka cluster have in common: options from an address, and one clear message when it fails."""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection
from typing import Any, Protocol

from confluent_kafka import KafkaError, KafkaException

from scadles.clock import wall_seconds
from scadles.config.addresses import is_secret
from scadles.errors import ConfigError, SourceError
from scadles.streams.registry import SourceURL
from scadles.streams.secrets import read_secret

#: Nobody answering for so long at the start is an error.
ANSWER_S = 10.0
_ASK_S = 1.0
_REFUSALS = frozenset(
    {
        KafkaError._AUTHENTICATION,
        KafkaError._SSL,
        KafkaError.SASL_AUTHENTICATION_FAILED,
        KafkaError.CLUSTER_AUTHORIZATION_FAILED,
        KafkaError.TOPIC_AUTHORIZATION_FAILED,
        KafkaError._FATAL,
    }
)


class Complaints:
    """Listens to a client's threads, which talk of errors as long as something is wrong.

    Attributes:
        last: what was said last; empty while all is well.
        refusal: why no attempt more can succeed, such as a wrong password; empty while one can.
    """

    def __init__(self) -> None:
        self.last = ""
        self.refusal = ""

    def __call__(self, error: KafkaError) -> None:
        """Take note of an error: this is a client's ``error_cb``."""
        # which brokers and why has been said before, or will be in a moment
        together = error.code() == KafkaError._ALL_BROKERS_DOWN
        self.last = self.last or "all brokers are down" if together else error.str()
        if error.code() in _REFUSALS or error.fatal():
            self.refusal = error.str()

    def raise_refusal(self, servers: str) -> None:
        """Raise a SourceError where no attempt more can succeed."""
        if self.refusal:
            raise SourceError(f"kafka://{servers}: {self.refusal}")


def servers_of(url: SourceURL) -> str:
    """Return the brokers of an address as ``host:port,host:port``.

    Raises:
        ConfigError: there is none.
    """
    if not url.netloc:
        raise ConfigError("kafka://: names no broker; write kafka://host:9092/topic")
    return url.netloc


def client_options(url: SourceURL, ours: Collection[str], complaints: Complaints) -> dict[str, Any]:
    """Return the options of a client: every parameter with a dot in its name goes to librdkafka as it is.

    Secrets among them are read from where the address says they are.

    Args:
        url: the address.
        ours: parameters that mean something to ScaDLES; any other one without a dot is refused.
        complaints: told what the client's threads say.
    """
    given = {name: value for name, value in url.query.items() if "." in name}
    url.expect(*ours, *given)
    secrets = {name: read_secret(f"kafka:// {name}", value) for name, value in given.items() if is_secret(name)}
    return {
        "bootstrap.servers": servers_of(url),
        "client.id": "scadles",
        "reconnect.backoff.max.ms": 2000,
        "socket.keepalive.enable": True,
        **given,
        **secrets,
        "error_cb": complaints,
        "logger": _silent(),
    }


def created(make: Callable[[dict[str, Any]], Any], options: dict[str, Any]) -> Any:
    """Return ``make(options)``, a client; what librdkafka does not like about its options becomes a ConfigError."""
    try:
        return make(options)
    except (KafkaException, ValueError, TypeError) as error:
        said = error.args[0].str() if isinstance(error, KafkaException) else str(error)
        raise ConfigError(f"kafka://{options['bootstrap.servers']}: {said}") from None


class _Client(Protocol):
    def list_topics(self, topic: Any = ..., timeout: float = ...) -> Any: ...
    def poll(self, timeout: float = ...) -> Any: ...


def ask_for_topics(client: _Client, servers: str, complaints: Complaints) -> dict[str, int]:
    """Return all topics of a cluster and how many partitions each has.

    Raises:
        ConfigError: nobody answers within 10 s, or we are refused.
    """
    deadline_s = wall_seconds() + ANSWER_S
    said = ""
    while wall_seconds() < deadline_s and not complaints.refusal:
        try:
            found = client.list_topics(timeout=_ASK_S)
        except KafkaException as error:
            said = error.args[0].str()
            client.poll(0)
        else:
            return {name: len(topic.partitions) for name, topic in found.topics.items() if topic.error is None}
    if complaints.refusal:
        raise ConfigError(f"kafka://{servers} refuses us: {complaints.refusal}")
    raise ConfigError(
        f"kafka://{servers}: no answer within {ANSWER_S:g} s ({complaints.last or said}); is the broker there, and "
        "does security.protocol fit?"
    )


def _silent() -> logging.Logger:
    """Return a logger that keeps librdkafka's running commentary from the terminal: errors come as complaints."""
    logger = logging.getLogger("scadles.kafka")
    logger.propagate = False
    if not logger.handlers:
        logger.addHandler(logging.NullHandler())
    return logger
