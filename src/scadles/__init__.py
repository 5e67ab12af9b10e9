"""ScaDLES: many devices learn one PyTorch model together, online, from live streams of unequal rates.

Importing this package is fast: torch is loaded with the first name that needs it.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from scadles._version import __version__

if TYPE_CHECKING:
    from scadles.assembly import open_source
    from scadles.clock import Clock, VirtualClock, WallClock
    from scadles.config import RunConfig, load_config
    from scadles.data import Preparation
    from scadles.device.connected import Batch
    from scadles.errors import (
        CheckpointError,
        ConfigError,
        DataError,
        DivergedError,
        FabricError,
        LeftError,
        MissingExtraError,
        PeerLostError,
        RunError,
        ScadlesError,
        SourceError,
    )
    from scadles.exchange.ddp_hook import HookState, ddp_hook
    from scadles.fabric import Fabric, LocalFabric
    from scadles.models import convert_batchnorm
    from scadles.observe import Summary
    from scadles.security import CertificateFiles
    from scadles.simulation import simulate
    from scadles.streams import Records, Source, register_source
    from scadles.tasks import Task
    from scadles.training.loop import LiveDevice
    from scadles.training.run import join, train

_HOMES = {
    "Batch": "scadles.device.connected",
    "CertificateFiles": "scadles.security",
    "CheckpointError": "scadles.errors",
    "Clock": "scadles.clock",
    "ConfigError": "scadles.errors",
    "DataError": "scadles.errors",
    "DivergedError": "scadles.errors",
    "Fabric": "scadles.fabric",
    "FabricError": "scadles.errors",
    "HookState": "scadles.exchange.ddp_hook",
    "LeftError": "scadles.errors",
    "LiveDevice": "scadles.training.loop",
    "LocalFabric": "scadles.fabric",
    "MissingExtraError": "scadles.errors",
    "PeerLostError": "scadles.errors",
    "Preparation": "scadles.data",
    "Records": "scadles.streams",
    "RunConfig": "scadles.config",
    "RunError": "scadles.errors",
    "ScadlesError": "scadles.errors",
    "Source": "scadles.streams",
    "SourceError": "scadles.errors",
    "Summary": "scadles.observe",
    "Task": "scadles.tasks",
    "VirtualClock": "scadles.clock",
    "WallClock": "scadles.clock",
    "convert_batchnorm": "scadles.models",
    "ddp_hook": "scadles.exchange.ddp_hook",
    "join": "scadles.training.run",
    "load_config": "scadles.config",
    "open_source": "scadles.assembly",
    "register_source": "scadles.streams",
    "simulate": "scadles.simulation",
    "train": "scadles.training.run",
}

__all__ = [
    "Batch",
    "CertificateFiles",
    "CheckpointError",
    "Clock",
    "ConfigError",
    "DataError",
    "DivergedError",
    "Fabric",
    "FabricError",
    "HookState",
    "LeftError",
    "LiveDevice",
    "LocalFabric",
    "MissingExtraError",
    "PeerLostError",
    "Preparation",
    "Records",
    "RunConfig",
    "RunError",
    "ScadlesError",
    "Source",
    "SourceError",
    "Summary",
    "Task",
    "VirtualClock",
    "WallClock",
    "__version__",
    "convert_batchnorm",
    "ddp_hook",
    "join",
    "load_config",
    "open_source",
    "register_source",
    "simulate",
    "train",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'scadles' has no attribute {name!r}")
    value = getattr(importlib.import_module(_HOMES[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return __all__
