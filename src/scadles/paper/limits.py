"""How soon the streams would have allowed a target to be reached, had computing and sending cost nothing."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

from scadles.config import RunConfig, load_config
from scadles.paper.runs import Runs, key_of
from scadles.simulation.limit import WINDOW_FACTORS, free

Key = TypeVar("Key", bound=tuple[Any, ...])


@dataclass(frozen=True)
class Case:
    """A target, and what is known of it.

    Attributes:
        config: of any run with these streams.
        aim: the accuracy to reach.
        known_s: when the first of all real runs was there; infinity for never.
    """

    config: RunConfig
    aim: float
    known_s: float


def stream_limits(runs: Runs, cases: Mapping[Key, Case]) -> dict[Key, float]:
    """Return the stream time of the limit of ``scadles simulate --limit`` for each case.

    That is the earliest of runs with free links and free compute, which train on every sample once in batches of a few
    windows; the real ones count among them.
    """
    configs = {
        key_of("limit", *key, factor): _free(case, factor) for key, case in cases.items() for factor in WINDOW_FACTORS
    }
    weights = {key: (config.duration_s or 0.0) / config.batch.window_s**0.5 for key, config in configs.items()}
    folders = runs.get(configs, weights)
    found = {key: folder.summary.time_to_target_s for key, folder in folders.items()}
    return {
        key: min(case.known_s, *(found[key_of("limit", *key, f)] or case.known_s for f in WINDOW_FACTORS))
        for key, case in cases.items()
    }


def _free(case: Case, factor: float) -> RunConfig:
    until_s = min(case.known_s, case.config.duration_s or case.known_s)
    aiming = load_config(case.config, [f"target_accuracy={case.aim}"])
    return free(aiming, factor * aiming.batch.window_s, until_s)
