"""How a device comes to its certificate, and to the next ones, over connections to its hub."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from ssl import SSLContext
from threading import Event, Lock, Thread
from typing import Any

from scadles.clock import wall_seconds
from scadles.errors import ConfigError, FabricError, UntrustedError
from scadles.fabric.hub.answers import checked_lifetime
from scadles.fabric.hub.connection import BusyError, ClosedError
from scadles.fabric.hub.hello import say_hello
from scadles.security import Credentials, DeviceCredentials, ca_hash, context_of_a_stranger, device_context, known_hub
from scadles.security.authority import HUB_NAME

_LEAST_PAUSE_S, _LONGEST_PAUSE_S = 0.1, 60.0
_PATIENCE_S, _PAUSE_S = 10.0, 0.5
_PAUSES_IN_A_LIFE = 40


def enrol(address: tuple[str, int], name: str, token: str, authority_hash: str, credentials: Credentials) -> None:
    """Let a hub sign a key of this device, unless it has done so with that token already.

    The hub first shows its authority, to which nothing secret has been said; only where that has the hash, and a second
    connection proves to be of it, the token is sent.

    Args:
        address: of the hub.
        name: of this device.
        token: from the hub.
        authority_hash: from the hub, ``sha256:`` and the hash of its authority's key.
        credentials: where key and certificate are kept.

    Raises:
        OSError: nobody answers.
        UntrustedError: the hub has another authority.
        FabricError: the hub does not enrol this device.
        ConfigError: key or certificate cannot be kept.
    """
    if credentials.are_of(token, authority_hash):
        return
    authority = str(_ask(address, name, {"role": "authority"}, context_of_a_stranger()).get("authority"))
    found = ca_hash(authority)
    if found != authority_hash:
        raise UntrustedError(
            f"the hub at {address[0]}:{address[1]} has another authority ({found}) than --ca-hash says: it is not the "
            "hub that printed that line; nothing secret was sent"
        )
    hello = {"role": "enrol", "name": name, "token": token, "request": credentials.request(of_authority=found)}
    answer = _ask(address, name, hello, device_context(authority))
    credentials.keep(str(answer.get("certificate")), known_hub(address[0], authority, token))


class Renewal:
    """Renews a device's certificate at half its life, in a thread of its own; later connections show the new one.

    One of an authority that exists already is renewed by others: once it is there, the hub is shown it, so that a
    session outlives the certificate that it began with.

    How old the certificate is the hub says, so that a device needs no clock. Where the hub does not answer, or refuses,
    it is asked again, all the other half of that life.

    Args:
        address: of the hub.
        name: of this device.
        credentials: of the same.
        say: told one line where it does not work.

    Attributes:
        count: certificates so far.
    """

    def __init__(
        self, address: tuple[str, int], name: str, credentials: DeviceCredentials, say: Callable[[str], None]
    ) -> None:
        self._address = address
        self._name = name
        self._credentials = credentials
        self._say = say
        self._lock = Lock()
        self._told, self._closed = Event(), False
        self._life_s, self._due_s = 0.0, float("inf")
        self._failed = ""
        self._is_running = False
        self.count = 0

    def learn(self, lifetime: Mapping[str, Any]) -> None:
        """Take note of what the hub says of the certificate, as :meth:`.Guard.lifetime` has it."""
        with self._lock:
            self._life_s = float(lifetime["life_s"])
            due_in_s = float(lifetime["left_s"]) - self._life_s / 2
            self._due_s = wall_seconds() + max(_LEAST_PAUSE_S, due_in_s)  # whatever a hub says
            if not self._is_running:
                self._is_running = True
                Thread(target=self._work, daemon=True).start()
        self._told.set()

    def close(self) -> None:
        """End the thread."""
        self._closed = True
        self._told.set()

    def _work(self) -> None:
        while not self._closed:
            left_s = self._due_s - wall_seconds()
            if left_s > 0:
                self._told.wait(min(left_s, _LONGEST_PAUSE_S))
                self._told.clear()
                continue
            try:
                if (asked := self._credentials.renewal()) is None:
                    self._pause()
                    continue
                self.learn(self._renew(asked))
                self.count += 1
            except (OSError, FabricError, ConfigError) as error:
                if str(error) != self._failed:
                    self._failed = str(error)
                    self._say(f"the certificate of {self._name} is not renewed yet: {error}; trying again")
                self._pause()

    def _pause(self) -> None:
        with self._lock:
            pause_s = min(self._life_s / _PAUSES_IN_A_LIFE, _LONGEST_PAUSE_S)
            self._due_s = wall_seconds() + max(_LEAST_PAUSE_S, pause_s)

    def _renew(self, asked: Mapping[str, Any]) -> dict[str, Any]:
        hello = {"role": "renew", "name": self._name, **asked}
        shown = self._credentials
        answer = _ask(self._address, self._name, hello, shown.context, shown.hub_name)
        shown.renewed(answer)
        self._failed = ""
        return checked_lifetime(answer.get("lifetime"))


def _ask(
    address: tuple[str, int], name: str, hello: dict[str, Any], context: SSLContext, hub_name: str | None = HUB_NAME
) -> dict[str, Any]:
    """Ask a hub's authority for something, and return what it answers; one that has no time now is asked again."""
    give_up_s = wall_seconds() + _PATIENCE_S
    while True:
        try:
            connection, answer = say_hello(address, name, hello, context, hub_name)
        except BusyError as error:
            raise FabricError(f"the hub refuses {name} for now: {error}") from None
        except (ClosedError, ConnectionResetError):  # of too many that come at once some are closed unheard
            if wall_seconds() > give_up_s:
                raise
            Event().wait(_PAUSE_S)
            continue
        connection.release()
        return answer
