"""When the common model is tested and when a run is over: decided from what is the same on all devices."""

from __future__ import annotations

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

    def evaluation_due(self, learner: Learner) -> bool:
        """Whether to test the model now."""
        return learner.time_s >= self.next_evaluation_s

    def evaluated(self, learner: Learner) -> None:
        """Set the time of the next test: the next multiple of ``evaluation.every_s``."""
        every_s = self._config.evaluation.every_s
        self.next_evaluation_s = every_s * (learner.time_s // every_s + 1)

    def reason_to_end(self, learner: Learner, statistics: RunStatistics) -> str | None:
        """Return why the run is over: ``target``, ``steps`` or ``duration``; None while it is not."""
        config = self._config
        if config.stop_at_target and statistics.time_to_target_s is not None:
            return "target"
        if config.steps is not None and learner.step_number >= config.steps:
            return "steps"
        if config.duration_s is not None and learner.time_s >= config.duration_s:
            return "duration"
        return None
