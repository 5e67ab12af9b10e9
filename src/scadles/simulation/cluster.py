"""A cluster in virtual time: the loop that in a real run N processes go through together."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from scadles.device.device import Device
from scadles.device.learner import Learner, StepResult
from scadles.exchange.aggregation import STREAM_ENDED, Report, Reports
from scadles.simulation.charge import Charge
from scadles.simulation.costs import ExchangeCost
from scadles.simulation.event_queue import EventQueue
from scadles.simulation.gradients import Gradients
from scadles.simulation.injected import NO_MESSAGES
from scadles.simulation.sharing import Sharing

_LEAVE_FIRST = -1


@dataclass(frozen=True)
class StepDone:
    """A step of the cluster that has just ended.

    Attributes:
        result: what it came to.
        reports: of all devices.
        members: the devices that took part, ascending.
        present: which these are, bool ``[N]``.
        correct: right answers of each on what it took itself, int64 ``[N]``.
        synced_s: when the mean gradient was there: now.
        duration_s: how long it took, in stream seconds.
        bytes_sent: what left all devices in its exchanges.
        measuring_s: how long all will measure something of it together, before the next one begins.
        found: devices whose gradients were unlike all others, as in :class:`.Judgement`.
    """

    result: StepResult
    reports: Reports
    members: Sequence[Device]
    present: np.ndarray
    correct: np.ndarray
    synced_s: float
    duration_s: float
    bytes_sent: int
    measuring_s: float
    found: Mapping[int, float]


class Cluster:
    """N simulated devices that share a learner.

    A step begins for all devices at one moment. Each that is on gathers its batch on its own clock, computes for as
    long as its costs say, and is ready; when the last one is, the exchange takes its time, and the step ends for all.
    Streams go on meanwhile. A device that goes off before it is ready gives its samples back and is not waited for;
    one that comes back loads the model first.

    Args:
        devices: by number.
        learner: theirs.
        gradients: makes the sum of their gradients.
        charge: what each step takes.
        on_step: told of every step; returns whether to go on.
        sharing: lets devices share samples; None where none are shared.
        test_first: tests the model on what devices have taken, before they train on it; None where nobody does.

    Attributes:
        brings_nothing: whether all streams had ended before the first step.
    """

    def __init__(
        self,
        devices: Sequence[Device],
        learner: Learner,
        gradients: Gradients,
        charge: Charge,
        on_step: Callable[[StepDone], bool],
        sharing: Sharing | None = None,
        test_first: Callable[[Sequence[Device]], None] | None = None,
    ) -> None:
        self._test_first = test_first
        self._devices = devices
        self.brings_nothing = False
        self._learner = learner
        self._gradients = gradients
        self._charge = charge
        self._availability = charge.costs.availability
        self._on_step = on_step
        self._sharing = sharing
        self._messages = NO_MESSAGES
        self._shared_bytes = 0
        self._queue = EventQueue()
        self._members: list[Device] = []
        self._was_on = np.ones(len(devices), dtype=bool)
        self._present = np.ones(len(devices), dtype=bool)
        self._correct = np.zeros(len(devices), dtype=np.int64)
        self._awaited = 0
        self._step_began_s = 0.0

    @property
    def now_s(self) -> float:
        """Stream time."""
        return self._queue.now_s

    @property
    def took_part(self) -> np.ndarray:
        """Which devices have a model that counts, bool ``[N]``."""
        return np.ones(len(self._devices), dtype=bool)

    @property
    def has_model(self) -> np.ndarray:
        """Which devices have a model of their own making, or were given one, bool ``[N]``."""
        return self.took_part

    @property
    def here(self) -> np.ndarray:
        """Which devices do what is done after a step, bool ``[N]``."""
        return self.took_part

    def run(self) -> None:
        """Let steps happen until ``on_step`` says to stop, or nobody will ever be on again; none without a record."""
        for device in self._devices:
            device.begin()
        self.brings_nothing = all(device.exhausted for device in self._devices)
        if not self.brings_nothing:
            self._queue.at(0.0, self._begin_step)
        self._queue.run()

    def _begin_step(self) -> None:
        now_s = self._step_began_s = self._queue.now_s
        on = self._who_counts(now_s)
        numbers = np.flatnonzero(on)
        if len(numbers) < self._least_to_begin(on):
            self._wait_for_enough(now_s)
            return
        loaded_s = self._load_model(on, now_s)
        self._members = [self._devices[number] for number in numbers.tolist()]
        self._take_step(self._members, on, loaded_s)

    def _take_step(self, members: Sequence[Device], on: np.ndarray, loaded_s: np.ndarray) -> None:
        """Let these devices, some or all of those that are on, gather and compute."""
        now_s = self._queue.now_s
        batches, starts_s = np.zeros(len(on), dtype=np.int64), np.zeros(len(on))
        for device in members:
            batches[device.number] = len(device.collect())
            starts_s[device.number] = device.clock.now()
        if self._sharing is not None:
            batches, starts_s = self._share(self._sharing, batches, starts_s)
        starts_s = np.maximum(starts_s, loaded_s)
        ready_s = starts_s + self._charge.costs.compute_s(batches, self._learner.step_number + 1, starts_s)
        self._present, self._awaited = on.copy(), len(self._members)
        on_ready = self._ready  # one object, whatever the number of events
        for device in members:
            self._plan(device, now_s, float(ready_s[device.number]), on_ready)

    def _who_counts(self, now_s: float) -> np.ndarray:
        """Return who takes part in a step that begins now, bool ``[N]``."""
        on: np.ndarray = self._availability.on(now_s)
        return on

    def _least_to_begin(self, on: np.ndarray) -> int:
        """Return how many devices a step takes where these are on."""
        return 1

    def _wait_for_enough(self, now_s: float) -> None:
        self._let_go(self._was_on)
        self._was_on[:] = False
        change_s = self._next_change_s(now_s)
        if change_s < math.inf:
            self._meet(change_s)
            self._queue.at(change_s, self._begin_step)

    def _next_change_s(self, now_s: float) -> float:
        return min(self._availability.next_change(device.number, now_s) for device in self._devices)

    def _load_model(self, on: np.ndarray, now_s: float) -> np.ndarray:
        """Let devices that come load the model; return until when each is busy with that, float64 ``[N]``."""
        until_s, come = np.full(len(on), now_s), np.flatnonzero(on & ~self._was_on).tolist()
        self._let_go(self._was_on & ~on)
        goes_on = bool((self._was_on & on).any())
        source = next((one for one in self._members if goes_on or on[one.number]), self._devices[int(on.argmax())])
        for number in come:
            device = self._devices[number]
            if self._come(device, source, goes_on=goes_on):
                until_s[number] += self._charge.fetch_s(number, self._learner.step_number + 1, now_s)
        self._was_on = on
        return until_s

    def _let_go(self, gone: np.ndarray) -> None:
        for number in np.flatnonzero(gone).tolist():
            self._go(number)

    def _come(self, device: Device, source: Device, *, goes_on: bool) -> bool:
        """Let a device take part from its clock's moment on; return whether it has to load the model before.

        Without a hub it has stood still, and goes on with all that it has: no real run does, but what would it come to?

        Args:
            device: which one.
            source: whose state it is given, which may be itself.
            goes_on: whether somebody goes on from the last step.
        """
        device.rejoin()
        return True

    def _go(self, number: int) -> None:
        """Let a device take part no more."""

    def _meet(self, now_s: float) -> None:
        for device in self._devices:
            device.clock.advance_to(now_s)

    def _share(self, sharing: Sharing, batches: np.ndarray, gathered_s: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Let samples be shared; return each device's batch and when it can begin to compute, ``[N]`` both."""
        shared = sharing.share(self._members, gathered_s, self._step_began_s, self._learner.step_number + 1)
        self._messages, self._shared_bytes = shared.messages, shared.bytes_sent
        starts_s = np.maximum(gathered_s, shared.arrived_s)
        received = self._messages.received(np.arange(len(batches)))
        for device in self._members:
            device.receive(int(received[device.number]), float(starts_s[device.number]))
            batches[device.number] = device.batch_size
        return batches, starts_s

    def _plan(self, device: Device, now_s: float, ready_s: float, on_ready: Callable[[], None]) -> None:
        off_s = self._availability.next_change(device.number, now_s)
        if off_s < ready_s:
            self._queue.at(off_s, self._leave, device, priority=_LEAVE_FIRST)
        else:
            device.clock.advance_to(ready_s)
            device.ready()
            self._queue.at(max(device.clock.now(), now_s), on_ready)  # its clock has been rounded, maybe down

    def _ready(self) -> None:
        self._awaited -= 1
        if not self._awaited:
            self._exchange()

    def _leave(self, device: Device) -> None:
        self._lose(device)
        self._ready()

    def _lose(self, device: Device) -> None:
        device.undo_collect()
        self._members.remove(device)
        self._present[device.number] = self._was_on[device.number] = False
        self._go(device.number)

    def _exchange(self) -> None:
        learner, now_s = self._learner, self._queue.now_s
        mine = self._reports()
        self._charge.announce(self._present)
        reports = learner.exchange.finish_many(mine)
        result, found = self._update(reports), learner.exchange.found
        cost = self._charge.exchange(self._present, learner.step_number, now_s)
        ended_s = now_s + cost.seconds
        duration_s = ended_s - self._step_began_s
        measuring = self._measurement(ended_s)
        bytes_sent = cost.bytes_sent + self._shared_bytes + measuring.bytes_sent
        what = (result, reports, self._members, self._present, self._correct, ended_s, duration_s, bytes_sent)
        done = StepDone(*what, measuring.seconds, found)
        self._queue.at(ended_s, self._end_step, done)

    def _measurement(self, now_s: float) -> ExchangeCost:
        """Return what measuring the step costs that has just been taken; nothing where that is not due."""
        measuring, step = self._learner.measuring, self._learner.step_number
        if measuring is None or not measuring.is_due(step):
            return ExchangeCost(0.0, 0)
        return self._charge.measurement(self._present, step, now_s)

    def _update(self, reports: Reports) -> StepResult:
        return self._learner.update(reports)

    def _reports(self) -> np.ndarray:
        """Let the gradients be made; return what each device says of itself, float64 ``[N, fields]``."""
        self._let_others_miss()
        reports = np.zeros((len(self._devices), len(Report._fields)))
        columns = dict(zip(Report._fields, reports.T, strict=True))
        columns["ready_s"][:] = [device.ready_s for device in self._devices]
        columns["wait_s"][:] = [
            device.waited_s if here else device.ready_s
            for device, here in zip(self._devices, self._present.tolist(), strict=True)
        ]
        columns["elapsed_s"][:] = [device.elapsed_s for device in self._devices]
        columns["stop"][:] = STREAM_ENDED if self._all_ended() else 0.0
        able = [device for device in self._members if device.batch_size]
        self._learner.exchange.begin(1.0 if able else 0.0, f"gradients of step {self._learner.step_number + 1}")
        if self._test_first is not None:
            self._test_first([device for device in able if len(device.taken)])
        if able:
            numbers = [device.number for device in able]
            taken = [device.taken for device in able]
            columns["batch"][numbers] = [device.batch_size for device in able]
            self._learner.model.train()
            shares = self._gradients.add_up(numbers, taken, self._messages)
            columns["weight"][numbers], columns["loss"][numbers] = shares.weights, shares.losses
            self._correct[numbers] = shares.correct
        return reports

    def _all_ended(self) -> bool:
        """Whether the streams of all who take part have ended, and nobody else will ever come back with more."""
        if not self._members or not all(device.exhausted for device in self._members):
            return False
        now_s = self._queue.now_s
        away = [self._devices[number] for number in np.flatnonzero(~self._present).tolist()]
        return all(
            device.exhausted or self._availability.next_change(device.number, now_s) == math.inf for device in away
        )

    def _let_others_miss(self) -> None:
        """Let the devices that are off miss this step, as late as the first of the others was ready."""
        if len(self._members) < len(self._devices):
            since_s = self._queue.now_s - self._step_began_s
            first_s = min((device.ready_s for device in self._members), default=since_s)
            for number in np.flatnonzero(~self._present).tolist():
                self._devices[number].skip_step(first_s)

    def _end_step(self, done: StepDone) -> None:
        now_s = self._queue.now_s
        self._meet(now_s)
        trained = (done.reports.weight > 0).tolist()
        for device in done.members:
            device.settle(trained=trained[device.number], set_aside=device.number in done.found)
            device.note_cost(done.result)
        go_on = self._on_step(done)
        for device in self._devices:
            device.end_step()
        if go_on:
            self._meet(now_s + done.measuring_s)
            self._queue.at(now_s + done.measuring_s, self._begin_step)
