"""What a device wants of its stream at a broker."""

from __future__ import annotations

import hashlib
import os
import platform
from dataclasses import dataclass
from pathlib import Path

from scadles.errors import ConfigError
from scadles.streams.registry import SourceURL

#: Parameters of an address that :class:`Terms` is made of.
PARAMETERS = ("client_id", "session", "receive_max", "expiry_s", "patience_s")


@dataclass(frozen=True)
class Terms:
    """What a device wants of its stream.

    Attributes:
        client_id: names the session at the broker; the same for a run and the runs that resume it, of no other.
        keep_session: whether a fresh run takes over a session of this name, with what the broker kept for it.
        truncates: whether the newest messages matter and not all: messages are acknowledged as they come, and the
            oldest of more than ``capacity`` waiting ones are dropped. Otherwise they are acknowledged after a
            checkpoint, and the broker holds back what it may not send.
        capacity: messages that wait here at most: of more, the oldest are dropped where the stream is truncated;
            otherwise no more are read from the connection until some are taken.
        max_bytes: longer values are rejected and not kept.
        receive_max: unacknowledged messages at most, 1 to 65,535; the broker sends no more.
        expiry_s: how long the broker keeps the session of a device that is away.
        patience_s: how long a lost connection may stay lost, in wall seconds.
    """

    client_id: str
    keep_session: bool = False
    truncates: bool = False
    capacity: int = 16_384
    max_bytes: int = 1_048_576
    receive_max: int = 65_535
    expiry_s: int = 86_400
    patience_s: float = 60.0


def terms_of(url: SourceURL, client_id: str, *, truncates: bool, capacity: int, max_bytes: int) -> Terms:
    """Return the terms that an address states, and the others as they are given.

    Raises:
        ConfigError: a value out of range.
    """
    session = url.text("session", "new")
    if session not in ("new", "keep"):
        raise ConfigError(f"{url.scheme}://: session={session!r} must be new or keep")
    terms = Terms(
        client_id=url.text("client_id", "") or client_id,
        keep_session=session == "keep",
        truncates=truncates,
        capacity=capacity,
        max_bytes=max_bytes,
        receive_max=url.integer("receive_max", Terms.receive_max),
        expiry_s=url.integer("expiry_s", Terms.expiry_s),
        patience_s=url.number("patience_s", Terms.patience_s),
    )
    limits = (("receive_max", 1, 65_535), ("expiry_s", 0, 2**32 - 1), ("patience_s", 1, 2**32 - 1))
    for name, low, high in limits:
        if not low <= (value := getattr(terms, name)) <= high:
            raise ConfigError(f"{url.scheme}://: {name}={value:g} must be from {low} to {high}")
    return terms


def default_client_id(run_dir: Path | None, device: int) -> str:
    """Return the client id of a run and device: the same when the run goes on in its folder on this machine."""
    if run_dir is None:
        return f"scadles-{device}-{platform.node()}-{os.getpid()}"
    where = f"{platform.node()}:{run_dir.resolve()}"
    return f"scadles-{device}-{hashlib.sha256(where.encode()).hexdigest()[:16]}"
