"""MQTT: topics as streams."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from scadles.clock import Clock
from scadles.errors import ConfigError, MissingExtraError
from scadles.streams.codec import Codec
from scadles.streams.mqtt.terms import Terms, default_client_id, terms_of
from scadles.streams.quarantine import Quarantine
from scadles.streams.registry import SourceURL, register_source

if TYPE_CHECKING:
    from scadles.streams.mqtt.source import MqttSource


@register_source("mqtt")
@register_source("mqtts")
def mqtt_from_url(
    url: SourceURL,
    *,
    clock: Clock | None = None,
    codec: Codec | None = None,
    device: int = 0,
    run_dir: Path | None = None,
    quarantine: Quarantine | None = None,
    max_bytes: int = Terms.max_bytes,
    truncates: bool = False,
    capacity: int = Terms.capacity,
    **_: Any,
) -> MqttSource:
    """Return the source of ``mqtt://host:1883/topic/path`` or ``mqtts://host:8883/topic/path``, not connected yet.

    Parameters: ``username`` and ``password``, which says where the password is (``env:NAME`` or ``file:PATH``); for
    mqtts ``ca``, ``cert``, ``key``, ``key_password``; ``client_id`` (else one of the run folder and device),
    ``session`` (``new``, or ``keep`` to take over what the broker holds for this client id), ``receive_max`` (65535),
    ``expiry_s`` (86400), ``patience_s`` (60) and ``keepalive_s`` (30); see :class:`~scadles.streams.mqtt.terms.Terms`
    and :func:`~scadles.streams.mqtt.connection.make_client`.

    Raises:
        ConfigError: an unknown parameter, a value that cannot work, or no ``codec`` or ``clock``.
        MissingExtraError: the client is not installed.
    """
    if clock is None or codec is None:
        raise ConfigError(f"{url.scheme}:// brings bytes at a time: give it codec=... and clock=...")
    try:
        from scadles.streams.mqtt.source import MqttSource
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] != "paho":
            raise
        raise MissingExtraError(f"{url.scheme}://", "mqtt") from None
    client_id = default_client_id(run_dir, device)
    terms = terms_of(url, client_id, truncates=truncates, capacity=capacity, max_bytes=max_bytes)
    return MqttSource(url, terms, codec, clock, quarantine)
