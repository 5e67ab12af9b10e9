"""The other end of live streams: records out, by topic, with a count of what arrived."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib import import_module
from typing import Any

from scadles.errors import ConfigError, MissingExtraError, did_you_mean
from scadles.streams.registry import SourceURL


@dataclass(frozen=True)
class Retention:
    """How long a new topic keeps records; None leaves it to the server.

    Attributes:
        seconds: age at which records may go.
        megabytes: size of a topic, in 10^6 bytes, beyond which its oldest records may go.
    """

    seconds: float | None = None
    megabytes: float | None = None


class DeliveryCounts:
    """What became of the records of one topic. A producer writes it, anybody reads it.

    Attributes:
        acknowledged: records that the server has said it holds.
        failed: records that it has not taken.
        last_s: when the last acknowledgement came, in the seconds of the producer's clock.
        problem: why the last failed one failed.
    """

    __slots__ = ("acknowledged", "failed", "last_s", "problem")

    def __init__(self) -> None:
        self.acknowledged = 0
        self.failed = 0
        self.last_s = 0.0
        self.problem = ""


class Producer(ABC):
    """Sends the records of several topics of one server.

    It is opened once, used by one thread and closed once. What waits in it is bounded: a producer whose queue is full
    says so, and takes nothing until :meth:`serve` has made room.

    Attributes:
        counts: what became of the records, one for each topic.
    """

    counts: Sequence[DeliveryCounts]

    @abstractmethod
    def open(self, create: Retention | None) -> None:
        """Connect; make the topics that are not there, unless ``create`` is None.

        Raises:
            ConfigError: nobody answers within 15 s, the server refuses us, or a topic is not there.
        """

    @abstractmethod
    def send(self, topic: int, number: int, key: bytes | None, value: bytes) -> bool:
        """Hand over a record without waiting; False where the queue is full.

        Args:
            topic: which one, counted from 0.
            number: of the record among those of its topic, ascending.
            key: of the message; None for none.
            value: of the message.

        Raises:
            ConfigError: a record that can never be sent, such as one that is too large.
            SourceError: the connection is gone for good.
        """

    @abstractmethod
    def serve(self, timeout_s: float) -> None:
        """Take acknowledgements into account, waiting up to ``timeout_s`` for the first one."""

    @abstractmethod
    def waiting(self) -> int:
        """Return how many records were handed over and neither acknowledged nor given up."""

    @abstractmethod
    def close(self) -> None:
        """Give everything back. Closing twice is no error."""


#: Where the producers of a scheme are made, of what client, by which extra; imported when one is asked for.
_FACTORIES = {
    "kafka": ("scadles.streams.kafka.producer", "confluent_kafka", "kafka"),
    "mqtt": ("scadles.streams.mqtt.producer", "paho", "mqtt"),
    "mqtts": ("scadles.streams.mqtt.producer", "paho", "mqtt"),
}


def make_producer(urls: Sequence[SourceURL], **context: Any) -> Producer:
    """Return the producer of topics that differ in nothing but their path, not opened yet.

    Raises:
        ConfigError: a scheme that takes no records, or a parameter that cannot work.
        MissingExtraError: its client is not installed.
    """
    scheme = urls[0].scheme
    if scheme == "replay":
        raise ConfigError(
            "stream.url = replay://...: a replayed stream is no server that records could be sent to; set stream.url, "
            "for example kafka://localhost:9092/camera-{device}"
        )
    if scheme not in _FACTORIES:
        raise ConfigError(f"stream.url: {scheme}:// takes no records{did_you_mean(scheme, _FACTORIES)}")
    module, client, extra = _FACTORIES[scheme]
    try:
        factory: Callable[..., Producer] = import_module(module).producer_from_urls
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] != client:
            raise
        raise MissingExtraError(f"{scheme}://", extra) from None
    return factory(urls, **context)
