"""The first words of a device on a connection, and what the hub answers."""

from __future__ import annotations

import socket
import ssl
from contextlib import ExitStack
from ipaddress import ip_address
from typing import Any

from scadles.errors import FabricError
from scadles.fabric.hub.connection import Connection
from scadles.fabric.hub.frames import FrameError, Kind
from scadles.fabric.hub.secure import SecureConnection
from scadles.security.authority import HUB_NAME

_CONNECT_S = 10.0


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches an address."""
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def say_hello(
    address: tuple[str, int],
    name: str,
    hello: dict[str, Any],
    context: ssl.SSLContext | None,
    hub_name: str | None = HUB_NAME,
) -> tuple[Connection, dict[str, Any]]:
    """Open a connection to a hub, and say hello; return it with the answer.

    Args:
        address: of the hub.
        name: of this device, for messages.
        hello: what is said.
        context: with which TLS is spoken; None speaks plain text.
        hub_name: what the hub's certificate must be for; None for its address.

    Raises:
        OSError: nobody answers, or the connection broke.
        FabricError: the hub refuses this device, or is not the one that it trusts.
    """
    sock = socket.create_connection(address, _CONNECT_S)
    if context is None:
        connection = Connection(sock)
    else:
        is_external = hub_name is None
        connection = SecureConnection(
            sock, context, at_hub=False, hub_name=hub_name or address[0], external=is_external
        )
    with ExitStack() as failing:
        failing.callback(connection.close)
        connection.limit(_CONNECT_S)
        connection.shake_hands()
        connection.send_text(Kind.HELLO, hello)
        frame = connection.receive()
        answer = connection.receive_text(frame)
        connection.limit(None)
        if frame.kind is Kind.REFUSAL:
            raise FabricError(f"the hub refuses {name}: {answer.get('why')}")
        if frame.kind is not Kind.WELCOME:
            raise FrameError(f"the hub answers a hello with {frame.kind.name}")
        failing.pop_all()
    return connection, answer
