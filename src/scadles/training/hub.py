"""A device's way to the run of a hub: the hub's settings, and over them what is the device's own."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from scadles.config import ConfigLike, RunConfig, load_config, merged, read_yaml
from scadles.errors import ConfigError, FabricError, PeerLostError
from scadles.fabric.hub import MOST_NAME, HubFabric, is_name

#: Settings that may differ from device to device, with all that is below them; all others are those of the hub.
OWN = ("stream", "data.dataset", "data.root", "checkpoint.keep", "events", "picture")
PATIENCE_S = 30.0


def own_settings(config: ConfigLike | None) -> dict[str, Any]:
    """Return what a device says for itself.

    Args:
        config: a mapping or a YAML file of settings in :data:`OWN`; None says nothing.

    Raises:
        ConfigError: it says what is the hub's.
    """
    if isinstance(config, RunConfig):
        raise ConfigError(f"the hub describes the run: give only what is this device's own ({', '.join(OWN)})")
    tree = dict(config) if isinstance(config, Mapping) else {} if config is None else read_yaml(Path(config))
    for name in _names(tree):
        check_own(name)
    return tree


def check_own(name: str) -> None:
    """Refuse a setting, by its dotted name, that is the hub's."""
    if not any(name == own or name.startswith(f"{own}.") for own in OWN):
        raise ConfigError(f"{name}: the hub says that, for all devices; a device's own are {', '.join(OWN)}")


def reach(
    hub: str, name: str | None, config: ConfigLike | None, say: Callable[[str], None]
) -> tuple[HubFabric, RunConfig]:
    """Connect to a hub; return this device's end of it, and the run's settings with its own.

    Args:
        hub: its address, HOST:PORT.
        name: of this device, the same whenever it comes back.
        config: what is this device's own.
        say: told one line when the hub does not answer, is lost, or found again.

    Raises:
        ConfigError: address, name or settings cannot be.
        FabricError: nobody answers there, or the hub refuses this device.
    """
    host, port = address(hub, "hub")
    own = own_settings(config)
    if not name or not is_name(name):
        raise ConfigError(
            f"name = {name!r}: give this device a name of 1 to {MOST_NAME} printable characters, the same whenever it "
            "comes back"
        )
    try:
        fabric = HubFabric(host, port, name, deadline_s=PATIENCE_S, say=say)
    except PeerLostError as error:
        why = error.detail.rpartition(": ")[2]
        raise FabricError(
            f"no hub answers at {hub} ({why}): does scadles hub run there, is its --listen an address that other "
            f"machines reach (0.0.0.0:{port}), and does a firewall let TCP port {port} through?"
        ) from None
    try:
        return fabric, load_config(merged(fabric.settings, own), [f"devices={fabric.size}"])
    except BaseException:
        fabric.close()
        raise


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
