"""Whether a cluster answers."""

from __future__ import annotations

from confluent_kafka import KafkaException, Producer

from scadles.streams.kafka.connection import Complaints, client_options, created
from scadles.streams.registry import SourceURL


def is_there(servers: str, timeout_s: float) -> bool:
    """Return whether one of ``servers`` (``host:port,host:port``) answers a question within ``timeout_s``."""
    client = created(Producer, client_options(SourceURL.parse(f"kafka://{servers}"), (), Complaints()))
    try:
        client.list_topics(timeout=timeout_s)
    except KafkaException:
        return False
    return True
