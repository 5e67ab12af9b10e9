"""The first words of a device on a connection, and what the hub answers."""

from __future__ import annotations

import socket
import ssl
from contextlib import ExitStack
from ipaddress import ip_address
from typing import Any

from scadles.errors import FabricError
from scadles.fabric.hub.connection import BusyError, Connection
from scadles.fabric.hub.frames import FrameError, Kind
from scadles.fabric.hub.members import reason_of
from scadles.fabric.hub.secure import SecureConnection
from scadles.security.authority import HUB_NAME

_ANSWER_S = 10.0
_LEAST_S = 1.0
_MOST_REFUSAL = 1000
#: The longest that an attempt to connect may take.
LONGEST_CONNECT_S = 10.0


def connect_limit_s(attempt: int, *, again: bool) -> float:
    """Return how long an attempt to connect may take.

    TCP repeats its first packet after 1, 3 and 7 s, so that a link which comes back is found the later the longer an
    attempt goes on; but where a round trip takes seconds short attempts never come to an end. Therefore one in two is
    twice as long as the others, one in two of those twice as long again, and so on; and for a device that waits for its
    link to come back, and has time, one in four.

    Args:
        attempt: which one it is, from 1 on.
        again: whether this device has reached the hub before.

    >>> [connect_limit_s(attempt, again=False) for attempt in range(1, 9)]
    [1.0, 2.0, 1.0, 4.0, 1.0, 2.0, 1.0, 8.0]
    """
    limit_s, one_in = _LEAST_S, 4 if again else 2
    while attempt % one_in == 0:
        attempt, limit_s = attempt // one_in, 2 * limit_s
    return min(limit_s, LONGEST_CONNECT_S)


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
    connect_s: float = LONGEST_CONNECT_S,
) -> tuple[Connection, dict[str, Any]]:
    """Open a connection to a hub, and say hello; return it with the answer.

    Args:
        address: of the hub.
        name: of this device, for messages.
        hello: what is said.
        context: with which TLS is spoken; None speaks plain text.
        hub_name: what the hub's certificate must be for; None for its address.
        connect_s: how long it may take until somebody answers.

    Raises:
        OSError: nobody answers, or the connection broke.
        BusyError: the hub refuses this device for now.
        FabricError: the hub refuses this device, or is not the one that it trusts.
    """
    sock = socket.create_connection(address, connect_s)
    if context is None:
        connection = Connection(sock)
    else:
        is_external = hub_name is None
        connection = SecureConnection(
            sock, context, at_hub=False, hub_name=hub_name or address[0].partition("%")[0], external=is_external
        )
    with ExitStack() as failing:
        failing.callback(connection.close)
        connection.limit(_ANSWER_S)
        connection.shake_hands()
        connection.send_text(Kind.HELLO, hello)
        frame = connection.receive()
        answer = connection.receive_text(frame)
        connection.limit(None)
        if frame.kind is Kind.REFUSAL and answer.get("again"):
            raise BusyError(reason_of(answer.get("why"), _MOST_REFUSAL))
        if frame.kind is Kind.REFUSAL:
            raise FabricError(f"the hub refuses {name}: {reason_of(answer.get('why'), _MOST_REFUSAL)}")
        if frame.kind is not Kind.WELCOME:
            raise FrameError(f"the hub answers a hello with {frame.kind.name}")
        failing.pop_all()
    return connection, answer
