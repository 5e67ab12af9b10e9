"""Who takes part in a run that goes on with fewer or more devices than before, and what becomes of the others' streams.

What belongs to a device (stream position, ledger, what compression kept back, random numbers) stays with its number:
in its own checkpoints, which nobody else takes up. All checkpoints count what each device had, so that the account
of the run is whole though a device's files are elsewhere. Everything else is the same on all devices, and one that
comes later is given it by device 0.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any, NamedTuple

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from scadles.device.buffer import Ledger
from scadles.device.connected import ConnectedDevice
from scadles.errors import CheckpointError
from scadles.fabric import Fabric
from scadles.observe import Away, Samples, Shared
from scadles.training.agreement import Agreed
from scadles.training.checkpoint import Checkpoint, CheckpointStore
from scadles.training.identity import gather_texts
from scadles.training.packing import FORGETS, OF_THE_DEVICE
from scadles.training.run_statistics import RunStatistics

_PHASE = "giving the checkpoint to devices that come later"
_STATE = "state"
#: What of a device's sums is that of the run, and the same on all devices.
_OF_THE_RUN = (
    "steps", "lr_scale", "collectives", "best", "final", "metrics", "time_to_target_s", "per_label", "spread", "found",
)  # fmt: skip
_MOST_NAMED = 8


class Members(NamedTuple):
    """Who takes part from now on.

    Attributes:
        away: devices that took part once and do not now.
        absent_since: the step after which this device took no part until now, 0 where it is new; None where it did.
        notices: what a user should know of it; device 0 speaks for all.
    """

    away: tuple[Away, ...] = ()
    absent_since: int | None = None
    notices: Sequence[str] = ()


def take_up(agreed: Agreed, store: CheckpointStore, fabric: Fabric, *, replayed: bool) -> tuple[Checkpoint, Members]:
    """Return what this device goes on from, and who takes part.

    Args:
        agreed: the step that all go on from.
        store: this device's checkpoints.
        fabric: connects those that take part now.
        replayed: whether streams are replayed, so that a new one can begin at this moment.

    Raises:
        CheckpointError: a device comes back, and its last checkpoint cannot be used; or the checkpoint does not say
            what those had who take no part any more.
    """
    before, now, checkpoint = agreed.devices, fabric.size, agreed.checkpoint
    if now > before:
        checkpoint = _share(checkpoint, fabric)
    if checkpoint is None:
        raise CheckpointError(f"device {fabric.rank} has no checkpoint of step {agreed.step}")
    away = {one.device: one for one in map(Away.model_validate, checkpoint.state["run"].get("away", []))}
    left = _left(checkpoint, range(now, before))
    back = {device: away.pop(device) for device in range(before, now) if device in away}
    since = None
    if now > before:
        own = _own(back.get(fabric.rank), store, fabric)
    if fabric.rank >= before:
        since = back[fabric.rank].after_step if fabric.rank in back else 0
        checkpoint = joined(checkpoint, own, replayed=replayed)
    notices = _told(agreed, left, back, now, checkpoint) if fabric.rank == 0 else []
    members = sorted([*away.values(), *left], key=lambda one: one.device)
    return checkpoint, Members(tuple(members), since, notices)


def account(device: ConnectedDevice, statistics: RunStatistics) -> dict[str, int]:
    """Return what this device has come to, in numbers that all devices have in the same order."""
    sender = device.sender
    shared = sender.describe() if sender is not None else {}
    return {
        **device.intake.describe(),
        "position": device.intake.state().position,
        "bytes_sent": statistics.up_to_now(device).bytes_sent,
        **{f"shared/{name}": count for name, count in shared.items()},
    }


def packed(numbers: Mapping[str, int]) -> bytes:
    """Return an account as bytes, as many on all devices."""
    return struct.pack(f"<{len(numbers)}q", *numbers.values())


def accounts(mine: Mapping[str, int], said: Sequence[bytes]) -> list[dict[str, Any]]:
    """Return the accounts of all devices, by number: what checkpoints must say of those that may not come back.

    Args:
        mine: this device's account.
        said: those of all devices, packed.
    """
    rows = (struct.unpack(f"<{len(mine)}q", one) for one in said)
    return [_account(dict(zip(mine, row, strict=True))) for row in rows]


def _account(numbers: Mapping[str, int]) -> dict[str, Any]:
    shared = {name: numbers[f"shared/{name}"] for name in Shared.model_fields if f"shared/{name}" in numbers}
    return {
        "samples": {name: numbers[name] for name in Samples.model_fields},
        "position": numbers["position"],
        "bytes_sent": numbers["bytes_sent"],
        "shared": shared or None,
    }


def _left(checkpoint: Checkpoint, devices: range) -> list[Away]:
    """Return the account of the devices that took part until now."""
    if not devices:
        return []
    accounts = checkpoint.state["run"].get("accounts")
    if accounts is None:
        raise CheckpointError(
            f"the checkpoint of step {checkpoint.step} is of an earlier version, which does not say what each device "
            f"had: resume it on {devices.stop} devices first, and after its next checkpoint on {devices.start}"
        )
    step, model_sha256 = checkpoint.step, checkpoint.model_sha256
    return [Away(device=d, after_step=step, model_sha256=model_sha256, **accounts[d]) for d in devices]


def common_state(checkpoint: Checkpoint) -> dict[str, Tensor]:
    """Return what a checkpoint has in common with those of all devices, by name; nothing is copied."""
    common = {name: t for name, t in checkpoint.tensors.items() if not name.startswith(OF_THE_DEVICE)}
    said = json.dumps(checkpoint._replace(tensors={})).encode()
    return {**common, _STATE: torch.frombuffer(bytearray(said), dtype=torch.uint8)}


def state_bytes(common: Mapping[str, Tensor]) -> Tensor:
    """Return a common state as bytes, uint8 ``[m]``."""
    return torch.frombuffer(bytearray(save(dict(common))), dtype=torch.uint8)


def read_common_state(message: Tensor) -> Checkpoint:
    """Return what :func:`common_state` was made of, given its bytes.

    Raises:
        CheckpointError: these are other bytes.
    """
    try:
        tensors: dict[str, Tensor] = load(message.numpy().tobytes())
        said = json.loads(tensors.pop(_STATE).numpy().tobytes())
        return Checkpoint(*said)._replace(tensors=tensors)
    except (SafetensorError, KeyError, TypeError, ValueError, RecursionError) as error:
        raise CheckpointError(f"the state that came is none: {error}") from None


def _share(checkpoint: Checkpoint | None, fabric: Fabric) -> Checkpoint:
    """Give all devices what device 0's checkpoint has in common with theirs; those that have their own keep it."""
    message = torch.empty(0, dtype=torch.uint8)
    if fabric.rank == 0 and checkpoint is not None:
        message = state_bytes(common_state(checkpoint))
    length = torch.tensor([len(message)])
    fabric.broadcast([length], _PHASE)
    if fabric.rank > 0:
        message = torch.zeros(int(length), dtype=torch.uint8)
    fabric.broadcast([message], _PHASE)
    if checkpoint is not None:
        return checkpoint
    return read_common_state(message)


def _own(place: Away | None, store: CheckpointStore, fabric: Fabric) -> Checkpoint | None:
    """Return the last checkpoint of a device that comes back; all devices end where it cannot be used."""
    own, problem = None, ""
    if place is not None:
        try:
            own = store.read(place.after_step)
            if own.model_sha256 != place.model_sha256:
                problem = "it holds another model than those of the others did"
        except CheckpointError as error:
            problem = str(error)
    for device, why in enumerate(gather_texts(problem, fabric, "reading the checkpoints of those that come back")):
        if why:
            raise CheckpointError(
                f"device {device} comes back, and the checkpoint that it left cannot be used: {why}; put the right "
                f"file back, or resume on {device} devices"
            )
    return own


def joined(common: Checkpoint, own: Checkpoint | None, *, replayed: bool) -> Checkpoint:
    """Return a checkpoint of what all devices have, with what one of them had of its own when it left, if it did."""
    run = dict(common.state["run"])
    mine: Mapping[str, Any] = own.state["run"] if own is not None else {}
    begins = {"shift_s": run["clock_s"]} if replayed else {}
    intake = mine.get("intake", {"position": 0, "ledger": Ledger().as_dict(), "mark": begins})
    device = mine.get("device", {})
    run["intake"] = {**intake, "meter": {}}  # the rate is measured anew
    run["device"] = {
        **run["device"],
        "non_finite_steps": device.get("non_finite_steps", 0),
        "shared": device.get("shared"),
        "tests": None,  # those of a device that comes begin anew
        "cost": device.get("cost"),
    }
    run[FORGETS] = _went_back(run["device"]) not in (0, _went_back(device))
    sums = RunStatistics.of(run["tally"]).as_dict()
    of_the_run = {name: sums[name] for name in _OF_THE_RUN}
    run["tally"] = {**asdict(RunStatistics()), **mine.get("tally", {}), **of_the_run}
    if "selector" in run["exchange"] and "selector" in mine.get("exchange", {}):
        run["exchange"] = {**run["exchange"], "selector": mine["exchange"]["selector"]}
    kept = {n: t for n, t in own.tensors.items() if n.startswith(OF_THE_DEVICE)} if own is not None else {}
    return common._replace(tensors=common.tensors | kept, state={**common.state, "run": run})


def _went_back(device: Mapping[str, Any]) -> int:
    """Return how often training had gone back to an earlier state, as a device's state says."""
    return int(device.get("divergence", {}).get("went_back", 0))


def _told(
    agreed: Agreed, left: Sequence[Away], back: Mapping[int, Away], now: int, checkpoint: Checkpoint
) -> list[str]:
    """Say who does not go on, who comes back and who is new."""
    said = []
    if left:
        who = [f"device {one.device} at offset {one.position} with {one.samples.held} samples held" for one in left]
        said.append(
            f"the run goes on from step {agreed.step} with {now} device{'s' * (now > 1)} in place of {agreed.devices}; "
            f"nobody takes up the streams of {_listed(who)}, which their checkpoints keep"
        )
        if now == 1 and checkpoint.state["run"]["exchange"]:
            said.append("what compression had kept back is dropped: one device alone sends nothing")
    if back:
        who = [f"device {d} at offset {one.position}, away since step {one.after_step}" for d, one in back.items()]
        said.append(f"streams that go on where they were left: {_listed(who)}")
    if new := [f"device {device}" for device in range(agreed.devices, now) if device not in back]:
        said.append(f"new devices, whose streams begin now, with the model and optimizer of the others: {_listed(new)}")
    return said


def _listed(names: Sequence[str]) -> str:
    more = f" and {len(names) - _MOST_NAMED} more" if len(names) > _MOST_NAMED else ""
    return ", ".join(names[:_MOST_NAMED]) + more
