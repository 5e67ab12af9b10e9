"""``summary.json``: what a run came to."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, SerializerFunctionWrapHandler, model_serializer

SUMMARY_FILE = "summary.json"


def why_ended(reason: str, step: int) -> str:
    """Return what ended a run, for people.

    >>> why_ended("streams", 12), why_ended("steps", 12)
    ('the streams ended at step 12', 'steps')
    """
    return f"the streams ended at step {step}" if reason == "streams" else reason


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Samples(_Frozen):
    """Samples of all devices; received = trained + dropped + held + rejected + unlabelled + tested, injected apart.

    Attributes:
        unlabelled: their targets did not come in time.
        tested: kept for tests alone.
    """

    received: int
    trained: int
    dropped: int
    held: int
    rejected: int
    injected: int = 0
    unlabelled: int = 0
    tested: int = 0

    @property
    def balanced(self) -> bool:
        """Whether every received sample is accounted for."""
        fates = (self.trained, self.dropped, self.held, self.rejected, self.unlabelled, self.tested)
        return self.received == sum(fates)

    @model_serializer(mode="wrap")
    def _only_what_happened(self, write: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Leave ``unlabelled`` and ``tested`` out where there are none."""
        fields: dict[str, Any] = write(self)
        return {name: count for name, count in fields.items() if count or name not in ("unlabelled", "tested")}


class Seconds(_Frozen):
    """Stream seconds spent, mean over devices."""

    wait: float
    compute: float
    sync: float


class Shared(_Frozen):
    """What data injection took from devices.

    Attributes:
        samples: sent to all others, each counted once however many receive it.
        withheld: drawn to be sent, and not sent because device or label refuses it.
        distinct_records: how many different records have ever left their device: the privacy it cost.
        payload_bytes: of the messages that held them, counted at the sender once.
        sent_bytes: of these messages as they really left, one for each receiver; part of ``bytes_sent``.
    """

    samples: int
    withheld: int
    distinct_records: int
    payload_bytes: int
    sent_bytes: int


class DeviceSummary(_Frozen):
    """One device's part.

    Attributes:
        shared: with data injection only.
        slowest_steps: steps in which everybody waited for this device.
        online_accuracy: share of the samples of its own stream to which the model gave the right answer before it was
            trained on them (test, then train); None where nobody counted.
        duplicates: records that came once more and were known again; they are received once.
        missing: records that never came, as those that came show; they are not received.
        stray_targets: targets that came later than their samples and were given to none.
    """

    device: int
    rate_hz: float
    samples: Samples
    seconds: Seconds
    buffer_max_samples: int
    bytes_sent: int
    slowest_steps: int
    non_finite_steps: int
    online_accuracy: float | None = None
    shared: Shared | None = None
    duplicates: int = 0
    missing: int = 0
    stray_targets: int = 0

    @model_serializer(mode="wrap")
    def _only_what_happened(self, write: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Leave ``duplicates``, ``missing`` and ``stray_targets`` out where there are none, as nearly everywhere."""
        fields: dict[str, Any] = write(self)
        for name in ("duplicates", "missing", "stray_targets"):
            if not fields[name]:
                del fields[name]
        return fields


class Outlier(_Frozen):
    """A device whose gradients were unlike those of all others.

    Attributes:
        steps: in which they were.
        of_steps: of the run.
        action: what was done to them: ``reject`` set them aside, ``clip`` scaled them down.
        why: what was unlike, when it was last.
    """

    device: int
    steps: int
    of_steps: int
    action: Literal["clip", "reject"]
    why: str

    def __str__(self) -> str:
        done = "set aside" if self.action == "reject" else "scaled down"
        return f"device {self.device}: gradient {done} in {self.steps} of {self.of_steps} steps: {self.why}"


class Diverged(_Frozen):
    """What became of training that diverged.

    Attributes:
        tried: how often the loss was so high that an earlier state was tried.
        went_back: how often training went back to it, at half the learning rate; what was trained since counts as
            trained.
        lr_factor: what the learning rate is multiplied by at the end.
    """

    tried: int
    went_back: int
    lr_factor: float


class Away(_Frozen):
    """A device that took part in a run and did not go on with it.

    Attributes:
        after_step: the last step it took part in that the run has kept; its checkpoint of it has the rest.
        model_sha256: fingerprint of the model at that step; empty where nobody took it.
        samples: its ledger then; what it held counts as held, for nobody has taken it.
        position: offset in its stream to go on from.
        bytes_sent: by it until then.
        shared: with data injection only.
    """

    device: int
    after_step: int
    model_sha256: str
    samples: Samples
    position: int
    bytes_sent: int
    shared: Shared | None = None


class Compressed(_Frozen):
    """What compression did.

    Attributes:
        ratio: share of the entries that a compressed step sends; ``auto`` where it was chosen step by step.
        ratios: how many steps each ratio was chosen for, ``none`` for all of the gradient; only where they were chosen.
        values: how a value is sent.
        reduction: how sparse messages were added up.
        reduction_why: why in this way.
        cnc: compressed steps over all steps.
        kept_energy: mean share of the squared norm that was picked, over the steps in which something was; None where
            that never happened.
        decisions: how many steps were decided about for which reason.
        why: what decided about the last step, with its numbers.
    """

    ratio: float | Literal["auto"]
    values: str
    reduction: str
    reduction_why: str
    cnc: float
    kept_energy: float | None
    decisions: dict[str, int]
    why: str
    ratios: dict[str, int] | None = None

    @model_serializer(mode="wrap")
    def _only_what_was_chosen(self, write: SerializerFunctionWrapHandler) -> dict[str, Any]:
        fields: dict[str, Any] = write(self)
        if self.ratios is None:
            fields.pop("ratios", None)
        return fields


class ChosenWindow(_Frozen):
    """The window that makes a batch, where it was chosen in the run.

    Attributes:
        window_s: the last one, in stream seconds.
        first_s: the one that the run began with.
        changes: how often it changed.
        noise_scale: of gradients at the end, in samples; None where it is not known or has no bound.
        low, high: it surely lies between them; None where there is no such bound.
        why: the last one was chosen; empty where it is the first.
    """

    window_s: float
    first_s: float
    changes: int
    noise_scale: float | None
    low: float | None
    high: float | None
    why: str


class ChosenRate(_Frozen):
    """By what the learning rate was multiplied, where that was chosen in the run.

    Attributes:
        factor: the last one.
        changes: how often it changed.
        why: the last one was chosen; empty where it is 1 as in the beginning.
    """

    factor: float
    changes: int
    why: str


class Measured(_Frozen):
    """What a run came to by the metrics of its task.

    Attributes:
        task: the kind of it.
        metric: the run's own.
        higher_is_better: which way of it is good.
        target: what was to be reached; None for nothing.
        final, best: of the last and of the best test; None where there was none, or it is no number.
        metrics: all metrics at the last test.
        own_range: the lowest and highest of the devices' own models at the last test, where each has one.
    """

    task: str
    metric: str
    higher_is_better: bool
    target: float | None
    final: float | None
    best: float | None
    metrics: dict[str, float]
    own_range: tuple[float, float] | None = None


class Simulated(_Frozen):
    """What stood for what in a simulated run.

    Attributes:
        trained: the model that was really trained.
        charged: the model, and the devices and links, whose costs were charged.
        message_bytes: the size of a gradient message that was charged.
        collective: the exchange whose time and bytes were charged.
        gradients: how the gradients of the devices were made.
    """

    trained: str
    charged: str
    message_bytes: int
    collective: str
    gradients: str


class Summary(_Frozen):
    """The outcome of one run.

    Attributes:
        time_s: stream seconds of the whole run.
        wall_s: wall seconds of the last attempt (a resumed run counts from its resumption).
        tested_on: ``dataset``, ``holdout`` (samples of the streams that are kept for it) or ``stream`` (each batch
            before it is trained on).
        target_accuracy, final_accuracy, best_accuracy: where accuracy is the run's own metric.
        measured: of a run in which accuracy is not all that is measured.
        time_to_target_s: stream seconds until the target was measured; None when it was not reached.
        buffer_max_samples: the most that any device held or had waiting at its source.
        bytes_sent: bytes that really left, all devices together, as counted by the transport.
        lr_scale_mean: mean factor that batch scaling applied to the learning rate.
        model_sha256: fingerprint of the model, equal on all devices.
        ended_by: ``target``, ``steps``, ``duration``, ``streams`` when all have ended, ``stopped``, ``rejected`` when
            too much of a stream was, ``diverged``, or ``deserted`` when all devices are off for good.
        per_label: accuracy on each label of the test set at the last test; None where there are no samples of it.
        online_accuracy: the same as in ``per_device`` over the samples of all devices.
        own_accuracy_range: of a run with ``aggregation.batchnorm: local``, in which each device has a model of its own
            and accuracy is the mean: the lowest and the highest at the last test.
        per_device: of all devices, or of those that a large simulated cluster records.
        away: devices that took part in steps of the run and not in its last attempt. Samples, bytes and what was shared
            are those of all, away or not; everything else is that of the devices of the last attempt.
        diverged: where that was looked for (``lr.guard``) and the loss was ever so high.
        outliers: devices with gradients that were set aside or scaled down, in the order of their numbers.
        shared: of a run with data injection only, the sum over all devices.
        compressed: of a run with compression only.
        window, rate: of a run in which it is chosen only.
        simulated: of a simulated run only.
        stream_limit_s: the earliest stream time at which anybody could have reached the target from the samples that
            had arrived, with free links and free compute; only where it was asked for.
        stream_efficiency: ``stream_limit_s / time_to_target_s``.
        insecure: whether what travelled between hub and devices was neither encrypted nor authenticated
            (``--insecure``); left out where that is not so.
    """

    schema_version: int = 1
    method: str
    clock: Literal["wall", "virtual"]
    devices: int
    seed: int
    model: str
    dataset: str
    steps: int
    time_s: float
    wall_s: float
    tested_on: str = "dataset"
    target_accuracy: float | None
    time_to_target_s: float | None
    final_accuracy: float | None
    best_accuracy: float | None
    measured: Measured | None = None
    samples: Samples
    buffer_max_samples: int
    seconds: Seconds
    bytes_sent: int
    bytes_counted_by: str
    collectives_per_step: float
    lr_scale_mean: float
    model_sha256: str
    ended_by: str
    per_label: tuple[float | None, ...] = ()
    online_accuracy: float | None = None
    own_accuracy_range: tuple[float, float] | None = None
    per_device: tuple[DeviceSummary, ...]
    shared: Shared | None = None
    compressed: Compressed | None = None
    window: ChosenWindow | None = None
    rate: ChosenRate | None = None
    simulated: Simulated | None = None
    stream_limit_s: float | None = None
    stream_efficiency: float | None = None
    insecure: bool = False
    away: tuple[Away, ...] = ()
    outliers: tuple[Outlier, ...] = ()
    diverged: Diverged | None = None

    @model_serializer(mode="wrap")
    def _only_what_happened(self, write: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Leave out what there is nothing to say of, the usual test; ``measured`` where accuracy is all there is."""
        fields: dict[str, Any] = write(self)
        for name in ("away", "outliers", "insecure", "diverged"):
            if not fields.get(name):
                fields.pop(name, None)
        for name in ("measured", "window", "rate"):
            if fields.get(name) is None:
                fields.pop(name, None)
        if self.tested_on == "dataset":
            fields.pop("tested_on", None)
        return fields

    @property
    def outcome(self) -> Measured:
        """What the run came to by its own metric, whichever that is."""
        if self.measured is not None:
            return self.measured
        return Measured(
            task="classification",
            metric="accuracy",
            higher_is_better=True,
            target=self.target_accuracy,
            final=self.final_accuracy,
            best=self.best_accuracy,
            metrics={} if self.final_accuracy is None else {"accuracy": self.final_accuracy},
            own_range=self.own_accuracy_range,
        )

    def write(self, run_dir: Path) -> None:
        """Write ``summary.json`` into a run folder; it is there whole or not at all."""
        temporary = run_dir / f"{SUMMARY_FILE}.tmp"
        temporary.unlink(missing_ok=True)
        temporary.write_text(self.model_dump_json(indent=2) + "\n")
        temporary.replace(run_dir / SUMMARY_FILE)
