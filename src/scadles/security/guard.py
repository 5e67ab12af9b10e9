"""Who is let in at a hub: enrolment, renewal, and the look at every connection."""

from __future__ import annotations

import math
import ssl
from collections.abc import Callable
from pathlib import Path
from threading import Lock
from typing import Any

from scadles.clock import unix_seconds, wall_seconds
from scadles.errors import ConfigError, FabricError, UntrustedError
from scadles.security.authority import (
    AUTHORITY_FOLDER,
    LIFE_S,
    Authority,
    Identity,
    key_hash,
    read_identity,
    read_request,
)
from scadles.security.contexts import hub_context
from scadles.security.limits import Limits, Rate
from scadles.security.registry import Enrolled, Registry
from scadles.security.tokens import TOKEN_HOURS, Tokens

_NO_CERTIFICATE = (
    "it shows no certificate: enrol it with scadles join ADDRESS --name NAME --token T --ca-hash H; at the hub, "
    "scadles devices HUBFOLDER token makes a token"
)
#: Certificates of one name: each is written to the disk.
_CERTIFICATES = Rate(hz=0.2, burst=16)


class Guard:
    """Judges whoever connects to a hub, by certificates of its own authority.

    Args:
        folder: of the hub; the authority is in a folder therein, made where there is none.
        run: what the run is called.
        life_s: how long a device's certificate lives.
        now: returns the seconds since 1970.

    Attributes:
        authority: signs certificates.
        context: for the hub's end of TLS.

    Raises:
        ConfigError: the folder cannot be used.
    """

    def __init__(
        self, folder: Path, run: str, *, life_s: float = LIFE_S, now: Callable[[], float] = unix_seconds
    ) -> None:
        self.authority = Authority(folder / AUTHORITY_FOLDER)
        self.context: ssl.SSLContext = hub_context(self.authority)
        self._run = run
        self._life_s = life_s
        self._now = now
        self._registry = Registry(self.authority.folder)
        self._tokens = Tokens(self.authority.folder)
        self._certificates = Limits(_CERTIFICATES)
        self._lock = Lock()

    @property
    def ca_hash(self) -> str:
        """By which a device knows the authority before it is enrolled."""
        return self.authority.ca_hash

    def new_token(self, uses: int, hours: float = TOKEN_HOURS) -> str:
        """Return a token that enrols so many devices."""
        now = self._now()
        return self._tokens.new(uses, now + 3600 * hours, now)

    def identify(self, certificate: bytes | None) -> Identity:
        """Return who shows a certificate, if that device may take part.

        Args:
            certificate: DER, which TLS has found to be of this authority; None where there was none.

        Raises:
            UntrustedError: it may not.
        """
        if certificate is None:
            raise UntrustedError(_NO_CERTIFICATE)
        identity = read_identity(certificate)
        if identity.run != self._run:
            raise UntrustedError("its certificate is for another run than this hub's: enrol it anew, with a token")
        self._registry.check(identity, self._now())
        return identity

    def problem(self, name: str) -> str | None:
        """Return why a device that is connected may not stay; None where it may, or where that cannot be read."""
        try:
            return self._registry.problem(name, self._now())
        except ConfigError:
            return None

    def lifetime(self, expires: float) -> dict[str, float]:
        """Return for how long a certificate is good yet, and for how long a new one would be, in seconds."""
        return {"left_s": expires - self._now(), "life_s": self._life_s}

    def answer(self, hello: dict[str, Any], certificate: bytes | None) -> dict[str, Any] | None:
        """Answer what is asked of the authority; None where a hello asks for something else.

        Args:
            hello: what the device says.
            certificate: that it shows, if any.

        Raises:
            UntrustedError: it does not get what it asks for.
            FabricError: it does not get it so soon.
            ConfigError: the authority's files cannot be read or written.
        """
        role, name = hello.get("role"), hello.get("name")
        if role == "authority":
            return {"authority": self.authority.certificate}
        if role == "enrol":
            with self._lock:
                return self._enrol(str(name), hello)
        if role == "renew":
            identity = self.identify(certificate)
            with self._lock:
                return self._renew(identity.name, hello)
        return None

    def _enrol(self, name: str, hello: dict[str, Any]) -> dict[str, Any]:
        key = read_request(hello.get("request"))
        self._registry.may_enrol(name, key_hash(key))
        self._tokens.spend(hello.get("token"), name, key_hash(key), self._now())
        enrolled, answer = self._certify(name, key)
        self._registry.enrol(name, enrolled)
        return answer

    def _renew(self, name: str, hello: dict[str, Any]) -> dict[str, Any]:
        renewed, answer = self._certify(name, read_request(hello.get("request")))
        self._registry.renew(name, renewed)
        return answer

    def _certify(self, name: str, key: Any) -> tuple[Enrolled, dict[str, Any]]:
        if not self._certificates.take(name, wall_seconds()):
            raise FabricError(f"{name} asks for certificates too often: it gets one every {1 / _CERTIFICATES.hz:g} s")
        issued = self._now()
        expires = math.floor(issued + self._life_s)  # a certificate knows whole seconds
        certificate, serial = self.authority.sign(key, self._run, name, expires)
        answer = {"certificate": certificate, "lifetime": self.lifetime(expires)}
        return Enrolled(key_hash(key), serial, issued, expires), answer
