"""What of a running device is in a checkpoint: put together when it is written, taken apart when a run goes on."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from types import MappingProxyType
from typing import Any

from torch import Tensor

from scadles.device.connected import ConnectedDevice
from scadles.device.divergence import DivergenceGuard
from scadles.device.intake import IntakeState
from scadles.errors import CheckpointError
from scadles.training.checkpoint import Checkpoint, CheckpointStore
from scadles.training.hooks import StepHooks
from scadles.training.packing import FORGETS, kept_back, kept_beside, pack, unpack
from scadles.training.run_statistics import RunStatistics
from scadles.training.schedule import Schedule

_MANAGED, _GOOD = "managed/", "good/"
NOBODY: Mapping[str, Any] = MappingProxyType({})


def save(
    device: ConnectedDevice,
    statistics: RunStatistics,
    schedule: Schedule,
    store: CheckpointStore,
    model_sha256: str = "",
    hooks: StepHooks | None = None,
    members: Mapping[str, Any] = NOBODY,
) -> int:
    """Write a checkpoint, then let the source forget what is in it; return the offset it would go on from.

    Args:
        device, statistics, schedule: what is written down.
        store: where.
        model_sha256: the fingerprint of the common model, by which devices know that their checkpoints belong together.
        hooks: what is called after every step.
        members: the ``accounts`` of all devices, which are ``away``, and a hash of the ``compression``, as JSON.

    Raises:
        RunError: the disk is full or cannot be written to; older checkpoints stay.
    """
    checkpoint = current_state(device, statistics, schedule, hooks, members)
    position: int = checkpoint.state["run"]["intake"]["position"]
    store.write(device.learner.step_number, checkpoint._replace(model_sha256=model_sha256))
    device.intake.source.commit(position)
    return position


def current_state(
    device: ConnectedDevice,
    statistics: RunStatistics,
    schedule: Schedule,
    hooks: StepHooks | None = None,
    members: Mapping[str, Any] = NOBODY,
    *,
    opened: bool = True,
) -> Checkpoint:
    """Return what a checkpoint holds, between two steps; arguments are those of :func:`save`.

    Without ``opened`` nothing is said of the stream, which need not be open then.
    Its tensors are not copied where that can be helped, and change with the model.
    """
    learner = device.learner
    tensors, exchange = learner.exchange.state()
    states, beside = hooks.state() if hooks is not None else ({}, {})
    beside |= {f"{_MANAGED}{name}": tensor for name, tensor in learner.managed.not_in_the_model().items()}
    if learner.divergence is not None:
        beside |= {f"{_GOOD}{name}": tensor for name, tensor in learner.divergence.tensors().items()}
    state = {
        "trained": [name for name, p in learner.managed.parameters.items() if p.requires_grad],
        "device": device.state(),
        "intake": asdict(device.intake.state()) if opened else {},
        "exchange": exchange,
        "tally": statistics.up_to_now(device).as_dict(),
        "next_evaluation_s": schedule.next_evaluation_s,
        "target": schedule.target,
        "clock_s": device.clock.now(),
        "hooks": states,
        **members,
    }
    return pack(learner.model, learner.optimizer, state, tensors, beside)


def restore(
    checkpoint: Checkpoint,
    device: ConnectedDevice,
    schedule: Schedule,
    hooks: StepHooks | None = None,
    compression: str = "",
    *,
    opens: bool = True,
) -> RunStatistics:
    """Bring a device to where it was, its stream opened there; return its sums until then.

    Args:
        checkpoint: where it was.
        device, schedule, hooks: what is brought there.
        compression: a hash of how gradients are compressed from now on; where it has changed, what compression had kept
            back goes on where it fits.
        opens: whether the stream is opened there; otherwise it goes on as it is.

    Raises:
        CheckpointError: the checkpoint is of another model or optimizer, or (of an earlier version) altered.
    """
    try:
        state = unpack(checkpoint, device.learner.model, device.learner.optimizer)
        beside = kept_beside(checkpoint)
        for name, tensor in device.learner.managed.not_in_the_model().items():
            if (saved := beside.get(f"{_MANAGED}{name}")) is not None:
                tensor.detach().copy_(saved)
        if "trained" in state:
            device.learner.frozen_otherwise = device.learner.managed.train(state["trained"])
        device.load(state["device"])
        _go_on_looking(device.learner.divergence, state["device"], beside)
        is_as_before = state.get("compression", compression) == compression
        _restore_exchange(checkpoint, device, is_as_before=is_as_before)
        intake, tally = IntakeState(**state["intake"]), RunStatistics.of(state["tally"])
        schedule.next_evaluation_s = state["next_evaluation_s"]
        tally.time_to_target_s = schedule.still_reached(state, tally.time_to_target_s)
        if hooks is not None:
            hooks.load(state.get("hooks", {}), beside)
    except (KeyError, TypeError, ValueError, AttributeError, RuntimeError) as error:
        if checkpoint.has_identity:  # its checksum is right, so it is what a version of this code wrote
            raise
        raise CheckpointError(f"the checkpoint does not hold what it should: {error!r}") from None
    if opens:
        device.intake.open(intake)
    return tally


def _restore_exchange(checkpoint: Checkpoint, device: ConnectedDevice, *, is_as_before: bool) -> None:
    state, exchange = checkpoint.state["run"], device.learner.exchange
    if not is_as_before:
        exchange.take_over(kept_back(checkpoint))
    elif checkpoint.devices in (0, device.fabric.size):
        exchange.load(kept_back(checkpoint), state["exchange"])
    else:
        exchange.go_on(kept_back(checkpoint), state["exchange"])
    if state.get(FORGETS):
        exchange.forget()


def _go_on_looking(guard: DivergenceGuard | None, state: Mapping[str, Any], beside: Mapping[str, Tensor]) -> None:
    if guard is not None and "divergence" in state:
        kept = {name.removeprefix(_GOOD): tensor for name, tensor in beside.items() if name.startswith(_GOOD)}
        guard.load(state["divergence"], kept)
