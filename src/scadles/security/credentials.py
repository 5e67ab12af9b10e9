"""A device's side: a key that never leaves the device, its certificate, and the authority that it trusts."""

from __future__ import annotations

import json
import os
import ssl
from collections.abc import Mapping
from contextlib import suppress
from hashlib import sha256
from pathlib import Path
from typing import Any
from urllib.parse import quote

from cryptography.hazmat.primitives.asymmetric import ec

from scadles.errors import ConfigError, UntrustedError
from scadles.files import read_file
from scadles.security.authority import HUB_NAME, ca_hash, certificate_request, key_pem, load_key, new_key
from scadles.security.contexts import device_context
from scadles.security.store import private_folder, write_private
from scadles.security.tokens import token_hash

_CHAIN, _HUB = "device.pem", "hub.json"
_NEW_CHAIN, _KEY = "new.pem", "new.key"
_MOST_BYTES = 1 << 16
_LONGEST = 200  # file systems end at 255 bytes


def identity_folder(name: str) -> Path:
    """Return where a device keeps its identity unless told otherwise: below the user's configuration, not in a run."""
    try:
        home = Path(os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config")
    except RuntimeError:  # a user without a home: as if it were here
        home = Path(".config")
    folder = quote(name, safe=" ").replace(".", "%2E")
    if len(folder) > _LONGEST:
        folder = sha256(name.encode()).hexdigest()
    return home / "scadles" / "devices" / folder


class Credentials:
    """What a device shows to its hub, and by what it knows the hub.

    Args:
        folder: private, of this device alone.

    Raises:
        ConfigError: the folder cannot be used, or holds something else.
    """

    hub_name = HUB_NAME

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._hub: dict[str, Any] = {}
        self._context: ssl.SSLContext | None = None
        here = False
        with suppress(OSError):  # what cannot be looked into holds nothing for this device
            here = (folder / _CHAIN).exists() and (folder / _HUB).exists()
        if here:
            self._load()

    @property
    def are_here(self) -> bool:
        """Whether this device has been enrolled."""
        return self._context is not None

    @property
    def host(self) -> str:
        """Of the hub at which it was enrolled."""
        return str(self._hub.get("host", ""))

    @property
    def context(self) -> ssl.SSLContext:
        """What the next connection speaks TLS with."""
        if self._context is None:
            raise ConfigError(f"{self.folder} holds no identity: enrol this device with --token and --ca-hash")
        return self._context

    def are_of(self, token: str, authority_hash: str) -> bool:
        """Whether this device was enrolled with that token, by that authority."""
        return self.are_here and (self._hub["token"], self._hub["ca_hash"]) == (token_hash(token), authority_hash)

    def request(self, *, of_authority: str = "") -> str:
        """Return a request for a certificate, PEM.

        Its key is on disk before anybody hears of it, so that a device which is cut off in the middle asks again with
        the same one.

        Args:
            of_authority: hash of the authority that enrols this device; the key that it has enrolled before is kept.
                Empty for a renewal, with a new key.
        """
        private_folder(self.folder)
        if self.are_here and self._hub["ca_hash"] == of_authority:
            write_private(self.folder / _KEY, key_pem(self._read_key(self.folder / _CHAIN)))
        elif not (self.folder / _KEY).exists():
            write_private(self.folder / _KEY, key_pem(new_key()))
        return certificate_request(self._read_key(self.folder / _KEY))

    def keep(self, certificate: str, hub: dict[str, Any] | None = None) -> None:
        """Keep the certificate for the pending key, and use both from the next connection on.

        Args:
            certificate: PEM.
            hub: what is to be remembered of the hub, by :func:`known_hub`; None where it is the same as before.

        Raises:
            UntrustedError: it is no certificate for that key.
        """
        new, authority = self.folder / _NEW_CHAIN, (hub or self._hub)["authority"]
        write_private(new, key_pem(self._read_key(self.folder / _KEY)) + certificate.encode())
        try:
            device_context(authority, new)
        except (OSError, ValueError):
            raise UntrustedError("what the hub sends as a certificate is none for the key of this device") from None
        if hub is not None:
            (self.folder / _CHAIN).unlink(missing_ok=True)  # it may be of another authority
            write_private(self.folder / _HUB, json.dumps(hub, indent=1).encode())
        new.replace(self.folder / _CHAIN)
        (self.folder / _KEY).unlink(missing_ok=True)
        self._load()

    def renewal(self) -> Mapping[str, Any]:
        """Return what the hub is asked so that it signs a new key."""
        return {"request": self.request()}

    def renewed(self, answer: Mapping[str, Any]) -> None:
        """Keep the certificate that the hub has sent."""
        self.keep(str(answer.get("certificate")))

    def _read_key(self, path: Path) -> ec.EllipticCurvePrivateKey:
        try:
            return load_key(read_file(path, _MOST_BYTES))
        except (OSError, ValueError) as error:
            raise ConfigError(f"{path} holds no key that can be used ({error}): remove it") from None

    def _load(self) -> None:
        try:
            hub = json.loads(read_file(self.folder / _HUB, _MOST_BYTES))
            self._context = device_context(hub["authority"], self.folder / _CHAIN)
            self._hub = hub
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise ConfigError(
                f"{self.folder} holds no identity that can be used ({error}): remove it, and enrol this device anew"
            ) from None


def known_hub(host: str, authority: str, token: str) -> dict[str, Any]:
    """Return what a device remembers of a hub that enrols it: no secret is among it."""
    return {"host": host, "authority": authority, "ca_hash": ca_hash(authority), "token": token_hash(token)}
