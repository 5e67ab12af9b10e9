"""The tables and figures of the paper, reproduced: the paper's value, its own rule's, and ours in every cell."""

from __future__ import annotations

from scadles.errors import ConfigError, did_you_mean
from scadles.paper.accumulation import ACCUMULATION
from scadles.paper.buffers import BUFFERS
from scadles.paper.compression import COMPRESSION_EXPERIMENT
from scadles.paper.convergence import CONVERGENCE_EXPERIMENT
from scadles.paper.experiment import Experiment, Options, Outcome
from scadles.paper.injection import INJECTION_EXPERIMENT
from scadles.paper.latency import LATENCY
from scadles.paper.noniid import NONIID_EXPERIMENT
from scadles.paper.rates import RATES
from scadles.paper.runs import Runs
from scadles.paper.speedup import SPEEDUP
from scadles.paper.table import Cell, Quantity, Row, Table
from scadles.paper.window import WINDOW_EXPERIMENT

__all__ = [
    "EXPERIMENTS",
    "Cell",
    "Experiment",
    "Options",
    "Outcome",
    "Quantity",
    "Row",
    "Runs",
    "Table",
    "find_experiments",
]

EXPERIMENTS: dict[str, Experiment] = {
    experiment.name: experiment
    for experiment in (
        LATENCY,
        ACCUMULATION,
        BUFFERS,
        CONVERGENCE_EXPERIMENT,
        COMPRESSION_EXPERIMENT,
        SPEEDUP,
        WINDOW_EXPERIMENT,
        NONIID_EXPERIMENT,
        INJECTION_EXPERIMENT,
        RATES,
    )
}


def find_experiments(name: str) -> list[Experiment]:
    """Return the experiment of that name, or every one for ``all``.

    Raises:
        ConfigError: there is none.
    """
    if name == "all":
        return list(EXPERIMENTS.values())
    if name not in EXPERIMENTS:
        raise ConfigError(f"there is no experiment {name!r}{did_you_mean(name, [*EXPERIMENTS, 'all'])}")
    return [EXPERIMENTS[name]]
