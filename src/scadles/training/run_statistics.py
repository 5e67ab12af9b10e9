"""What a device's steps add up to, kept in checkpoints so that a resumed run has one sum."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import TYPE_CHECKING, Any

from scadles.device.connected import ConnectedDevice
from scadles.observe.events import Step
from scadles.tasks import Goal
from scadles.training.outliers import Found

if TYPE_CHECKING:
    from typing_extensions import Self


_BEFORE = {"best_accuracy": "best", "final_accuracy": "final"}


@dataclass
class RunStatistics:
    """Running sums over the steps of one device.

    Attributes:
        wait_s, compute_s, sync_s: stream seconds.
        lr_scale: sum over all steps.
        slowest_steps: steps in which everybody waited for this device.
        max_waiting: the most samples held or waiting at the source.
        bytes_sent, collectives: of earlier attempts; the fabric counts the present one (:meth:`up_to_now`).
        judged, correct: samples of the device's own stream on which an answer was asked before they were trained on,
            and right answers among them.
        best, final: of the run's own metric, at the best and the last test.
        metrics: all metrics at the last test.
        time_to_target_s, per_label: from tests as well.
        found: devices whose gradients were unlike all others (:mod:`scadles.training.outliers`).
        spread: lowest and highest of the metric of a device's own model at the last one; empty where it is common.
    """

    steps: int = 0
    wait_s: float = 0.0
    compute_s: float = 0.0
    sync_s: float = 0.0
    lr_scale: float = 0.0
    slowest_steps: int = 0
    max_waiting: int = 0
    bytes_sent: int = 0
    collectives: int = 0
    judged: int = 0
    correct: int = 0
    best: float | None = None
    final: float | None = None
    metrics: dict[str, float] = field(default_factory=dict)
    time_to_target_s: float | None = None
    per_label: Sequence[float | None] = ()
    spread: Sequence[float] = ()
    found: Found = field(default_factory=dict)

    def add(self, step: Step, device: int) -> None:
        """Count one step of ``device``."""
        self.steps += 1
        self.wait_s += step.wait_s
        self.compute_s += step.compute_s
        self.sync_s += step.sync_s
        self.lr_scale += step.lr_scale
        self.slowest_steps += step.slowest == device
        if step.correct is not None:
            self.judged += step.batch - step.injected
            self.correct += step.correct

    def evaluated(
        self,
        values: Sequence[tuple[str, float]],
        time_s: float,
        goal: Goal,
        per_label: Sequence[float | None] = (),
        spread: Sequence[float] = (),
        *,
        counts: bool = True,
    ) -> None:
        """Take note of a test: name and value of each metric, the run's own first.

        One that does not count, because it was on few samples, is neither the best nor reaches the goal.
        """
        self.final = values[0][1]
        self.metrics = dict(values)
        self.per_label = per_label
        self.spread = spread
        if not counts:
            return
        if goal.better(self.final, self.best):
            self.best = self.final
        if goal.reached(self.final) and self.time_to_target_s is None:
            self.time_to_target_s = time_s

    def up_to_now(self, device: ConnectedDevice) -> Self:
        """Return the sums with what the device's fabric and intake count for the present attempt."""
        return replace(
            self,
            bytes_sent=self.bytes_sent + device.fabric.bytes_sent(),
            collectives=self.collectives + device.fabric.collectives,
            max_waiting=max(self.max_waiting, device.intake.max_waiting),
        )

    @classmethod
    def of(cls, sums: Mapping[str, Any]) -> Self:
        """Return what :meth:`as_dict` returned, in this version or one that knew accuracy alone."""
        return cls(**{_BEFORE.get(name, name): value for name, value in sums.items()})

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)
