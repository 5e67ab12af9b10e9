"""Tasks: what a model shall say of a sample, what is minimised, and what counts as good."""

from __future__ import annotations

from scadles.tasks.choice import make_task
from scadles.tasks.kinds import KINDS, targets_of
from scadles.tasks.metrics import Metric, SampleMean
from scadles.tasks.scores import LossFunction, Scores, check_scores, find_scores, right_answers
from scadles.tasks.task import Goal, Task

__all__ = [
    "KINDS",
    "Goal",
    "LossFunction",
    "Metric",
    "SampleMean",
    "Scores",
    "Task",
    "check_scores",
    "find_scores",
    "make_task",
    "right_answers",
    "targets_of",
]
