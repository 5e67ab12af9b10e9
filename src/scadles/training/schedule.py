"""When the common model is tested and when a run is over: decided from what is the same on all devices."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from scadles.config import RunConfig
from scadles.device.learner import Learner
from scadles.training.run_statistics import RunStatistics


class Schedule:
    """The limits of a run.

    Args:
        config: the run.

    Attributes:
        next_evaluation_s: stream time from which on the next test is due.
    """

    def __init__(self, config: RunConfig) -> None:
        self._config = config
        self.next_evaluation_s = config.evaluation.every_s

    @property
    def target(self) -> float | dict[str, Any] | None:
        """What the run is to reach, as JSON: an accuracy alone, or a metric and its limit."""
        target = self._config.target
        return self._config.target_accuracy if target is None else target.model_dump(exclude_none=True)

    def still_reached(self, state: Mapping[str, Any], time_s: float | None) -> float | None:
        """Return the time at which a checkpoint's run had reached its target; None where the target is another now."""
        return time_s if state.get("target", self.target) == self.target else None

    def evaluation_due(self, learner: Learner) -> bool:
        """Whether to test the model now."""
        return learner.time_s >= self.next_evaluation_s

    def evaluated(self, learner: Learner) -> None:
        """Set the time of the next test: the next multiple of ``evaluation.every_s``."""
        every_s = self._config.evaluation.every_s
        self.next_evaluation_s = every_s * (learner.time_s // every_s + 1)

    def reason_to_end(
        self,
        learner: Learner,
        statistics: RunStatistics,
        *,
        stopped: bool,
        rejecting: bool = False,
        ended: bool = False,
    ) -> str | None:
        """Return why the run is over, None while it is not.

        A simulated run has one more reason, ``deserted``: no device is left that will ever come back.

        Args:
            learner: how far training has come.
            statistics: of the run.
            stopped: whether any device asked to end: on a signal, or because its caller left.
            rejecting: whether any device asked to end because too much of its stream cannot be read.
            ended: whether the streams of all devices have ended and all that they brought is trained on.

        Returns:
            ``rejected``, ``diverged``, ``stopped``, ``target``, ``streams``, ``steps`` or ``duration``; the first
            of them that holds.
        """
        config = self._config
        if rejecting:
            return "rejected"
        if learner.divergence is not None and learner.divergence.hopeless:
            return "diverged"
        if stopped:
            return "stopped"
        if config.stop_at_target and statistics.time_to_target_s is not None:
            return "target"
        if ended:
            return "streams"
        if config.steps is not None and learner.step_number >= config.steps:
            return "steps"
        if config.duration_s is not None and learner.time_s >= config.duration_s:
            return "duration"
        return None
