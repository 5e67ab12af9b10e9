"""A device's way to the run of a hub: the hub's settings, and over them what is the device's own."""

from __future__ import annotations

import re
import socket
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from scadles.config import ConfigLike, RunConfig, read_yaml
from scadles.errors import ConfigError, FabricError, PeerLostError, ScadlesError
from scadles.fabric.hub import MOST_NAME, HubFabric, enrol, is_loopback, is_name
from scadles.security import CertificateFiles, Credentials, DeviceCredentials, ExternalCredentials, identity_folder
from scadles.training.from_hub import ALLOW, Taken, allowed_in, take_settings

#: Settings that may differ from device to device, with all that is below them; all others are those of the hub.
OWN = ("stream", "data.dataset", "data.root", "data.transform", "checkpoint.keep", "events", "picture")
PATIENCE_S = 30.0
_CA_HASH = re.compile("sha256:[0-9a-f]{64}")
#: What is to be known wherever there is no TLS.
PLAIN_TEXT = (
    "what travels is neither encrypted nor authenticated (--insecure): whoever reaches the network can read and spoil "
    "the model"
)


def own_settings(config: ConfigLike | None) -> dict[str, Any]:
    """Return what a device says for itself.

    Args:
        config: a mapping or a YAML file of settings in :data:`OWN`, and of what it allows its hub to name
            (:mod:`scadles.training.from_hub`); None says nothing.

    Raises:
        ConfigError: it says what is the hub's.
    """
    if isinstance(config, RunConfig):
        raise ConfigError(f"the hub describes the run: give only what is this device's own ({', '.join(OWN)})")
    tree = dict(config) if isinstance(config, Mapping) else {} if config is None else read_yaml(Path(config))
    for name in _names({name: value for name, value in tree.items() if name != ALLOW}):
        check_own(name)
    return tree


def check_own(name: str) -> None:
    """Refuse a setting, by its dotted name, that is the hub's."""
    if not any(name == own or name.startswith(f"{own}.") for own in OWN):
        raise ConfigError(f"{name}: the hub says that, for all devices; a device's own are {', '.join(OWN)}")


def reach(
    hub: str,
    name: str | None,
    config: ConfigLike | None,
    say: Callable[[str], None],
    *,
    identity: Path | str | CertificateFiles | None = None,
    insecure: bool = False,
    has_model: bool = False,
) -> tuple[HubFabric, Taken]:
    """Connect to a hub; return this device's end of it, and what it takes of the run's settings, with its own.

    Args:
        hub: its address, HOST:PORT.
        name: of this device, the same whenever it comes back.
        config: what is this device's own.
        say: told one line when the hub does not answer, is lost, or found again.
        identity: folder with what :func:`enrol_here` has brought, or files with a certificate of an authority that
            exists already; None looks where enrolment keeps it.
        insecure: speak plain text, also where the hub is not on this machine.
        has_model: whether this device brings its own network, and makes none that the hub names.

    Raises:
        ConfigError: address, name, identity or settings cannot be.
        FabricError: nobody answers there, the hub refuses this device, or names what this device does not allow.
    """
    host, port = address(hub, "hub")
    own = own_settings(config)
    allowed = allowed_in(own.pop(ALLOW, {}))
    if not name or not is_name(name):
        raise ConfigError(
            f"name = {name!r}: give this device a name of 1 to {MOST_NAME} printable characters, the same whenever it "
            "comes back"
        )
    if isinstance(identity, CertificateFiles) and insecure:
        raise ConfigError("cert, key and ca are for TLS: leave insecure out")
    credentials = None if insecure else _credentials(host, name, identity, say)
    try:
        fabric = HubFabric(host, port, name, deadline_s=PATIENCE_S, say=say, credentials=credentials)
    except PeerLostError as error:
        raise _no_hub(hub, error.detail.rpartition(": ")[2]) from None
    try:
        return fabric, take_settings(fabric.settings, own, allowed, fabric.size, has_model=has_model)
    except BaseException as error:
        fabric.failure = str(error) if isinstance(error, ScadlesError) else ""
        fabric.close()
        raise


def enrol_here(hub: str, name: str, token: str, authority_hash: str, identity: Path | None = None) -> None:
    """Let a hub enrol this device, unless it has done so with that token already.

    Args:
        hub: its address, HOST:PORT.
        name: of this device.
        token: that the hub has printed.
        authority_hash: that the hub has printed, ``sha256:...``.
        identity: folder for key and certificate; None takes one below the user's configuration.

    Raises:
        ConfigError: address, name or folder cannot be.
        FabricError: nobody answers there, or the hub does not enrol this device.
    """
    place = address(hub, "hub")
    if not is_name(name):
        raise ConfigError(f"name = {name!r}: give this device a name of 1 to {MOST_NAME} printable characters")
    if not _CA_HASH.fullmatch(authority_hash):
        raise ConfigError(
            f"--ca-hash {authority_hash}: expected sha256: and 64 digits of 0-9a-f; copy all of it from the hub"
        )
    credentials = Credentials(identity or identity_folder(name))
    try:
        enrol(place, name, token, authority_hash, credentials)
    except OSError as error:
        raise _no_hub(hub, error.strerror or str(error)) from None


def _credentials(
    host: str, name: str, identity: Path | str | CertificateFiles | None, say: Callable[[str], None]
) -> DeviceCredentials | None:
    """Return what this device shows to its hub; None where it may speak plain text."""
    if isinstance(identity, CertificateFiles):
        return ExternalCredentials(identity, say)
    credentials = Credentials(Path(identity) if identity is not None else identity_folder(name))
    if identity is None and is_loopback(host) and not is_loopback(credentials.host):
        return None  # it has not been enrolled on this machine
    if not credentials.are_here:
        raise ConfigError(
            f"{name} has not been enrolled by a hub ({credentials.folder} holds no identity): give --token and "
            "--ca-hash, which scadles devices HUBFOLDER token prints at the hub, or --insecure on a network that you "
            "trust, where the hub is started with that too"
        )
    return credentials


def _no_hub(hub: str, why: str) -> FabricError:
    port = hub.rpartition(":")[2]
    return FabricError(
        f"no hub answers at {hub} ({why}): does scadles hub run there, is its --listen an address that other "
        f"machines reach (0.0.0.0:{port}), and does a firewall let TCP port {port} through?"
    )


def reachable(host: str) -> str:
    """Return an address by which other machines reach one that listens there."""
    if host not in ("0.0.0.0", "::", ""):  # noqa: S104 - it is looked at, not listened on
        return host
    family, anywhere = (socket.AF_INET6, "2001:db8::1") if host == "::" else (socket.AF_INET, "192.0.2.1")
    try:
        with socket.socket(family, socket.SOCK_DGRAM) as looking:
            looking.connect((anywhere, 9))  # nothing is sent: the kernel says from where it would be
            return str(looking.getsockname()[0])
    except OSError:
        return socket.gethostname()


def address(text: str, what: str) -> tuple[str, int]:
    """Return host and port of HOST:PORT; an IPv6 address is in brackets."""
    host, _, port = text.rpartition(":")
    if not host or not (port.isascii() and port.isdigit()) or int(port) > 65535:
        raise ConfigError(f"{what} = {text}: say HOST:PORT, for example 192.168.1.10:29400")
    return host.strip("[]"), int(port)


def _names(tree: Mapping[str, Any], prefix: str = "") -> Iterator[str]:
    for key, value in tree.items():
        name = f"{prefix}{key}"
        if isinstance(value, Mapping) and value and name not in OWN:
            yield from _names(value, f"{name}.")
        else:
            yield name
