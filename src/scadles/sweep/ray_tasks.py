"""Runs of a sweep as Ray tasks, on this machine or on a cluster that shares the folder of the sweep."""

from __future__ import annotations

import logging
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from scadles.errors import MissingExtraError
from scadles.sweep.plan import Task
from scadles.sweep.work import Outcome, Report, make, unforeseen


def in_ray(tasks: Sequence[Task], jobs: int, report: Report) -> None:
    """Make runs as Ray tasks, at most ``jobs`` at a time, and report each when it is there.

    A cluster is used that this process is connected to, or that ``RAY_ADDRESS`` names; otherwise one is started on
    this machine and ended with the sweep.

    Raises:
        MissingExtraError: Ray is not installed.
    """
    try:
        import ray
    except ImportError:
        raise MissingExtraError("the ray back end", "ray") from None
    ours = not ray.is_initialized()
    if ours:
        ray.init(include_dashboard=False, log_to_driver=False, logging_level=logging.WARNING)
    task_of_ray = ray.remote(max_retries=0)(_make_from)
    left = list(reversed(tasks))
    running: dict[Any, Task] = {}
    try:
        while left or running:
            while left and len(running) < jobs:
                task = left.pop()
                cores = task_of_ray.options(num_cpus=task.config.simulation.threads)
                running[cores.remote(task, Path.cwd())] = task
            (ended,), _ = ray.wait(list(running))
            report(running.pop(ended), _outcome(ray, ended))
    finally:
        for reference in running:
            ray.cancel(reference, force=True)
        if ours:
            ray.shutdown()


def _make_from(task: Task, folder: Path) -> Outcome:
    os.chdir(folder)  # relative paths in the settings are the user's
    return make(task)


def _outcome(ray: Any, reference: Any) -> Outcome:
    try:
        outcome: Outcome = ray.get(reference)
    except ray.exceptions.RayError as error:
        return unforeseen(getattr(error, "cause", None) or error)
    return outcome
