"""How a device comes into a run whose devices come and go, and how it follows when others do.

What all devices have in common (model, optimizer, schedule, statistics of the run) is given by one that has come
furthest. What is a device's own stays with it: in its memory, or where its process was killed, in the note that it
sent with the last step that counted, which the hub keeps; else in its last checkpoint.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any, NamedTuple

from torch import Tensor

from scadles.config import RunConfig
from scadles.device.connected import ConnectedDevice
from scadles.device.intake import IntakeState
from scadles.errors import CheckpointError, ConfigError, MembershipChangedError, NotAdmittedError, UntrustedError
from scadles.fabric import ElasticFabric, View
from scadles.training.arrived import AnotherModelError, check_state, is_note, of_others
from scadles.training.changes import hash_of_compression
from scadles.training.checkpoint import Checkpoint
from scadles.training.hooks import StepHooks
from scadles.training.membership import common_state, joined, read_common_state, state_bytes
from scadles.training.run_statistics import RunStatistics
from scadles.training.saving import current_state, restore
from scadles.training.schedule import Schedule

#: A state is not larger than so many models, for an optimizer's and hooks' own, and so many bytes beside.
_MOST_MODELS, _MOST_BESIDE = 8, 1 << 26
_BUFFERS = "active_buffers"
_ANOTHER_NUMBER = -1  # so that what belongs to devices is not expected in it


class Entry(NamedTuple):
    """What came of entering a view.

    Attributes:
        view: who takes part now.
        statistics: of this device from now on.
        since: the step after which this device took no part until now; None where it did, or where the run begins.
        carried: what the source wants those that come to know, as JSON.
    """

    view: View
    statistics: RunStatistics
    since: int | None
    carried: Mapping[str, Any]


class Admission:
    """A device's way into views of an elastic fabric.

    Args:
        fabric: connects the devices.
        device: this one.
        schedule, hooks: what of the run goes along with the model.
        config: the run.

    Attributes:
        fabric: as given.
    """

    def __init__(
        self,
        fabric: ElasticFabric,
        device: ConnectedDevice,
        schedule: Schedule,
        hooks: StepHooks,
        config: RunConfig,
    ) -> None:
        self.fabric = fabric
        self._device = device
        self._schedule = schedule
        self._hooks = hooks
        self._compression = hash_of_compression(config)
        self._model, self._optimizer = config.model, config.optimizer.name
        self._replayed = config.stream.url.startswith("replay:")

    def enter(self, own: Checkpoint | None, carried: Mapping[str, Any], *, can_begin: bool) -> Entry:
        """Come into the run with a new process, and open the stream where this device has to go on.

        Args:
            own: this device's last checkpoint; None where it has none.
            carried: what those that come are to know, if this device is the source.
            can_begin: whether the model has values that a run can begin with.
        """
        statistics = RunStatistics()
        if own is not None:
            statistics = self._restore(own, opens=False)
        view, common, carried = self._go_over(statistics, carried, None if can_begin or own is not None else -1)
        if common is None:
            self._device.intake.open(IntakeState(**own.state["run"]["intake"]) if own is not None else None)
            return Entry(view, statistics, None, carried)
        mine = _as_noted(own, view.note)
        statistics = self._take_up(self._joined(common, mine), opens=True)
        since = mine.step if mine is not None else 0
        return Entry(view, statistics, since if common.step else None, carried)

    def follow(self, statistics: RunStatistics, carried: Mapping[str, Any], *, in_step: bool) -> Entry:
        """Go over to the newest view with this device as it is; take the common state if it has come anew.

        Args:
            statistics: of this device so far.
            carried: what those that come are to know, if this device is the source.
            in_step: whether a batch was taken for a step that came to nothing here.
        """
        device = self._device
        was = device.learner.step_number
        if in_step:
            device.undo_passes()  # before the state is given away, which is that of the last step
        try:
            view, common, carried = self._go_over(statistics, carried)
        except NotAdmittedError:
            if in_step:
                device.void_step(counted=False)
            raise
        noted = view.note["step"] if view.note is not None else 0
        if in_step:
            device.void_step(counted=common is not None and was + 1 == noted <= common.step)
        if common is None:
            return Entry(view, statistics, None, carried)
        own: Checkpoint | None = current_state(device, statistics, self._schedule, self._hooks)
        is_void = noted < device.last_taken
        if is_void:
            own = _as_noted(own, view.note, or_nothing=True)
        checkpoint = self._joined(common, own)
        statistics = self._take_up(checkpoint, opens=False)
        if is_void:  # the others that took these steps were lost
            device.intake.go_back(IntakeState(**checkpoint.state["run"]["intake"]))
            device.last_taken = noted
        return Entry(view, statistics, noted if is_void else was, carried)

    def _go_over(
        self, statistics: RunStatistics, carried: Mapping[str, Any], step: int | None = None
    ) -> tuple[View, Checkpoint | None, Mapping[str, Any]]:
        """Enter the next view; where somebody has come with it, give the common state, or take it and wait for that."""
        fabric = self.fabric
        while True:
            view = fabric.enter(self._device.learner.step_number if step is None else step)
            if view.note is not None and not is_note(view.note):
                raise UntrustedError("the hub says that this device has left a note which no device leaves")
            if fabric.gives:
                state = {name: t.clone() for name, t in common_state(self._state(statistics, carried)).items()}
                fabric.give(partial(state_bytes, state))
            if fabric.rank not in view.receivers:
                return view, None, carried
            try:
                message = fabric.take(self._most_bytes())
            except MembershipChangedError:
                continue
            common = self._read(message)
            return view, common, common.state["run"]["carried"]

    def _read(self, message: Tensor) -> Checkpoint:
        """Return the common state that has come, once it has been looked at."""
        with of_others("a state"):
            try:
                common = read_common_state(message)
                check_state(common, self._device)
            except AnotherModelError:
                raise self._another_model() from None
            except CheckpointError as error:
                raise UntrustedError(f"what comes from the hub as the state of the others cannot be: {error}") from None
        return common

    def _joined(self, common: Checkpoint, own: Checkpoint | None) -> Checkpoint:
        with of_others("a state"):
            return joined(common, own, replayed=self._replayed)

    def _take_up(self, checkpoint: Checkpoint, *, opens: bool) -> RunStatistics:
        """Go on from a state that others have sent."""
        self._device.batchnorm.replaced()
        with of_others("a state"):
            try:
                return self._restore(checkpoint, opens=opens)
            except CheckpointError:
                raise self._another_model() from None

    def _another_model(self) -> ConfigError:
        return ConfigError(
            "this device's network or optimizer is not that of the run, whose settings say model = "
            f"{self._model} and optimizer.name = {self._optimizer}: give the loop the same, or name yours at the "
            "hub (model: MODULE:CALLABLE)"
        )

    def _most_bytes(self) -> int:
        model: Mapping[str, Tensor] = self._device.learner.model.state_dict()
        return _MOST_MODELS * sum(tensor.nbytes for tensor in model.values()) + _MOST_BESIDE

    def _state(self, statistics: RunStatistics, carried: Mapping[str, Any]) -> Checkpoint:
        device = self._device
        more = {"compression": self._compression, "carried": carried, _BUFFERS: device.buffers.active}
        state = current_state(device, statistics, self._schedule, self._hooks, more, opened=False)
        return state._replace(step=device.learner.step_number, devices=_ANOTHER_NUMBER)

    def _restore(self, checkpoint: Checkpoint, *, opens: bool) -> RunStatistics:
        run, device = checkpoint.state["run"], self._device
        if (active := run.get(_BUFFERS)) is not None and len(device.buffers) and active != device.buffers.active:
            device.buffers.active = list(active)
            device.learner.exchange.watch(device.buffers)
        statistics = restore(*(checkpoint, device, self._schedule, self._hooks, self._compression), opens=opens)
        if len(device.buffers):
            device.buffers.remember()
        return statistics


def _as_noted(own: Checkpoint | None, note: Mapping[str, Any] | None, *, or_nothing: bool = False) -> Checkpoint | None:
    """Return a device's own state as its note says that it was with its last step that counted.

    Args:
        own: its state, of that step, an earlier or a later one.
        note: what the hub kept; None where it has none.
        or_nothing: whether it is that of a device without any step where there is no note.
    """
    if note is None:
        return None if or_nothing else own
    if own is None:
        return Checkpoint({}, {"run": dict(note)}, step=note["step"])
    if own.step == note["step"] and not or_nothing:
        return own
    return own._replace(state={"run": {**own.state["run"], **note}}, step=note["step"])
