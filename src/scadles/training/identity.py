"""Which run a checkpoint is of: an identity drawn at the first start, kept in the run folder and in each checkpoint."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch

from scadles.errors import CheckpointError, ConfigError
from scadles.fabric import Fabric

RUN_FILE = "run.json"
_MOST_TEXT_BYTES = 4000


@dataclass(frozen=True)
class RunIdentity:
    """What all checkpoints of a run have in common.

    Attributes:
        run: drawn at the first start, kept by resumed runs; empty where nothing is known of it.
        devices: how many take part.
        settings: a hash of each setting that a resumed run must keep, by name.
        dealt: to how many the data set was dealt when the run began; 0: to as many as take part.
        unchecked_to: the newest step whose checkpoint may be of the format that has no identity; -1 for none.
    """

    run: str = ""
    devices: int = 1
    settings: Mapping[str, str] = field(default_factory=dict)
    unchecked_to: int = -1
    dealt: int = 0


def write_identity(run_dir: Path, identity: RunIdentity, device: int) -> None:
    """Write a run's identity into its folder, whole or not at all.

    Raises:
        ConfigError: the folder cannot be written to.
    """
    temporary = run_dir / f"{RUN_FILE}.{device}.tmp"
    try:
        temporary.write_text(json.dumps({"run": identity.run, "unchecked_to": identity.unchecked_to}) + "\n")
        temporary.replace(run_dir / RUN_FILE)
    except OSError as error:
        raise ConfigError(f"cannot write the run folder {run_dir}: {error.strerror}") from None


def read_identity(run_dir: Path) -> RunIdentity | None:
    """Return a run's identity without devices and settings; None where the folder has none that can be read."""
    try:
        found = json.loads((run_dir / RUN_FILE).read_bytes())
    except (OSError, ValueError, RecursionError):
        return None
    if not isinstance(found, dict):
        return None
    run, unchecked_to = found.get("run"), found.get("unchecked_to")
    if not isinstance(run, str) or not run or not isinstance(unchecked_to, int):
        return None
    return RunIdentity(run=run, unchecked_to=unchecked_to)


def common_run(mine: str, fabric: Fabric) -> str:
    """Return the run that all devices' folders are of; empty where none of them knows.

    Raises:
        CheckpointError: they are of different runs.
    """
    runs = gather_texts(mine, fabric, "comparing runs")
    known = sorted(set(runs) - {""})
    if len(known) > 1:
        of_each = ", ".join(f"device {device}'s of {run[:8]}" for device, run in enumerate(runs) if run)
        raise CheckpointError(
            f"the devices' folders are of different runs, {of_each}: give each device the folder it had, or start a "
            "new run with another --out"
        )
    return known[0] if known else ""


def gather_texts(mine: str, fabric: Fabric, phase: str) -> Sequence[str]:
    """Return what each device has to say, in the order of their numbers; long texts are cut."""
    text = mine.encode(errors="replace")[:_MOST_TEXT_BYTES]
    lengths = fabric.gather(torch.tensor([len(text)]), phase)[:, 0].tolist()
    longest = max(lengths)
    if not longest:
        return [""] * fabric.size
    padded = torch.tensor(list(text.ljust(longest, b"\0")), dtype=torch.uint8)
    rows = fabric.gather(padded, phase).tolist()
    return [bytes(row[:length]).decode(errors="replace") for row, length in zip(rows, lengths, strict=True)]
