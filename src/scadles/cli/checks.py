"""What ScaDLES can use on this machine, found out by trying it."""

from __future__ import annotations

import os
import platform
import shutil
import socket
import struct
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from scadles.observe.console import human_bytes, human_seconds
from scadles.time_limit import within

_EXTRAS = {
    "camera": "opencv-python-headless",
    "images": "pillow",
    "kafka": "confluent-kafka",
    "mqtt": "paho-mqtt",
    "parquet": "pyarrow",
    "plots": "matplotlib",
    "vision": "torchvision",
}
_BROKERS = {"kafka": ("SCADLES_KAFKA", 9092), "mqtt": ("SCADLES_MQTT", 1883)}
_TRUSTED = "not encrypted, for networks that you trust"
_MIN_FREE_BYTES = 100e6
_SLOW_LOOKUP_S = 0.5
_GIVE_UP_S = 10.0
_TCP_INFO_BYTES_SENT = 200


@dataclass(frozen=True)
class Finding:
    """What one check found.

    Attributes:
        name: what was checked.
        ok: whether it works.
        value: what was seen.
        remedy: the command or step that mends it; empty where nothing is to be done.
        needed: whether ``scadles train`` cannot do without it.
    """

    name: str
    ok: bool
    value: str
    remedy: str = ""
    needed: bool = False


def examine() -> list[Finding]:
    """Run all checks; none takes longer than about ten seconds."""
    checks: list[Callable[[], Finding]] = [
        python,
        torch_library,
        gloo,
        network,
        cuda,
        lambda: backend("nccl", "only of use with CUDA devices; gloo serves CPUs"),
        lambda: backend("mpi", "build PyTorch from source where MPI is installed; gloo does the same over TCP"),
        cores,
        batch_scheduling,
        reverse_lookup,
        byte_counters,
        free_disk,
        *(lambda name=name: extra(name) for name in _EXTRAS),
        *(lambda name=name: broker(name) for name in _BROKERS),
    ]
    return [check() for check in checks]


def python() -> Finding:
    """Tell which Python this is."""
    return Finding("python", ok=True, value=f"{platform.python_version()} on {platform.platform()}", needed=True)


def torch_library() -> Finding:
    """Import PyTorch."""
    try:
        import torch
    except (ImportError, OSError) as error:
        return Finding("torch", ok=False, value=str(error), remedy="pip install --force-reinstall torch", needed=True)
    return Finding("torch", ok=True, value=str(torch.__version__), needed=True)


def gloo() -> Finding:
    """Make a gloo group of this process alone and sum over it."""
    try:
        total, seconds = within(_sum_alone, _GIVE_UP_S)
    except TimeoutError:
        value, remedy = f"no answer within {_GIVE_UP_S:g} s", "see the reverse look-up below"
    except (ImportError, AttributeError):
        value, remedy = "not in this PyTorch", "pip install --force-reinstall torch"
    except RuntimeError as error:
        value = str(error).splitlines()[0]
        remedy = "give this host's name an address in /etc/hosts, or: export GLOO_SOCKET_IFNAME=lo"
    else:
        return Finding("gloo", ok=total == 1.0, value=f"sums, group made in {human_seconds(seconds)}", needed=True)
    return Finding("gloo", ok=False, value=value, remedy=remedy, needed=True)


def network() -> Finding:
    """Tell on which network the devices of a run connect."""
    try:
        from scadles.fabric.rendezvous import choose_interface, public_address
    except (ImportError, OSError):
        return Finding("network", ok=False, value="not known without PyTorch", remedy="see torch above")
    master = os.environ.get("MASTER_ADDR")
    chosen = choose_interface() if master else os.environ.get("GLOO_SOCKET_IFNAME")
    if master and (address := public_address()):
        remedy = "use a network that you trust, such as a VPN, or a hub (scadles hub): without one nothing is encrypted"
        return Finding("network", ok=False, value=f"devices connect by {address}, which is public", remedy=remedy)
    if chosen:
        where = f"{chosen}, towards {master}" if master else chosen
        return Finding("network", ok=True, value=f"{where}; {_TRUSTED}")
    if master:
        remedy = "give an address of MASTER_ADDR that other hosts reach, or: export GLOO_SOCKET_IFNAME=NAME"
        return Finding("network", ok=False, value=f"MASTER_ADDR = {master} is no way to other hosts", remedy=remedy)
    return Finding("network", ok=True, value=f"the interface that leads to MASTER_ADDR, once it is set; {_TRUSTED}")


def backend(name: str, remedy: str) -> Finding:
    """Tell whether this PyTorch was built with a backend of torch.distributed."""
    try:
        from torch import distributed

        ok = distributed.is_available() and distributed.is_backend_available(name)
    except (ImportError, OSError):
        ok = False
    return Finding(name, ok=ok, value="in this PyTorch" if ok else "not in this PyTorch", remedy="" if ok else remedy)


def cuda() -> Finding:
    """Look for CUDA devices."""
    try:
        import torch

        names = [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())]
    except (ImportError, OSError, RuntimeError) as error:
        return Finding("cuda", ok=False, value=str(error).splitlines()[0], remedy="check it with: nvidia-smi")
    if names:
        return Finding("cuda", ok=True, value=", ".join(names))
    return Finding(
        "cuda", ok=False, value="no device", remedy="CPUs do; for a GPU, install torch from https://pytorch.org"
    )


def cores() -> Finding:
    """Count the cores this process may use."""
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    remedy = "" if usable > 1 else "several devices will share one core: give OMP_NUM_THREADS=1"
    return Finding("cores", ok=usable > 1, value=f"{usable} usable", remedy=remedy)


def batch_scheduling() -> Finding:
    """Try the scheduling class of long computations, in a thread of its own."""
    name = "batch scheduling"
    if not hasattr(os, "SCHED_BATCH"):
        return Finding(name, ok=False, value="not on this system", remedy="Linux has it; runs go well without")
    try:
        within(lambda: os.sched_setscheduler(0, os.SCHED_BATCH, os.sched_param(0)), _GIVE_UP_S)
    except OSError as error:
        value = error.strerror or str(error)
        return Finding(name, ok=False, value=value, remedy="allow sched_setscheduler (seccomp); runs go well without")
    return Finding(name, ok=True, value="SCHED_BATCH usable")


def reverse_lookup() -> Finding:
    """Time the look-up of loopback's name, which torch.distributed does for each connection."""
    name = "reverse look-up"
    try:
        _, seconds = within(lambda: socket.getnameinfo(("::ffff:127.0.0.1", 0), 0), _GIVE_UP_S)
        took = human_seconds(seconds)
    except TimeoutError:
        seconds, took = _GIVE_UP_S, f"more than {_GIVE_UP_S:g} s"
    except OSError as error:
        return Finding(name, ok=True, value=f"no name ({error.strerror or error}), no delay")
    if seconds <= _SLOW_LOOKUP_S:
        return Finding(name, ok=True, value=f"::ffff:127.0.0.1 in {took}")
    remedy = 'export RES_OPTIONS="timeout:1 attempts:1", or add to /etc/hosts: ::ffff:127.0.0.1 localhost'
    return Finding(name, ok=False, value=f"::ffff:127.0.0.1 in {took}: runs start slowly", remedy=remedy)


def byte_counters() -> Finding:
    """Send bytes over loopback and ask the kernel how many it counted."""
    name, remedy = "byte counters", "Linux 4.19 or newer has them; runs go well without"
    try:
        with (
            socket.create_server(("127.0.0.1", 0)) as server,
            socket.create_connection(server.getsockname(), timeout=1) as client,
        ):
            client.sendall(bytes(1000))
            information = client.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 280)
        (sent,) = struct.unpack_from("=Q", information, _TCP_INFO_BYTES_SENT)
    except (AttributeError, OSError, struct.error) as error:
        return Finding(name, ok=False, value=f"cannot be read ({error})", remedy=remedy)
    ok = sent == 1000
    return Finding(name, ok=ok, value=f"TCP_INFO counted {sent} of 1000 bytes sent", remedy="" if ok else remedy)


def free_disk() -> Finding:
    """Tell how much room the current folder has for run folders."""
    free = shutil.disk_usage(Path.cwd()).free
    ok = free >= _MIN_FREE_BYTES
    remedy = "" if ok else f"make room, or run where there are {human_bytes(_MIN_FREE_BYTES)} at least"
    return Finding("free disk", ok=ok, value=f"{human_bytes(free)} here", remedy=remedy, needed=True)


def extra(name: str) -> Finding:
    """Tell whether an extra is installed, and which version of its package."""
    package = _EXTRAS[name]
    try:
        return Finding(f"extra {name}", ok=True, value=f"{package} {version(package)}")
    except PackageNotFoundError:
        return Finding(
            f"extra {name}", ok=False, value=f"{package} not installed", remedy=f"pip install 'scadles[{name}]'"
        )


def broker(name: str) -> Finding:
    """Connect to the broker that an environment variable names as ``host:port``."""
    variable, port = _BROKERS[name]
    title, example = f"broker {name}", f"export {variable}=localhost:{port}"
    address = os.environ.get(variable, "")
    if not address:
        return Finding(title, ok=False, value=f"{variable} not set", remedy=f"if you have one: {example}")
    host, _, given_port = address.rpartition(":")
    if not host or not given_port.isdecimal():
        return Finding(title, ok=False, value=f"{variable}={address}", remedy=f"write host:port: {example}")
    try:
        socket.create_connection((host.strip("[]"), int(given_port)), timeout=1).close()
    except (OSError, OverflowError) as error:
        return Finding(title, ok=False, value=f"{address}: {error}", remedy=f"start it, or change {variable}")
    return Finding(title, ok=True, value=f"{address} answers")


def _sum_alone() -> float:
    import torch

    distributed: Any = torch.distributed
    group = distributed.ProcessGroupGloo(distributed.HashStore(), 0, 1)
    total = torch.ones(1)
    group.allreduce([total]).wait()
    return float(total)
