"""Settings that experiments share."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from scadles.config import RunConfig, load_config
from scadles.config.tree import merged
from scadles.streams import draw_rates

SEED = 0

# Nothing is learnt: devices gather, wait, compute (which is charged) and synchronise as always.
_IDLE: Mapping[str, Any] = {
    "model": "none",
    "picture": False,
    "batch": {"max_wait_s": 3600.0},
    "fabric": {"deadline_s": 7200.0},
}


def idle_run(**settings: Any) -> RunConfig:
    """Return the settings of a run without learning, in which no batch is cut short by a deadline."""
    return load_config(merged(_IDLE, settings))


def rates_of(config: RunConfig) -> tuple[float, ...]:
    """Return the rate of each device of a run, samples per second."""
    return draw_rates(config.stream.rates, config.devices, config.seed)
