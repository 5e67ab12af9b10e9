"""The devices that a hub has enrolled, by name: whose key counts, until when, and who has been turned out."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

from scadles.clock import date_text
from scadles.errors import ConfigError, UntrustedError, did_you_mean
from scadles.security.authority import Identity
from scadles.security.store import Store

DEVICES_FILE = "devices.json"


class Enrolled(NamedTuple):
    """A device.

    Attributes:
        key: hash of its public key.
        next_key: of the one with which it has renewed its certificate, until it comes with that; both count.
        serial: of its newest certificate.
        issued, expires: of the same, in seconds since 1970.
        revoked: whether it has been turned out.
        readmitted: whether the next enrolment under its name may bring another key.
    """

    key: str
    serial: str
    issued: float
    expires: float
    next_key: str = ""
    revoked: bool = False
    readmitted: bool = False


class Registry:
    """The devices of a hub, in a file that commands change while the hub runs.

    Args:
        folder: of the authority.
    """

    def __init__(self, folder: Path) -> None:
        self._store = Store(folder / DEVICES_FILE)

    def all(self) -> dict[str, Enrolled]:
        """Return all devices, by name."""
        return {name: _read(said) for name, said in self._store.read().items()}

    def check(self, identity: Identity, now: float) -> None:
        """Look whether a device may take part, by its certificate.

        Args:
            identity: in its certificate.
            now: in seconds since 1970.

        Raises:
            UntrustedError: it may not.
        """
        name = identity.name
        enrolled = self._get(name)
        if enrolled is None:
            raise UntrustedError(f"{name} is not among the devices of this hub: enrol it anew, with a token")
        if identity.key not in (enrolled.key, enrolled.next_key):
            raise UntrustedError(f"the name {name} belongs to another key: {_ANOTHER_KEY}")
        _refuse_revoked(name, enrolled)
        if now > identity.expires:
            raise UntrustedError(
                f"its certificate has expired ({date_text(identity.expires)}): join with a new token, which "
                "scadles devices HUBFOLDER token makes at the hub"
            )
        if identity.key == enrolled.next_key:
            with suppress(ConfigError):  # where that cannot be written both keys count still
                self._take_next(name, identity.key)

    def problem(self, name: str, now: float) -> str | None:
        """Return why a device that is connected may not stay; None where it may."""
        enrolled = self._get(name)
        if enrolled is None or enrolled.revoked:
            return "it has been revoked"
        return "its certificate has expired" if now > enrolled.expires else None

    def may_enrol(self, name: str, key: str) -> None:
        """Look whether a key may be enrolled under a name.

        Raises:
            UntrustedError: it may not.
        """
        enrolled = self._get(name)
        if enrolled is None:
            return
        if key in (enrolled.key, enrolled.next_key):
            _refuse_revoked(name, enrolled)
        elif not (enrolled.revoked or enrolled.readmitted):
            raise UntrustedError(f"the name {name} is taken by another key: {_ANOTHER_KEY}")

    def enrol(self, name: str, enrolled: Enrolled) -> None:
        """Take note of a device, in place of what had its name."""
        with self._store.changing() as devices:
            devices[name] = enrolled._asdict()

    def renew(self, name: str, renewed: Enrolled) -> None:
        """Take note of a newer certificate; the key before counts until the device comes with the next one.

        Args:
            name: of the device.
            renewed: what is new of it; its key is the next one.
        """
        with self._store.changing() as devices:
            before = _read(devices[name])
            devices[name] = renewed._replace(key=before.key, next_key=renewed.key, revoked=before.revoked)._asdict()

    def check_revoked(self, name: str) -> None:
        """Refuse a device that has been revoked, whoever has issued its certificate.

        Raises:
            UntrustedError: it has.
        """
        if (enrolled := self._get(name)) is not None:
            _refuse_revoked(name, enrolled)

    def take_note(self, name: str, seen: Enrolled) -> None:
        """Take note of a certificate that another authority has issued, unless a later one has been seen."""
        known = self._get(name)
        if known is not None and (known.serial == seen.serial or known.issued > seen.issued):
            return
        with self._store.changing() as devices:
            before = _read(devices[name]) if name in devices else seen
            now = seen._replace(revoked=before.revoked, readmitted=before.readmitted)
            devices[name] = now._asdict()

    def revoke(self, name: str, *, known: bool = True) -> None:
        """Turn a device out, at once and until it is readmitted.

        Args:
            name: of the device.
            known: whether it must have been here; a device with a certificate of another authority need not.

        Raises:
            ConfigError: there is none of this name.
        """
        if not known and self._get(name) is None:
            self.enrol(name, Enrolled("", "", 0.0, 0.0))
        self._mark(name, revoked=True, readmitted=False)

    def readmit(self, name: str) -> None:
        """Let a device in again, with the key that it had, or with another one that a token enrols.

        Raises:
            ConfigError: there is none of this name.
        """
        self._mark(name, revoked=False, readmitted=True)

    def _mark(self, name: str, *, revoked: bool, readmitted: bool) -> None:
        with self._store.changing() as devices:
            if name not in devices:
                known = did_you_mean(name, devices) if devices else "; none is enrolled"
                raise ConfigError(f"no device is called {name}{known}")
            devices[name] = _read(devices[name])._replace(revoked=revoked, readmitted=readmitted)._asdict()

    def _take_next(self, name: str, key: str) -> None:
        """Let the next key of a device, with which it has come, be the one that counts."""
        with self._store.changing() as devices:
            enrolled = _read(devices[name])
            if enrolled.next_key == key:  # another connection may have come first, and a renewal since
                devices[name] = enrolled._replace(key=key, next_key="")._asdict()

    def _get(self, name: str) -> Enrolled | None:
        said = self._store.read().get(name)
        return None if said is None else _read(said)


_ANOTHER_KEY = "at the hub, scadles devices HUBFOLDER readmit NAME lets a new key take it"


def _refuse_revoked(name: str, enrolled: Enrolled) -> None:
    if enrolled.revoked:
        raise UntrustedError(
            f"{name} has been revoked: at the hub, scadles devices HUBFOLDER readmit NAME takes it back"
        )


def _read(said: Any) -> Enrolled:
    try:
        return Enrolled(**said)
    except TypeError:
        raise ConfigError(f"{DEVICES_FILE} of the hub holds what is no device: {said!r}") from None
