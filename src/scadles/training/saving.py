"""What of a running device is in a checkpoint: put together when it is written, taken apart when a run goes on."""

from __future__ import annotations

from dataclasses import asdict

from scadles.device.connected import ConnectedDevice
from scadles.device.intake import IntakeState
from scadles.training.checkpoint import Checkpoint, CheckpointStore, kept_back, pack, unpack
from scadles.training.run_statistics import RunStatistics
from scadles.training.schedule import Schedule


def save(device: ConnectedDevice, statistics: RunStatistics, schedule: Schedule, store: CheckpointStore) -> int:
    """Write a checkpoint, then let the source forget what is in it; return the offset it would go on from.

    Raises:
        RunError: the disk is full or cannot be written to; older checkpoints stay.
    """
    learner, intake = device.learner, device.intake.state()
    tensors, exchange = learner.exchange.state()
    state = {
        "device": device.state(),
        "intake": asdict(intake),
        "exchange": exchange,
        "tally": statistics.up_to_now(device).as_dict(),
        "next_evaluation_s": schedule.next_evaluation_s,
        "clock_s": device.clock.now(),
    }
    store.write(learner.step_number, pack(learner.model, learner.optimizer, state, tensors))
    device.intake.source.commit(intake.position)
    return intake.position


def restore(checkpoint: Checkpoint, device: ConnectedDevice, schedule: Schedule) -> RunStatistics:
    """Bring a device to where it was, its stream opened there; return its sums until then.

    Raises:
        CheckpointError: the checkpoint is of another model or optimizer.
    """
    state = unpack(checkpoint, device.learner.model, device.learner.optimizer)
    device.load(state["device"])
    device.learner.exchange.load(kept_back(checkpoint), state["exchange"])
    device.intake.open(IntakeState(**state["intake"]))
    schedule.next_evaluation_s = state["next_evaluation_s"]
    return RunStatistics(**state["tally"])
