"""What a hub and a device need of certificates, whoever's they are."""

from __future__ import annotations

import ssl
from collections.abc import Mapping
from typing import Any, Protocol

from scadles.security.authority import Identity


class Authenticator(Protocol):
    """A hub's side: who may take part.

    Attributes:
        context: what the next connection speaks TLS with.
    """

    @property
    def context(self) -> ssl.SSLContext: ...

    def identify(self, certificate: bytes | None) -> Identity:
        """Return who shows a certificate, DER, that TLS has accepted; None where none was shown.

        Raises:
            UntrustedError: that device may not take part.
        """

    def problem(self, name: str) -> str | None:
        """Return why a device that is connected may not stay; None where it may, or where that cannot be read."""

    def lifetime(self, expires: float) -> dict[str, float]:
        """Return for how long a certificate is good yet, and how long its life is, in seconds."""

    def answer(self, hello: dict[str, Any], certificate: bytes | None) -> dict[str, Any] | None:
        """Answer what a hello asks of the authority; None where it asks for something else.

        Raises:
            UntrustedError: the device does not get what it asks for.
        """


class DeviceCredentials(Protocol):
    """A device's side: what it shows, and by what it knows its hub.

    Attributes:
        context: what the next connection speaks TLS with.
        hub_name: what the hub's certificate must be for; None for the address at which the hub is.
    """

    @property
    def context(self) -> ssl.SSLContext: ...

    @property
    def hub_name(self) -> str | None: ...

    def renewal(self) -> Mapping[str, Any] | None:
        """Return what the hub is asked so that it takes the next certificate; None while there is none."""

    def renewed(self, answer: Mapping[str, Any]) -> None:
        """Take up what the hub has answered."""
