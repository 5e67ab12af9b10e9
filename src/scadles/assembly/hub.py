"""From settings to a hub."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path

from scadles.config import RunConfig
from scadles.exchange.reduction import VectorOwner
from scadles.fabric.hub import Hub, Journal, journal_of
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
        fold=VectorOwner(config.compression.ratio).fold if config.compression.ratio is not None else None,
        say=say,
        guard=guard,
    )
