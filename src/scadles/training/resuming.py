"""What a run starts from: its identity, the checkpoint that all devices have whole, and what is to be said of both."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

from scadles.errors import CheckpointError, ConfigError
from scadles.fabric import Fabric
from scadles.observe import events_path, scan_events
from scadles.training.agreement import newest_common
from scadles.training.checkpoint import Checkpoint, CheckpointStore
from scadles.training.identity import RunIdentity, common_run, read_identity, write_identity
from scadles.training.membership import Members, take_up
from scadles.training.starting_values import Origin


class Start(NamedTuple):
    """What a device starts from.

    Attributes:
        checkpoints: where its checkpoints are.
        checkpoint: the one to go on from; None for the beginning.
        notices: what a user should know of it.
        members: who takes part.
        origin: where its first values come from; None where they are drawn or those of the checkpoint.
    """

    checkpoints: CheckpointStore
    checkpoint: Checkpoint | None
    notices: list[str]
    members: Members = Members()
    origin: Origin | None = None


def start_anew(run_dir: Path, fabric: Fabric, keep: int, settings: Mapping[str, str], drawn: str) -> Start:
    """Give a new run its identity.

    Args:
        run_dir: the run folder.
        fabric: what connects the devices.
        keep: how many checkpoints to keep.
        settings: hashes of what a resumed run must keep.
        drawn: what a run is called that has no name yet, the same on all devices.
    """
    identity = RunIdentity(drawn, fabric.size, settings, dealt=fabric.size)
    write_identity(run_dir, identity, fabric.rank)
    return Start(CheckpointStore(run_dir, fabric.rank, keep, identity), None, [])


def start_again(
    run_dir: Path, fabric: Fabric, keep: int, settings: Mapping[str, str], drawn: str, *, replayed: bool
) -> Start:
    """Find what a resumed run goes on from, with as many devices as before, fewer or more.

    Args:
        run_dir, fabric, keep, settings, drawn: those of :func:`start_anew`.
        replayed: whether streams are replayed, so that a new device's can begin at this moment.

    Raises:
        CheckpointError: there are checkpoints, and no step is whole on all devices, or they are of different runs; or
            a device comes back, and what it left cannot be used.
    """
    here = read_identity(run_dir)
    store = CheckpointStore(run_dir, fabric.rank, keep)
    run = common_run(here.run if here else store.run_of_newest(), fabric)
    # a folder without an identity is one of an earlier version, whose checkpoints have none either
    store.identity = RunIdentity(run, fabric.size, settings, here.unchecked_to if here else sys.maxsize)
    agreed = newest_common(store, fabric)
    if agreed is None:
        checkpoint, members = None, Members()
        notices = ["there is no checkpoint yet: the run starts at its beginning"] if fabric.rank == 0 else []
    else:
        checkpoint, members = take_up(agreed, store, fabric, replayed=replayed)
        notices = [*agreed.notices, *members.notices]
        if members.absent_since is None:
            notices += _missing(run_dir, fabric.rank, checkpoint)
    unchecked_to = checkpoint.step if checkpoint and not checkpoint.has_identity else -1
    store.identity = replace(
        store.identity,
        run=run or drawn,
        unchecked_to=here.unchecked_to if here else unchecked_to,
        dealt=(checkpoint.dealt if checkpoint else 0) or fabric.size,
    )
    write_identity(run_dir, store.identity, fabric.rank)
    return Start(store, checkpoint, notices, members)


def come_in(run_dir: Path, fabric: Fabric, keep: int, settings: Mapping[str, str], run: str) -> Start:
    """Find what a device comes with into a run whose devices come and go: its own newest checkpoint, if it has one.

    Args:
        run_dir, fabric, keep, settings: those of :func:`start_anew`.
        run: what the run is called.
    """
    here = read_identity(run_dir)
    if here is not None and here.run != run:
        raise ConfigError(
            f"{run_dir} is of another run ({here.run[:8]}) than the one of this hub ({run[:8]}): give another --out"
        )
    identity = RunIdentity(run, fabric.size, settings, dealt=fabric.size)
    write_identity(run_dir, identity, fabric.rank)
    store = CheckpointStore(run_dir, fabric.rank, keep, identity)
    notices: list[str] = []
    for step in reversed(store.steps()):
        try:
            return Start(store, store.read(step), notices)
        except CheckpointError as error:
            store.refuse(step)
            notices.append(f"a checkpoint is refused: {error}")
    return Start(store, None, notices)


def _missing(run_dir: Path, device: int, checkpoint: Checkpoint) -> list[str]:
    """Return what is missing in this device's events up to the checkpoint."""
    gaps = scan_events(events_path(run_dir, device)).gaps(device, checkpoint.step, checkpoint.model_sha256)
    return [f"{gap}; the run goes on, because its checkpoints are whole" for gap in gaps]
