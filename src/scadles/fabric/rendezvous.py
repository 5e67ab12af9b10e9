"""Where the processes of a group meet before they are connected, and on which network they connect."""

from __future__ import annotations

import errno
import os
import socket
import struct
import sys
from datetime import timedelta
from ipaddress import ip_address
from typing import Any

import torch.distributed as dist
from torch.distributed import FileStore, TCPStore  # type: ignore[attr-defined]
from torch.distributed.rendezvous import rendezvous

from scadles.errors import ConfigError, PeerLostError

#: Names, in the environment of devices that one launcher started, the file in which they meet.
RENDEZVOUS_FILE = "SCADLES_RENDEZVOUS_FILE"
#: What is to be known of an address of the internet.
PUBLIC = (
    "which is public: nothing that travels is encrypted, and whoever reaches the ports can end or spoil the run; use a "
    "network that you trust (a VPN), or a hub (scadles hub)"
)
_INTERFACE = "GLOO_SOCKET_IFNAME"
_SIOCGIFADDR = 0x8915
_stores: dict[str, Any] = {}


def open_store(size: int, deadline_s: float) -> Any:
    """Return the store where this process's devices meet; it is opened once.

    Raises:
        ConfigError: the environment is incomplete, or the port is taken.
        PeerLostError: nobody answers within the deadline.
    """
    file = os.environ.get(RENDEZVOUS_FILE)
    where = file or f"{os.environ.get('MASTER_ADDR', '')}:{os.environ.get('MASTER_PORT', '')}"
    if where not in _stores:
        _stores[where] = FileStore(file, size) if file else _from_torchrun(where, deadline_s)
        _stores[where].set_timeout(timedelta(seconds=deadline_s))
    return _stores[where]


def choose_interface() -> str | None:
    """Let gloo connect on the interface that leads to MASTER_ADDR, and return its name; None leaves it to gloo.

    gloo by itself takes the address of the host's own name, which Debian and Raspberry Pi OS set to 127.0.1.1: other
    hosts cannot reach it. ``GLOO_SOCKET_IFNAME`` in the environment is left as it is.
    """
    if chosen := os.environ.get(_INTERFACE):
        return chosen
    address = _own_address_towards(os.environ.get("MASTER_ADDR", ""))
    if address is None or (address.startswith("127.") and spans_hosts()):
        return None
    name = _interface_of(address)
    if name is not None:
        os.environ[_INTERFACE] = name
    return name


def first_line(error: BaseException) -> str:
    """Return what a backend's error says, without its source location and stack."""
    line = str(error).splitlines()[0] if str(error) else type(error).__name__
    line = line.split("] ", 1)[-1] if line.startswith("[") else line
    return line.partition(". This is")[0]


def _from_torchrun(where: str, deadline_s: float) -> Any:
    try:
        if os.environ.get("RANK") == "0" and os.environ.get("TORCHELASTIC_USE_AGENT_STORE") != "True":
            return _own_store(where, timedelta(seconds=deadline_s))
        return next(rendezvous("env://", timeout=timedelta(seconds=deadline_s)))[0]
    except dist.DistNetworkError as error:
        if "in use" in str(error) or "EADDRINUSE" in str(error):
            raise ConfigError(f"port {where} is in use: choose another MASTER_PORT") from None
        raise PeerLostError([0], "rendezvous", f"nobody answers at {where} (MASTER_ADDR:MASTER_PORT)") from None
    except dist.DistStoreError as error:
        raise PeerLostError([], "joining", first_line(error)) from None
    except (RuntimeError, ValueError) as error:
        raise ConfigError(f"cannot meet the other devices at {where}: {first_line(error)}") from None


def _own_store(where: str, timeout: timedelta) -> Any:
    """Return a store that listens on MASTER_ADDR alone: torch's own listens on every address of this host."""
    host, _, port = where.rpartition(":")
    if not (host and port.isdecimal() and port.isascii() and int(port) < 65536):
        said = " and ".join(f"{name} = {os.environ.get(name)}" for name in ("MASTER_ADDR", "MASTER_PORT"))
        raise ConfigError(
            f"cannot meet the other devices at {said}: set them to an address of this host and a "
            "free port, as torchrun does"
        )
    try:
        family, kind, protocol, _, place = socket.getaddrinfo(host, int(port), type=socket.SOCK_STREAM)[0]
        listening = socket.socket(family, kind, protocol)
    except (OSError, OverflowError) as error:
        raise ConfigError(f"MASTER_ADDR = {host} cannot be looked up: {error}") from None
    try:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind(place)
    except OSError as error:
        listening.close()
        if error.errno == errno.EADDRINUSE:
            raise ConfigError(f"port {where} is in use: choose another MASTER_PORT") from None
        raise ConfigError(
            f"MASTER_ADDR = {host}: device 0 cannot listen there ({error.strerror}): give an address of the host that "
            "it runs on"
        ) from None
    size, fd = int(os.environ["WORLD_SIZE"]), listening.detach()
    return TCPStore(host, int(port), size, is_master=True, timeout=timeout, multi_tenant=True, master_listen_fd=fd)


def public_address() -> str | None:
    """Return an address of the public internet that devices connect by; None where none is, as far as can be told.

    Not public are addresses of loopback, of private networks (10/8, 172.16/12, 192.168/16, fc00::/7), of a link
    (169.254/16, fe80::/10) and of carriers (100.64/10).
    """
    master = os.environ.get("MASTER_ADDR", "")
    if not master or os.environ.get(RENDEZVOUS_FILE):
        return None
    try:
        found = {str(place[0]) for *_, place in socket.getaddrinfo(master, None, type=socket.SOCK_STREAM)}
    except OSError:
        found = set()
    addresses = (*sorted(found), _own_address_towards(master) or "")
    return next((address for address in addresses if _is_public(address)), None)


def _is_public(address: str) -> bool:
    try:
        return ip_address(address.partition("%")[0]).is_global
    except ValueError:
        return False


def spans_hosts() -> bool:
    """Whether devices of this group run on other hosts, as torchrun says."""
    return os.environ.get("LOCAL_WORLD_SIZE") != os.environ.get("WORLD_SIZE")


def _own_address_towards(host: str) -> str | None:
    """Return the IPv4 address of this host from which ``host`` is reached; nothing is sent."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect((host, 9))
        except OSError:
            return None
        return str(probe.getsockname()[0])


def _interface_of(address: str) -> str | None:
    """Return the interface that has an IPv4 address; None where the system does not tell."""
    if sys.platform != "linux":
        return None
    from fcntl import ioctl

    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as asked:
        for _, name in socket.if_nameindex():
            try:
                answer = ioctl(asked.fileno(), _SIOCGIFADDR, struct.pack("256s", name.encode()[:15]))
            except OSError:  # it has none
                continue
            if socket.inet_ntoa(answer[20:24]) == address:
                return name
    return None
