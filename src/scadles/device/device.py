"""One device: wait for a batch, say what it brings to the step, account for what became of it.

Neither this file nor the rules it calls know whether the clock is real, or what the fabric is made of.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from scadles.clock import Clock
from scadles.device.batching import BatchRule
from scadles.device.buffer import NOTHING, Chunk
from scadles.device.injection import SampleSender, SentCounts
from scadles.device.intake import Intake
from scadles.device.learner import Learner, StepResult
from scadles.device.sliding_sums import SlidingSums
from scadles.device.step_cost import StepCost
from scadles.device.window import AutoWindow
from scadles.errors import RunError
from scadles.observe.events import Step

_WAIT_SLICE_S = 1.0
_NOTHING_SENT = SentCounts()


def never() -> bool:
    """Say no, to whoever asks whether to stop."""
    return False


class Device:
    """One of N devices that hold the same model: its stream's side of a step.

    Its driver asks it in each step to :meth:`collect` a batch, tells it when its gradient is :meth:`ready`, and asks it
    to :meth:`settle` when the step has been taken. There are two drivers, and both make the gradient. A
    :class:`~scadles.device.connected.ConnectedDevice` drives itself: it is a Device with a learner and a fabric. A
    simulated cluster drives many Devices, which share one learner. A :class:`~scadles.training.loop.LiveDevice` holds a
    ConnectedDevice and adds what a run needs around its steps: tests, checkpoints, events, signals, the end.

    Args:
        number: 0..N-1.
        intake: the stream's way in.
        rule: how much to train on.
        learner: model and optimizer.
        clock: stream time.
        sender: of samples that are shared with the others; None where none are.

    Attributes:
        non_finite_steps: steps from which its gradient was left out, because it was not finite.
        set_aside_steps: steps since the start from which it was left out, because it was unlike all others.
        injected: samples of others in the present step's batch.
        tests: what came of testing each batch before it was trained on; None where nobody does.
        cost: what its steps cost it; None where nothing goes by that.
    """

    __slots__ = (
        *("_computes_from_s", "_elapsed_s", "_gather_started_s", "_gathered_s", "_last_end_s", "_last_message_s"),
        *("_last_take_s", "_ready_s", "_rule", "_taken"),
        *("clock", "cost", "injected", "intake", "learner", "non_finite_steps", "number", "sender", "set_aside_steps"),
        "tests",
    )

    def __init__(
        self,
        number: int,
        intake: Intake,
        rule: BatchRule,
        learner: Learner,
        clock: Clock,
        sender: SampleSender | None = None,
        tests: SlidingSums | None = None,
    ) -> None:
        self.tests = tests
        self.number = number
        self.sender = sender
        self.injected = 0
        self.intake = intake
        self.learner = learner
        self.clock = clock
        self.non_finite_steps = self.set_aside_steps = 0
        self._rule = rule
        self._last_take_s = self._last_message_s = self._last_end_s = 0.0
        self._gather_started_s = self._gathered_s = self._computes_from_s = self._ready_s = self._elapsed_s = 0.0
        self._taken: Chunk | None = None
        self.cost = StepCost() if learner.measuring is not None else None

    @property
    def taken(self) -> Chunk:
        """The records of this device's own stream in the present step."""
        if self._taken is None:
            raise RunError("step() needs a batch: gather one first")
        return self._taken

    @property
    def batch_size(self) -> int:
        """Samples that the present step is on, own ones and those of others."""
        return len(self.taken) + self.injected

    @property
    def elapsed_s(self) -> float:
        """Stream seconds between this step's message and the one before it."""
        return self._elapsed_s

    @property
    def ready_s(self) -> float:
        """How long after the end of the last step this device was ready, in stream seconds."""
        return self._ready_s

    @property
    def compute_s(self) -> float:
        """How long it computed from then until it was ready, in stream seconds."""
        return self._last_message_s - self._computes_from_s

    @property
    def waited_s(self) -> float:
        """How long the present step's samples were waited for, own ones and those of others, in stream seconds."""
        return self._computes_from_s - self._gather_started_s

    @property
    def wait_s(self) -> float:
        """How long the present step's batch was waited for, in stream seconds."""
        return self._gathered_s - self._gather_started_s

    @property
    def exhausted(self) -> bool:
        """Whether its stream has ended and what is held is in the present batch, or one sample too few for any."""
        return self.intake.ended and self.intake.held <= int(self.learner.needs_two)

    def begin(self) -> None:
        """Begin to count waits, deadlines and arrivals from this moment on, or go on where a checkpoint stood."""
        self._last_end_s = self.clock.now()
        if self.learner.step_number == 0:
            self._last_take_s = self._last_message_s = self._last_end_s
        self.intake.start()

    def collect(
        self, should_stop: Callable[[], bool] = never, on_wait: Callable[[int, int], None] | None = None
    ) -> Chunk:
        """Wait until the batch rule is content and return the records to train on, which may be none.

        Args:
            should_stop: ends the wait early with what is there.
            on_wait: told samples held and samples aimed at, now and then.
        """
        intake, clock = self.intake, self.clock
        if self._window is not None:
            step = self.learner.step_number + 1
            self._rule.resize(self._window.of_step(step), self._window.most_of_step(step))
        self._gather_started_s = clock.now()
        deadline_s = self._rule.deadline_s(self._last_take_s)
        intake.pull()
        while True:
            target, held = self._rule.target(intake.rate_hz), intake.held
            left_s = deadline_s - clock.now()
            if held >= target or left_s <= 0 or intake.ended or should_stop():
                break
            if on_wait:
                on_wait(held, target)
            intake.pull(min(left_s, _WAIT_SLICE_S), want=target - held)
        count = min(target, held)
        if held - count == 1 and self.learner.needs_two and intake.ended:
            count = held  # the last sample would be alone
        if count == 1 and self.learner.needs_two and self.sender is None:
            count = 0  # the sample waits for the next one
        self._taken = intake.take(count)
        self._last_take_s = self._gathered_s = self._computes_from_s = clock.now()
        return self._taken

    @property
    def _window(self) -> AutoWindow | None:
        return self.learner.measuring.window if self.learner.measuring is not None else None

    def _truncate(self) -> None:
        """Keep what the policy keeps, of the common window where there is one."""
        if self._window is not None:
            self.intake.resize(self._window.seconds)
        self.intake.truncate()

    def receive(self, samples: int, at_s: float) -> None:
        """Take note that others share so many samples, which are all here at a stream time: computing begins then.

        Where BatchNorm needs two samples and there is one, an own one goes back, and another's is not trained on.
        """
        self.injected = samples
        self._computes_from_s = at_s
        if self.batch_size == 1 and self.learner.needs_two:
            self.undo_collect()

    def collect_nothing(self) -> None:
        """Take part in the present step without a batch."""
        self._settle_test(trained=False)
        self._taken = NOTHING
        self.injected = 0

    def undo_collect(self) -> None:
        """Undo the last :meth:`collect`: its samples wait in the buffer again, and the batch is empty."""
        if self._taken is not None and len(self._taken):
            self.intake.undo_take()
        self._settle_test(trained=False)
        self._taken = NOTHING
        self.injected = 0

    def ready(self) -> None:
        """Take note that this device's part of the gradient is ready at this moment."""
        # what a float32 message can carry: all devices count with the same number
        self._ready_s = float(np.float32(self.clock.now() - self._last_end_s))
        ready_s = self._last_end_s + self._ready_s
        self._elapsed_s = ready_s - self._last_message_s
        self._last_message_s = ready_s
        self.clock.advance_to(ready_s)

    def void_ready(self) -> None:
        """Undo the last :meth:`ready`: nothing came of its message, and the next one tells of all the time since."""
        self._last_message_s -= self._elapsed_s

    def skip_step(self, others_ready_s: float) -> None:
        """Take no part in a step for which the others were ready so long after the end of the last one."""
        self._ready_s = others_ready_s
        ready_s = self._last_end_s + others_ready_s
        self._elapsed_s, self._last_message_s = ready_s - self._last_message_s, ready_s

    def rejoin(self) -> None:
        """Take part again after an absence: what the stream brought meanwhile is kept as after a step."""
        self._last_take_s = self.clock.now()
        self._truncate()

    def join(self, source: Device | None) -> None:
        """Begin at this moment beside others that go on.

        Args:
            source: waits and deadlines count from when its did; None where nobody has gone on.
        """
        self._last_take_s = self.clock.now()
        if source is not None:
            self.follow(source)
        self.begin()

    def follow(self, source: Device) -> None:
        """Take part from this moment on; let waits and deadlines count from when those of another device did."""
        self._last_take_s, self._last_message_s = source._last_take_s, source._last_message_s
        self._last_end_s = self.clock.now()

    def has_followed(self, ready_s: float) -> None:
        """Take note that others have taken a step that this device only follows: waits and deadlines count from now on.

        Args:
            ready_s: how long after the end of the last step that one of them was ready whose time counts.
        """
        self._last_message_s = self._last_end_s + ready_s
        self._last_take_s = self.clock.now()

    def settle(self, *, trained: bool, set_aside: bool = False) -> None:
        """Account for what was taken: it was trained on, or is rejected where its gradient was left out.

        Args:
            trained: whether it was trained on.
            set_aside: whether its gradient was left out because it was unlike all others.
        """
        if trained:
            self.intake.ledger.injected += self.injected
        elif set_aside:
            self.set_aside_steps += 1
        elif self.batch_size:
            self.non_finite_steps += 1
        self._settle_test(trained=trained)
        self.intake.settle(trained=trained)
        self._truncate()

    def forget_tests(self) -> None:
        """Forget the samples that are kept for tests, and what came of tests: begin anew with both."""
        if self.intake.holdout is not None:
            self.intake.holdout.clear()
        if self.tests is not None:
            self.tests.clear()

    def _settle_test(self, *, trained: bool) -> None:
        if self.tests is not None:
            self.tests.settle(trained=trained)

    def note_cost(self, result: StepResult) -> None:
        """Take note of what a step that ends at this moment has cost; to be called before :meth:`end_step`."""
        if self.cost is not None and self._taken is not None:
            exchange_s = self.clock.now() - self._last_end_s - result.ready_s
            self.cost.observe(self.batch_size, self.compute_s, exchange_s)

    def end_step(self) -> None:
        """Take note that a step has ended at this moment."""
        self._last_end_s = self.clock.now()
        self._taken = None
        self.injected = 0
        if self.sender is not None:
            self.sender.end_step()

    def describe(self, result: StepResult, synced_s: float, *, trained: bool, correct: int | None = None) -> Step:
        """Return the step as an event; to be called before :meth:`end_step`.

        Args:
            result: of the step.
            trained: whether what was taken counted.
            synced_s: the stream time at which the mean gradient was there.
            correct: right answers on what was taken, if they were counted.
        """
        now_s, taken, intake = self.clock.now(), self.taken, self.intake
        given = self.sender.latest if self.sender is not None else _NOTHING_SENT
        return Step(
            step=self.learner.step_number,
            time_s=now_s,
            batch=self.batch_size if trained else 0,
            total_batch=result.total_batch,
            offsets=(taken.first_offset, taken[-1:].first_offset) if trained and len(taken) else None,
            rate_hz=intake.rate_hz,
            wait_s=self.wait_s,
            compute_s=self.compute_s + (now_s - synced_s),
            sync_s=synced_s - self._last_message_s + (self._computes_from_s - self._gathered_s),
            slowest=result.slowest,
            slowest_s=result.slowest_s,
            loss=result.loss,
            lr=result.lr,
            lr_scale=result.lr_scale,
            held=intake.held,
            lag=intake.lag,
            dropped=intake.ledger.dropped,
            injected=self.injected if trained else 0,
            shared=given.samples,
            shared_bytes=given.payload_bytes,
            withheld=given.withheld,
            correct=correct if trained and len(taken) else None,
        )
