"""What a run starts from: its identity, the checkpoint that all devices have whole, and what is to be said of both."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

from scadles.fabric import Fabric
from scadles.observe import events_path, scan_events
from scadles.training.checkpoint import Checkpoint, CheckpointStore
from scadles.training.identity import RunIdentity, common_run, read_identity, write_identity
from scadles.training.starting_values import Origin


class Start(NamedTuple):
    """What a device starts from.

    Attributes:
        checkpoints: where its checkpoints are.
        checkpoint: the one to go on from; None for the beginning.
        notices: what a user should know of it.
        origin: where its first values come from; None where they are drawn or those of the checkpoint.
    """

    checkpoints: CheckpointStore
    checkpoint: Checkpoint | None
    notices: list[str]
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
    identity = RunIdentity(drawn, fabric.size, settings)
    write_identity(run_dir, identity, fabric.rank)
    return Start(CheckpointStore(run_dir, fabric.rank, keep, identity), None, [])


def start_again(run_dir: Path, fabric: Fabric, keep: int, settings: Mapping[str, str], drawn: str) -> Start:
    """Find what a resumed run goes on from; arguments are those of :func:`start_anew`.

    Raises:
        CheckpointError: there are checkpoints, and no step is whole on all devices, or they are of different runs.
    """
    here = read_identity(run_dir)
    store = CheckpointStore(run_dir, fabric.rank, keep)
    run = common_run(here.run if here else store.run_of_newest(), fabric)
    # a folder without an identity is one of an earlier version, whose checkpoints have none either
    store.identity = RunIdentity(run, fabric.size, settings, here.unchecked_to if here else sys.maxsize)
    checkpoint = store.newest_common(fabric)
    unchecked_to = checkpoint.step if checkpoint and not checkpoint.has_identity else -1
    store.identity = replace(store.identity, run=run or drawn, unchecked_to=here.unchecked_to if here else unchecked_to)
    write_identity(run_dir, store.identity, fabric.rank)
    return Start(store, checkpoint, [*store.notices, *_said_of(checkpoint, run_dir, fabric.rank)])


def _said_of(checkpoint: Checkpoint | None, run_dir: Path, device: int) -> list[str]:
    """Return what is missing in this device's events up to the checkpoint, or that there is none."""
    if checkpoint is None:
        return ["there is no checkpoint yet: the run starts at its beginning"] if device == 0 else []
    gaps = scan_events(events_path(run_dir, device)).gaps(device, checkpoint.step, checkpoint.model_sha256)
    return [f"{gap}; the run goes on, because its checkpoints are whole" for gap in gaps]
