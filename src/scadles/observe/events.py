"""What happens on a device, as typed events: one JSON object a line, one file a device.

The first line is a :class:`Header`. A resumed run appends :class:`Resumed`; what an earlier attempt wrote about later
steps than the one it resumed from did not happen to the model, and readers leave it out
(:func:`scadles.observe.rundir.read_events`). A file that has grown large is thinned
(:func:`scadles.observe.thinning.thin`), and its second line is then a :class:`Thinned`.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass, field, replace
from typing import ClassVar

SCHEMA = 1


@dataclass(frozen=True, kw_only=True)
class Event:
    """Base of all events.

    Attributes:
        step: global step after which, or during which, it happened.
        time_s: stream seconds on this device's clock.
    """

    kind: ClassVar[str]
    step: int
    time_s: float

    def to_json(self) -> str:
        """Return one line of JSON, without the newline."""
        return json.dumps({"event": self.kind, **vars(self)}, separators=(",", ":"))


@dataclass(frozen=True, kw_only=True)
class Header(Event):
    """Who wrote this file, with what, and when (None in virtual time, where one run is like the other)."""

    kind: ClassVar[str] = "header"
    device: int
    devices: int
    method: str
    seed: int
    clock: str
    started_at: str | None
    versions: dict[str, str]
    schema: int = SCHEMA


@dataclass(frozen=True, kw_only=True)
class Step(Event):
    """One step of one device.

    Attributes:
        batch: samples this device trained on, those of others included; 0 where it had nothing.
        total_batch: the sum over all devices.
        offsets: stream offsets of the first and last trained sample of its own; None where there was none.
        rate_hz: the measured rate of this device's stream.
        wait_s, compute_s, sync_s: stream seconds spent on gathering the batch, on the gradient and the update, and on
            the exchanges (waiting for others included).
        slowest: the device that everybody waited for.
        slowest_s: how much later than the first device it was ready.
        loss: mean loss over all devices' samples; None when nobody had any.
        lr: learning rate of the first parameter group.
        lr_scale: what batch scaling made of the base rate.
        held: samples in the buffer after the batch was taken.
        lag: samples left at the source; None where the source cannot tell.
        dropped: samples dropped so far.
        correct: right answers of the model before this step on the samples of this device's own stream that it was
            then trained on; None where nobody counted, or there were none.
        injected: samples of others among those trained on.
        shared: samples of its own that it sent to all others.
        shared_bytes: the message that held them, counted once.
        withheld: samples that were drawn to be shared and were not, because the device or their label refuses it.
    """

    kind: ClassVar[str] = "step"
    batch: int
    total_batch: int
    offsets: tuple[int, int] | None
    rate_hz: float
    wait_s: float
    compute_s: float
    sync_s: float
    slowest: int
    slowest_s: float
    loss: float | None
    lr: float
    lr_scale: float
    held: int
    lag: int | None
    dropped: int
    correct: int | None = None
    injected: int = 0
    shared: int = 0
    shared_bytes: int = 0
    withheld: int = 0


@dataclass(frozen=True, kw_only=True)
class Evaluation(Event):
    """Metrics of the common model on the test set, all devices together; the mean where each has a model of its own.

    Attributes:
        accuracy: where it is the run's own metric; None otherwise.
        metrics: all metrics by name, the run's own first; empty where accuracy is all there is.
        per_label: the same on each label's samples; None where there are none.
        own: the run's own metric of this device's own model, as ``own_accuracy`` where that is another one.
        own_accuracy: of this device's own model, where BatchNorm's running statistics are local; None otherwise, and
            where a large simulated cluster did not test it.
        samples: that were tested on, where these are of the streams; None for a test set, which is always the same.
    """

    kind: ClassVar[str] = "evaluation"
    loss: float
    samples_trained: int
    accuracy: float | None = None
    per_label: tuple[float | None, ...] = ()
    own_accuracy: float | None = None
    metrics: dict[str, float] = field(default_factory=dict)
    own: float | None = None
    samples: int | None = None

    @property
    def value(self) -> float:
        """The run's own metric; NaN where there is none."""
        return next(iter(self.metrics.values()), math.nan) if self.accuracy is None else self.accuracy

    def to_json(self) -> str:
        said = {"event": self.kind, "step": self.step, "time_s": self.time_s, "accuracy": self.accuracy, **vars(self)}
        for name in ("accuracy", "metrics", "own", "samples"):
            if not said[name] and said[name] != 0:
                del said[name]
        return json.dumps(said, separators=(",", ":"))


@dataclass(frozen=True, kw_only=True)
class Rejection(Event):
    """Samples that could not be trained on."""

    kind: ClassVar[str] = "rejection"
    count: int
    reason: str
    first_offset: int


@dataclass(frozen=True, kw_only=True)
class Loss(Event):
    """Samples that never came, and so were not received."""

    kind: ClassVar[str] = "loss"
    count: int
    reason: str


@dataclass(frozen=True, kw_only=True)
class StrayTarget(Event):
    """Targets that came later than their samples and were given to none."""

    kind: ClassVar[str] = "stray_target"
    count: int
    reason: str


@dataclass(frozen=True, kw_only=True)
class Notice(Event):
    """Something that a user should know and that ends nothing, in words."""

    kind: ClassVar[str] = "notice"
    message: str


@dataclass(frozen=True, kw_only=True)
class RatioChange(Event):
    """Another share of the gradient is sent from now on, by all devices.

    Attributes:
        ratio: that share; None for all of it.
        why: in words.
    """

    kind: ClassVar[str] = "ratio"
    ratio: float | None
    why: str


@dataclass(frozen=True, kw_only=True)
class WindowChange(Event):
    """Another window makes the batches from now on, on all devices.

    Attributes:
        window_s: its stream seconds.
        why: in words.
        noise_scale: of gradients, in samples; None where it is not known or has no bound.
        low, high: it surely lies between them; None where there is no such bound.
    """

    kind: ClassVar[str] = "window"
    window_s: float
    why: str
    noise_scale: float | None
    low: float | None
    high: float | None


@dataclass(frozen=True, kw_only=True)
class RateChange(Event):
    """The learning rate has another factor from now on, on all devices.

    Attributes:
        factor: of the rate that was asked for.
        why: in words.
    """

    kind: ClassVar[str] = "rate"
    factor: float
    why: str


@dataclass(frozen=True, kw_only=True)
class NonFinite(Event):
    """A gradient with NaN or infinity that was left out of the step."""

    kind: ClassVar[str] = "non_finite"
    batch: int


@dataclass(frozen=True, kw_only=True)
class SetAside(Event):
    """A gradient of this device that was left out of the step, because it was unlike all others.

    Attributes:
        batch: samples that it was of, which are rejected.
        why: what is unlike.
    """

    kind: ClassVar[str] = "set_aside"
    batch: int
    why: str


@dataclass(frozen=True, kw_only=True)
class Divergence(Event):
    """The common loss has become so high that all devices look whether training diverges.

    Attributes:
        what: ``tried``: an earlier state takes the place of the present one for a step; then ``back`` where its loss is
            low, so that they stay there at half the learning rate, or ``on`` where it is not, because the streams have
            changed, and they go on from where they were; ``hopeless`` ends the run.
        back_to: the step after which the earlier state was.
        lr_factor: what the learning rate is multiplied by from now on.
        why: as a sentence.
    """

    kind: ClassVar[str] = "divergence"
    what: str
    back_to: int
    lr_factor: float
    why: str


@dataclass(frozen=True, kw_only=True)
class CheckpointWritten(Event):
    """Everything up to here survives a crash."""

    kind: ClassVar[str] = "checkpoint"
    position: int
    ledger: dict[str, int]
    model_sha256: str


@dataclass(frozen=True, kw_only=True)
class Resumed(Event):
    """The run goes on from the checkpoint of ``step``; later events written before this line are void.

    Attributes:
        position: stream offset from which this device goes on.
        started_at: date and time.
        away_since: the step after which this device took no part until ``step``, 0 where it is new; what it wrote
            about later steps is void. None where it took part all along.
    """

    kind: ClassVar[str] = "resumed"
    position: int
    started_at: str
    away_since: int | None = None


@dataclass(frozen=True, kw_only=True)
class InitialValues(Event):
    """The model did not start from drawn values, but from those in a file; device 0 says so for all.

    Attributes:
        path: the file, as it was found.
        sha256: the fingerprint of the model that it made.
        tensors: parameters and buffers that were taken.
    """

    kind: ClassVar[str] = "initial_values"
    path: str
    sha256: str
    tensors: int


@dataclass(frozen=True, kw_only=True)
class Finished(Event):
    """The run ended as it should.

    Attributes:
        reason: ``target``, ``steps``, ``duration``, ``streams``, ``stopped``, ``rejected``, ``diverged`` or
            ``deserted``.
    """

    kind: ClassVar[str] = "finished"
    reason: str
    ledger: dict[str, int] = field(default_factory=dict)
    model_sha256: str = ""


@dataclass(frozen=True, kw_only=True)
class Thinned(Event):
    """What is no longer in the file: of steps up to ``step`` only those that ``every`` divides are still there.

    Attributes:
        every: a power of two.
        trained: samples of the steps that were removed; None where a resumption took some of them back.
        removed: how many events were removed, by kind; empty where a resumption took some of them back.
        rejected: samples of the rejections that were removed, by reason; the same.
        missing: first and last of each run of steps up to ``step`` that never were in the file.
    """

    kind: ClassVar[str] = "thinned"
    every: int
    trained: int | None
    removed: dict[str, int] = field(default_factory=dict)
    rejected: dict[str, int] = field(default_factory=dict)
    missing: tuple[tuple[int, int], ...] = ()

    def up_to(self, step: int) -> Thinned:
        """Return what is left of it where a run goes on from ``step``."""
        if step >= self.step:
            return self
        missing = tuple((first, min(last, step)) for first, last in self.missing if first <= step)
        return replace(self, step=step, trained=None, removed={}, rejected={}, missing=missing)


@dataclass(frozen=True, kw_only=True)
class Membership(Event):
    """Who takes part from now on, where devices come and go.

    Attributes:
        names: of those who are there, by number.
        joined, left: numbers of those that have come and gone since the last such event.
    """

    kind: ClassVar[str] = "membership"
    names: dict[str, str]
    joined: tuple[int, ...] = ()
    left: tuple[int, ...] = ()


EVENTS: dict[str, type[Event]] = {
    cls.kind: cls
    for cls in (
        *(Header, Thinned, Step, Evaluation, Rejection, Loss, StrayTarget, Notice, NonFinite, SetAside, Divergence),
        *(WindowChange, RatioChange, RateChange, CheckpointWritten, Resumed, InitialValues, Membership, Finished),
    )
}
