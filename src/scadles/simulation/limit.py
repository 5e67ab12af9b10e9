"""How soon anybody could have reached the target from what the streams had brought."""

from __future__ import annotations

from collections.abc import Callable

from torch import nn

from scadles.config import RunConfig, load_config
from scadles.data import Dataset
from scadles.errors import ConfigError
from scadles.observe import Summary
from scadles.simulation.simulator import Simulator
from scadles.tasks import Task

WINDOW_FACTORS = (0.25, 0.5, 1.0, 2.0, 4.0)


def with_stream_limit(
    summary: Summary,
    config: RunConfig,
    dataset: Dataset,
    make_model: Callable[[], nn.Module],
    task: Task,
    tell: Callable[[str], None],
) -> Summary:
    """Return ``summary`` with ``stream_limit_s`` and ``stream_efficiency``.

    The same streams are played with free links and free compute, the batch rule of ScaDLES, and a few batch windows
    around the configured one; every sample is trained on once. The earliest time to the target is the limit; the run
    itself counts as one of the tries, so that its efficiency is at most 1.

    Args:
        summary: of the run.
        config: of the run; it has a target.
        dataset: what its streams play.
        make_model: returns the network with its initial weights, anew each time.
        task: what is learnt.
        tell: told what is being tried.
    """
    limit_s = summary.time_to_target_s
    for factor in WINDOW_FACTORS:
        window_s = config.batch.window_s * factor
        until_s = limit_s if limit_s is not None else summary.time_s
        tell(f"the stream's limit: free links and compute, batches of {window_s:g} s, until {until_s:.1f} s at most")
        tried = Simulator(free(config, window_s, until_s), dataset, make_model(), task=task).run()
        if tried.time_to_target_s is not None and (limit_s is None or tried.time_to_target_s < limit_s):
            limit_s = tried.time_to_target_s
    reached_s = summary.time_to_target_s
    efficiency = limit_s / reached_s if limit_s is not None and reached_s else None
    return summary.model_copy(update={"stream_limit_s": limit_s, "stream_efficiency": efficiency})


def check_has_target(config: RunConfig) -> None:
    """Refuse a run that aims at nothing."""
    if not config.aims:
        raise ConfigError("--limit asks how soon the target can be reached: set target_accuracy")


def free(config: RunConfig, window_s: float, until_s: float) -> RunConfig:
    """Return a run of the same streams with nothing to pay for, tested at the end of every window.

    Args:
        config: of the run.
        window_s: of its batches.
        until_s: when it ends, where it has not reached its target before.
    """
    tree = config.model_dump(mode="json")
    tree |= {
        "method": "scadles",
        "cost": {},
        "compression": {},
        "injection": {},
        "duration_s": until_s,
        "stop_at_target": True,
        "steps": None,
    }
    tree["batch"] |= {"rule": "rate", "window": "fixed", "step_cost_s": 0.0, "window_s": window_s, "min": 1}
    tree["batch"]["max"] = config.buffer.capacity
    tree["buffer"]["policy"] = "persistence"
    tree["aggregation"]["mean"] = "weighted"
    tree["lr"]["scaling"] = "auto"
    tree["evaluation"]["every_s"] = min(window_s, config.evaluation.every_s)
    tree["fabric"]["deadline_s"] = max(config.fabric.deadline_s, 2 * window_s)
    return load_config(tree)
