"""Tokens with which devices are enrolled: random, good for some devices and some time, and known only by their hash."""

from __future__ import annotations

import secrets
from hashlib import sha256
from pathlib import Path
from typing import Any

from scadles.clock import date_text
from scadles.errors import UntrustedError
from scadles.security.store import Store

TOKENS_FILE = "tokens.json"
TOKEN_HOURS = 24.0
_BYTES = 16


def token_hash(token: str) -> str:
    """Return the hash by which a token is known."""
    return sha256(token.encode(errors="replace")).hexdigest()


class Tokens:
    """The tokens of a hub; whoever reads its files cannot enrol anything.

    Args:
        folder: of the authority.
    """

    def __init__(self, folder: Path) -> None:
        self._store = Store(folder / TOKENS_FILE)

    def new(self, uses: int, expires: float, now: float) -> str:
        """Return a new token, and forget those that have expired.

        Args:
            uses: how many devices it enrols.
            expires, now: in seconds since 1970.
        """
        token = secrets.token_hex(_BYTES)
        with self._store.changing() as tokens:
            for known in [known for known, one in tokens.items() if float(one["expires"]) + 7 * 86_400 < now]:
                del tokens[known]
            tokens[token_hash(token)] = {"uses": uses, "expires": expires, "used_by": []}
        return token

    def spend(self, token: object, name: str, key: str, now: float) -> None:
        """Take note that a device is enrolled by a token; the same one may ask again, and is counted once.

        Args:
            token: that it brings.
            name: of the device.
            key: hash of its key; one key under another name is another device.
            now: in seconds since 1970.

        Raises:
            UntrustedError: the token is unknown, has expired, or is used up.
        """
        known = token_hash(token) if isinstance(token, str) else ""
        if known not in self._store.read():  # a guess costs no writing
            raise UntrustedError(f"its token is not known here; {_WAY_OUT}")
        with self._store.changing() as tokens:
            one: dict[str, Any] = tokens[known]
            if now > one["expires"]:
                raise UntrustedError(f"its token has expired ({date_text(one['expires'])}); {_WAY_OUT}")
            if [name, key] in one["used_by"]:
                return
            if len(one["used_by"]) >= one["uses"]:
                raise UntrustedError(f"its token is used up (good for {one['uses']}); {_WAY_OUT}")
            one["used_by"].append([name, key])


_WAY_OUT = "at the hub, scadles devices HUBFOLDER token makes another"
