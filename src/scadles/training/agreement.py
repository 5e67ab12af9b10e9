"""Which checkpoint all devices go on from: the newest step that is whole on all that took part in it."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import NamedTuple

import torch

from scadles.errors import CheckpointError
from scadles.fabric import Fabric
from scadles.training.checkpoint import MOST_STEPS, Checkpoint, CheckpointStore
from scadles.training.identity import gather_texts

_MOST_OF_A_REASON = 600
_PHASE = "agreeing on a checkpoint"


class Agreed(NamedTuple):
    """What all devices go on from.

    Attributes:
        step: the step after which it was written.
        devices: how many took part in it: device 0 and those after it.
        checkpoint: this device's; None on one that took no part.
        notices: what a user should know of how it was found.
    """

    step: int
    devices: int
    checkpoint: Checkpoint | None
    notices: list[str]


class _Vote(NamedTuple):
    """What one device has to say of its checkpoint of a step; ``why`` is empty where it can be used."""

    why: str
    model_sha256: str
    has_identity: bool
    devices: int


_NO_PART = _Vote("", "", has_identity=True, devices=0)


def newest_common(store: CheckpointStore, fabric: Fabric) -> Agreed | None:
    """Return the newest step that is whole on every device that took part in it, the same step on all of them.

    Who took part is said by device 0's checkpoint. There may be fewer devices now, or more: those that took no part
    have no say, whatever they have. None where the run was stopped before all had written their first checkpoint.

    Raises:
        CheckpointError: there are checkpoints, and no step is whole on all devices.
    """
    mine = store.steps()[-MOST_STEPS:]
    length = int(fabric.gather(torch.tensor([len(mine)]), _PHASE).max())
    table = [*mine, *[-1] * (length - len(mine)), *map(store.devices_of, mine), *[0] * (length - len(mine))]
    found = fabric.gather(torch.tensor(table, dtype=torch.int64), _PHASE).tolist() if length else [[]] * fabric.size
    rows = [set(row[:length]) - {-1} for row in found]
    said = dict(zip(found[0][:length], found[0][length:], strict=True))
    refused: list[str] = []
    for step in sorted(rows[0], reverse=True):
        devices = said[step] or fabric.size
        if not all(step in row for row in rows[:devices]):
            continue
        checkpoint, votes = _vote(store, step, fabric, devices)
        whys = _reasons(votes[:devices])
        if not whys:
            notices = _told(step, votes[:devices], refused) if fabric.rank == 0 else []
            return Agreed(step, devices, checkpoint, notices)
        if fabric.rank in whys:
            store.refuse(step)
        refused += [f"device {device}: {why}" for device, why in whys.items()]
    if refused:
        raise CheckpointError(f"no step's checkpoints are whole on all devices: {'; '.join(refused)}")
    if any(step > 0 for row in rows for step in row):
        of_each = ", ".join(f"device {device} has {_listed(row)}" for device, row in enumerate(rows))
        raise CheckpointError(f"there is no step that all devices have a checkpoint of: {of_each}")
    return None


def _vote(store: CheckpointStore, step: int, fabric: Fabric, devices: int) -> tuple[Checkpoint | None, list[_Vote]]:
    """Read one step on all devices that took part in it, and return what each of them found."""
    checkpoint, mine = None, _NO_PART
    if fabric.rank < devices:
        try:
            checkpoint = store.read(step)
            mine = _Vote("", checkpoint.model_sha256, checkpoint.has_identity, checkpoint.devices)
        except CheckpointError as error:
            mine = _Vote(str(error)[:_MOST_OF_A_REASON], "", has_identity=False, devices=0)
    said = gather_texts(json.dumps(mine), fabric, f"reading the checkpoints of step {step}")
    return checkpoint, [_Vote(*json.loads(text)) for text in said]


def _reasons(votes: list[_Vote]) -> dict[int, str]:
    """Return why a step cannot be used, by device: a file was refused, or they are not of the same moment."""
    whys = {device: vote.why for device, vote in enumerate(votes) if vote.why}
    known = {device: vote for device, vote in enumerate(votes) if vote.has_identity}
    if whys or not known:
        return whys
    models = [vote.model_sha256 for vote in known.values()]
    common = max(models, key=models.count)
    whys = {
        device: "its checkpoint holds another model than those of the others"
        for device, vote in known.items()
        if vote.model_sha256 != common
    }
    of = known[min(known)].devices
    return whys or {
        device: f"its checkpoint is of a step of {vote.devices} devices, device {min(known)}'s of {of}"
        for device, vote in known.items()
        if vote.devices != of
    }


def _told(step: int, votes: list[_Vote], refused: list[str]) -> list[str]:
    """Return what there is to say of a step that was agreed on, and of what was refused before it."""
    notices = []
    if refused:
        notices.append(f"the run goes on from step {step}, because newer ones are refused: {'; '.join(refused)}")
    if old := [device for device, vote in enumerate(votes) if not vote.has_identity]:
        notices.append(
            f"the checkpoints of step {step} on devices {old} are of an earlier version, which wrote neither run "
            "nor device nor a checksum: they are taken as they are"
        )
    return notices


def _listed(steps: Iterable[int]) -> str:
    return ", ".join(map(str, sorted(steps))) or "none"
