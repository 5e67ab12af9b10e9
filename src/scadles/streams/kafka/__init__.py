"""Kafka: topics as streams."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from scadles.errors import ConfigError, MissingExtraError
from scadles.streams.codec import Codec
from scadles.streams.quarantine import Quarantine
from scadles.streams.registry import SourceURL, register_source

if TYPE_CHECKING:
    from scadles.streams.kafka.source import KafkaSource


@register_source("kafka")
def kafka_from_url(
    url: SourceURL,
    *,
    codec: Codec | None = None,
    quarantine: Quarantine | None = None,
    device: int = 0,
    run_dir: Path | None = None,
    stop_at_end: bool = False,
    **_: Any,
) -> KafkaSource:
    """Return the source of ``kafka://host:port,host:port/topic?...``, not connected yet.

    Parameters: ``partitions`` (``all``, or numbers such as ``0,1``), ``from`` (where a fresh run begins:
    ``beginning`` or ``now``), ``group`` (under which positions are told to the brokers; default ``scadles-`` and the
    run folder's name), ``patience_s`` (wall seconds for which brokers may be away, default 60). A parameter with a
    dot in its name is an option of librdkafka and goes there as it is, such as ``security.protocol=SASL_SSL``; of
    secrets among them it says where they are: ``sasl.password=env:NAME`` or ``file:PATH``.

    Raises:
        ConfigError: an unknown parameter, a value that cannot work, or no ``codec``.
        MissingExtraError: the client is not installed.
    """
    if codec is None:
        raise ConfigError("kafka:// brings bytes: give it codec=...")
    try:
        from scadles.streams.kafka.address import KafkaAddress
        from scadles.streams.kafka.connection import Complaints
        from scadles.streams.kafka.source import KafkaSource
    except ModuleNotFoundError as error:
        if error.name != "confluent_kafka":
            raise
        raise MissingExtraError("kafka://", "kafka") from None
    complaints = Complaints()
    group = f"scadles-{run_dir.resolve().name}" if run_dir is not None else "scadles"
    address = KafkaAddress.of(url, complaints, group=group, client=f"scadles-{device}")
    return KafkaSource(address, complaints, codec, quarantine, stop_at_end=stop_at_end)
