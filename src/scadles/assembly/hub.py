"""From settings to a hub."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path

from scadles.assembly.exchange import build_fold, build_judge, build_report_check, build_tail_check, sparse_ratios
from scadles.config import RunConfig
from scadles.exchange.reduction import DenseOwner, EitherOwner, VectorOwner
from scadles.fabric.hub import Hub, Journal, journal_of
from scadles.fabric.hub.collectives import Fold
from scadles.security import Authenticator


def build_journal(config: RunConfig, folder: Path, say: Callable[[str], None]) -> AbstractContextManager[Journal]:
    """Return the journal in a hub's folder, which says when it cannot be written; its notes reach back to the
    checkpoint before the last.
    """
    return journal_of(folder, kept=2 * config.checkpoint.every_steps + 2, say=say)


def build_hub(
    config: RunConfig,
    host: str,
    port: int,
    journal: Journal,
    say: Callable[[str], None],
    *,
    least: int | None = None,
    guard: Authenticator | None = None,
) -> Hub:
    """Return a hub that has yet to be started.

    Args:
        config: the run, which devices are told.
        host, port: where it listens.
        journal: keeps what must outlive its process.
        say: told one line about whoever comes, goes or is refused.
        least: how many devices must be there for a step; None takes what the settings say.
        guard: judges who may take part; None lets in whoever comes, in plain text.

    Raises:
        ConfigError: it cannot listen there.
    """
    return Hub(
        *(host, port, config.devices),
        least=config.fabric.min_devices if least is None else least,
        deadline_s=config.fabric.deadline_s,
        journal=journal,
        settings=config.model_dump(mode="json"),
        fold=build_hub_fold(config),
        check=build_tail_check(config).problem,
        say=say,
        guard=guard,
    )


def build_hub_fold(config: RunConfig) -> Fold | None:
    """Return what makes one message of all devices', sparse or whole; None where they are only added up."""
    judge, check = build_judge(config), build_report_check(config)
    sparse = None
    if config.compression.ratio is not None:
        sparse = VectorOwner(sparse_ratios(config)[-1], judge, check.problem)
    fold = build_fold(config, judge)
    if fold is None:
        return sparse.fold if sparse is not None else None
    return EitherOwner(DenseOwner(fold, check.problem), sparse).fold
