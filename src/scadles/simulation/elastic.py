"""A cluster whose devices come and go through a hub: what a run over one does, in virtual time."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from scadles.device.buffer import Ledger
from scadles.device.device import Device
from scadles.device.intake import IntakeState
from scadles.device.learner import StepResult
from scadles.exchange.aggregation import Reports
from scadles.exchange.reduction import ClusterExchange
from scadles.simulation.batchnorm import ClusterStatistics
from scadles.simulation.cluster import Cluster, StepDone
from scadles.simulation.injected import NO_MESSAGES
from scadles.simulation.sharing import Sharing


class ElasticCluster(Cluster):
    """A cluster at a hub: a step is that of those who are there when it ends, and they alone decide what follows.

    A device that comes back is one whose process was started again, and the stream of one that is new begins then. It
    has the model, optimizer and schedule of the first one that goes on. Its own are its account, the samples that it
    held, and what compression had kept back, as of one that left in order; its rate is measured anew. A step for which
    too few are left waits for more. Who is lost before the hub has all gradients has no part in the step, and the
    others send theirs again; who is lost afterwards has.

    Args:
        arguments: of a :class:`.Cluster`.
        least: devices that must be there for a step.
        statistics: BatchNorm's, of all devices.
    """

    def __init__(self, *arguments: Any, least: int, statistics: ClusterStatistics, **named: Any) -> None:
        super().__init__(*arguments, **named)
        self._least = least
        self._statistics = statistics
        for device in self._devices:
            statistics.forget(device.number)
        self._was_on[:] = False
        self._is_known = np.zeros(len(self._devices), dtype=bool)
        self._here_since_s = 0.0
        self._begun_with = self._gone = 0
        self._following: dict[int, float] = {}  # until when each of them loads the model

    @property
    def took_part(self) -> np.ndarray:
        return self._present

    @property
    def has_model(self) -> np.ndarray:
        has_model: np.ndarray = self._present.copy()
        has_model[list(self._following)] = True
        return has_model

    @property
    def here(self) -> np.ndarray:
        here: np.ndarray = self._present | self._who_counts(self._queue.now_s)
        return here

    def _who_counts(self, now_s: float) -> np.ndarray:
        on = super()._who_counts(now_s)
        if not (on & self._was_on).any():
            return on
        near = np.zeros(len(on), dtype=bool)
        near[[number for number, loaded_s in self._following.items() if loaded_s <= now_s]] = True
        return on & (self._was_on | near)

    def _begin_step(self) -> None:
        self._here_since_s = self._queue.now_s
        on = self._availability.on(self._here_since_s)
        # those who stay have begun the step before they hear of whoever has gone
        self._gone = int((self._was_on & ~on).sum()) if (self._was_on & on).any() else 0
        super()._begin_step()

    def _least_to_begin(self, on: np.ndarray) -> int:
        # once begun, a step that lacks devices waits for them at its end
        return 1 if (on & self._was_on).any() else self._least

    def _load_model(self, on: np.ndarray, now_s: float) -> np.ndarray:
        if (self._was_on & on).any():
            self._let_follow(on, now_s)
        else:
            self._following.clear()
        loaded_s = super()._load_model(on, now_s)
        for number in np.flatnonzero(loaded_s > now_s).tolist():
            self._devices[number].clock.advance_to(float(loaded_s[number]))  # it gathers afterwards
        return loaded_s

    def _let_follow(self, on: np.ndarray, now_s: float) -> None:
        """Let those count that have followed, and those follow that come while others go on."""
        available = self._availability.on(now_s)
        for number in [one for one in self._following if on[one] or not available[one]]:
            del self._following[number]
            self._was_on[number] = on[number]
            if not on[number]:
                self._go(number)
        source = next(one for one in self._members if on[one.number])
        for number in np.flatnonzero(available & ~on).tolist():
            if number not in self._following:
                self._come(self._devices[number], source, goes_on=True)
                step, beside = self._learner.step_number + 1, self._learner.optimizer_share
                loads_s = self._charge.fetch_s(number, step, now_s, source=source.number, beside=beside)
                self._following[number] = now_s + loads_s

    def _end_step(self, done: StepDone) -> None:
        self._meet(self._queue.now_s)
        for number in self._following:
            device = self._devices[number]
            device.collect_nothing()
            device.has_followed(done.members[0].ready_s)
            device.settle(trained=False)
        super()._end_step(done)

    def _come(self, device: Device, source: Device, *, goes_on: bool) -> bool:
        intake, now_s = device.intake, device.clock.now()
        state = IntakeState(0, Ledger().as_dict(), {}, {"shift_s": now_s})
        if self._is_known[device.number]:
            state = replace(intake.state(), meter={})
        elif isinstance(exchange := self._learner.exchange, ClusterExchange):
            exchange.introduce(device.number, source.number)
        self._is_known[device.number] = True
        device.forget_tests()
        intake.go_back(state)
        intake.meter.load(state.meter)
        device.join(source if goes_on else None)
        self._statistics.give(source.number, device.number)
        return goes_on

    def _go(self, number: int) -> None:
        self._statistics.forget(number)

    def _take_step(self, members: Sequence[Device], on: np.ndarray, loaded_s: np.ndarray) -> None:
        self._begun_with, self._gone = len(self._members) + self._gone, 0
        super()._take_step(members, on, loaded_s)

    def _exchange(self) -> None:
        now_s = self._queue.now_s
        if not self._is_whole(now_s):
            return
        there_s = now_s + self._charge.sending_s(self._present, self._learner.step_number + 1, now_s)
        lost_s = min(self._availability.next_change(device.number, now_s) for device in self._members)
        if lost_s < there_s:
            self._queue.at(lost_s, self._send_again)
        else:
            super()._exchange()

    def _send_again(self) -> None:
        """Begin the exchange anew without whoever is lost at this moment."""
        for device in list(self._members):
            if self._availability.next_change(device.number, self._here_since_s) <= self._queue.now_s:
                self._lose(device)
        self._exchange()

    def _is_whole(self, now_s: float) -> bool:
        """Whether enough are left for the step to count; otherwise it goes on once there are."""
        for device in list(self._members):
            if self._availability.next_change(device.number, self._here_since_s) < now_s:
                self._lose(device)  # after it was ready: the others do the step again without it
        if len(self._members) < self._least:
            self._look_again()
            return False
        if self._sharing is not None and len(self._members) < self._begun_with:
            self._void(now_s)
            self._share_nothing(self._sharing, now_s)
            for device in self._members:
                device.ready()
        return True

    def _look_again(self) -> None:
        """Go on with a step for which too few were left, where enough are there now."""
        now_s = self._here_since_s = self._queue.now_s
        self._following.clear()
        on = self._availability.on(now_s)
        for device in [one for one in self._members if not on[one.number]]:
            self._lose(device)
        numbers, waited = np.flatnonzero(on), list(self._members)
        if waited and len(numbers) < self._least:
            if (change_s := self._next_change_s(now_s)) < math.inf:
                self._queue.at(change_s, self._look_again)
            return
        self._meet(now_s)
        if not waited:
            self._begin_step()
            return
        self._void(now_s)
        loaded_s = self._load_model(on, now_s)
        for device in waited:
            device.follow(waited[0])
            if device is not waited[0]:
                self._statistics.give(waited[0].number, device.number)
        for device in waited:
            device.ready()
        self._members = [self._devices[number] for number in numbers.tolist()]
        self._take_step([device for device in self._members if device not in waited], on, loaded_s)
        for _ in waited:
            self._queue.at(now_s, self._ready)

    def _share_nothing(self, sharing: Sharing, now_s: float) -> None:
        sent_bytes, here = self._shared_bytes, len(self._devices)
        self._share(sharing, np.zeros(here, dtype=np.int64), np.full(here, now_s))
        self._shared_bytes += sent_bytes

    def _void(self, now_s: float) -> None:
        """Take back what those who take part were to do together; they go on without a batch."""
        self._messages = NO_MESSAGES
        for device in self._members:
            device.undo_collect()
            device.void_ready()
            if device.sender is not None:
                device.sender.end_step()
            device.clock.advance_to(now_s)

    def _update(self, reports: Reports) -> StepResult:
        return self._learner.update(reports, np.flatnonzero(self._present).tolist())

    def _all_ended(self) -> bool:
        return all(device.exhausted for device in self._members)

    def _let_others_miss(self) -> None:
        """Leave absent devices as they are: they take up the others' times when they come."""
