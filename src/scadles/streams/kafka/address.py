"""What the address of a topic says."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from scadles.errors import ConfigError
from scadles.streams.kafka.connection import Complaints, client_options, servers_of
from scadles.streams.registry import SourceURL

if TYPE_CHECKING:
    from typing_extensions import Self

_OURS = ("partitions", "from", "group", "patience_s")
_FIXED = {
    "enable.auto.commit": False,
    "enable.auto.offset.store": False,
    "enable.partition.eof": True,
    "auto.offset.reset": "error",
}
_OPEN = {
    "fetch.wait.max.ms": 20,
    "fetch.queue.backoff.ms": 10,
    "queued.max.messages.kbytes": 32 * 1024,
    "socket.timeout.ms": 10_000,
    "topic.metadata.refresh.interval.ms": 30_000,
}


@dataclass(frozen=True)
class KafkaAddress:
    """``kafka://host:port,host:port/topic?partitions=0,1&from=now&group=NAME&patience_s=60&any.option=value``.

    Attributes:
        servers: ``host:port,host:port``.
        topic: one topic.
        partitions: which of its partitions; None: all there are when the stream is opened.
        begin: where a fresh run begins: at the oldest record there is (``beginning``), or behind the newest (``now``).
        group: under which name positions are committed to the brokers.
        patience_s: wall seconds for which no broker may answer before the stream counts as broken.
        options: of librdkafka.
    """

    servers: str
    topic: str
    partitions: tuple[int, ...] | None
    begin: str
    group: str
    patience_s: float
    options: dict[str, Any]

    @classmethod
    def of(cls, url: SourceURL, complaints: Complaints, *, group: str, client: str) -> Self:
        """Take an address apart.

        Args:
            url: the address.
            complaints: told what the client says.
            group: used where the address names none.
            client: the name under which the client shows up at the brokers.

        Raises:
            ConfigError: a part that is missing, unknown or cannot work.
        """
        servers = servers_of(url)
        if not url.path or "/" in url.path:
            raise ConfigError(f"kafka://{servers}/{url.path}: write kafka://host:port/topic, with one topic")
        for name in ("bootstrap.servers", "group.id", *_FIXED):
            if name in url.query:
                raise ConfigError(f"kafka://: {name} is not yours to set, a stream's positions are kept in checkpoints")
        begin, patience_s = url.text("from", "beginning"), url.number("patience_s", 60.0)
        if begin not in ("beginning", "now"):
            raise ConfigError(f"kafka://: from={begin!r} must be beginning or now")
        if patience_s <= 0:
            raise ConfigError(f"kafka://: patience_s={patience_s:g} must be above 0")
        group = url.text("group", group)
        options = _OPEN | client_options(url, _OURS, complaints) | _FIXED | {"group.id": group}
        options["client.id"] = url.text("client.id", client)
        return cls(servers, url.path, _partitions(url.text("partitions", "all")), begin, group, patience_s, options)

    def __str__(self) -> str:
        """Return the address without options, some of which are secrets."""
        return f"kafka://{self.servers}/{self.topic}"


def _partitions(text: str) -> tuple[int, ...] | None:
    if text == "all":
        return None
    numbers = text.split(",")
    if not all(number.isdecimal() for number in numbers) or len({*map(int, numbers)}) < len(numbers):
        raise ConfigError(f"kafka://: partitions={text!r} must be all, or different numbers such as 0,1")
    return tuple(sorted(map(int, numbers)))
