"""Simulations that an experiment needs: made once, several at a time, found again."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from hashlib import sha256
from pathlib import Path
from typing import Any, TypeVar

from scadles.clock import wall_seconds
from scadles.config import RunConfig
from scadles.errors import ConfigError, RunError
from scadles.observe import CONFIG_FILE, SUMMARY_FILE, RunFolder
from scadles.observe.console import human_seconds
from scadles.observe.sweep_table import SweepRun
from scadles.sweep.plan import UNFINISHED, Task
from scadles.sweep.work import Failure, Outcome, in_processes, make

Key = TypeVar("Key", bound=tuple[Any, ...])


def key_of(*parts: Any) -> tuple[Any, ...]:
    """Return the parts of a label as one key (``runs["a", *b]`` is not Python 3.10)."""
    return parts


def label(*parts: Any) -> str:
    """Return a name for a run that can be part of a file name.

    >>> label("ddl", "S1'", 64)
    'ddl-S1prime-64'
    """
    return "-".join(map(str, parts)).replace("'", "prime")


class Runs:
    """Run folders under one folder, each named by its label and by its settings.

    A run that is there already, with a ``config.yaml`` of the same settings, is not made again.

    Args:
        folder: where they live; made when needed.
        jobs: simulations at the same time; 1 makes them in this process.
        say: told one line of progress at a time.
    """

    def __init__(self, folder: Path, jobs: int = 1, say: Callable[[str], None] = lambda line: None) -> None:
        self.folder = folder
        self._jobs = jobs
        self.say = say

    def get(self, configs: Mapping[Key, RunConfig], weights: Mapping[Key, float] | None = None) -> dict[Key, RunFolder]:
        """Return the finished run of each key, simulating those that are not there.

        Args:
            configs: settings by the parts of a label, which becomes part of a file name.
            weights: how long each takes, in any unit, for the estimate of what is left; all alike by default.

        Raises:
            ConfigError: the settings of a run cannot work, or something else is in its place.
            RunError: a run failed, or the folder cannot be written to.
        """
        tasks = {key: self._task(label(*key), config) for key, config in configs.items()}
        missing = {key: task for key, task in tasks.items() if not _is_finished(task)}
        if len(missing) < len(tasks):
            self.say(f"{len(tasks) - len(missing)} of {len(tasks)} runs are there already in {self.folder}")
        if missing:
            shares = {label(*key): (weights or {}).get(key, 1.0) for key in missing}
            self._make({label(*key): task for key, task in missing.items()}, shares)
        return {key: RunFolder(task.run.folder) for key, task in tasks.items()}

    def _task(self, label: str, config: RunConfig) -> Task:
        name = f"{label}-{sha256(config.to_yaml().encode()).hexdigest()[:8]}"
        folder = self.folder.absolute()
        return Task(SweepRun({"run": label}, config.seed, folder / name), config, folder / UNFINISHED / name)

    def _make(self, tasks: Mapping[str, Task], weights: Mapping[str, float]) -> None:
        # the longest first, so that no process is left alone with it at the end
        ahead = sorted(tasks, key=lambda label: -weights[label])
        order = [tasks[label] for label in ahead]
        started_s = wall_seconds()

        def report(task: Task, outcome: Outcome) -> None:
            label = task.run.settings["run"]
            _check(label, outcome)
            ahead.remove(label)
            spent_s = wall_seconds() - started_s
            rest = f", about {human_seconds(spent_s * self._left(ahead, weights))} left" if ahead else ""
            number = len(tasks) - len(ahead)
            self.say(f"run {number} of {len(tasks)}, {label}: done after {human_seconds(spent_s)}{rest}")

        if self._jobs == 1:
            for task in order:
                report(task, make(task))
        else:
            in_processes(order, self._jobs, report)
        if (left_over := self.folder / UNFINISHED).is_dir() and not any(left_over.iterdir()):
            left_over.rmdir()

    def _left(self, ahead: Sequence[str], weights: Mapping[str, float]) -> float:
        """Return how much work is left, as a multiple of what is done; about half is done of the runs under way."""
        left = sum(weights[label] for label in ahead)
        under_way = sum(weights[label] for label in ahead[: self._jobs]) / 2 if self._jobs > 1 else 0.0
        return (left - under_way) / (sum(weights.values()) - left + under_way)


def _is_finished(task: Task) -> bool:
    folder = task.run.folder
    if not folder.exists():
        return False
    config = folder / CONFIG_FILE
    same = config.is_file() and config.read_text(errors="replace") == task.config.to_yaml()
    if not same or not (folder / SUMMARY_FILE).exists():
        raise ConfigError(f"{folder} is in the way, and not the finished run it should be: remove it")
    return True


def _check(label: str, outcome: Outcome) -> None:
    if not isinstance(outcome, Failure):
        return
    if outcome.exit_code > 128:  # ended by a signal
        raise KeyboardInterrupt
    kind = ConfigError if outcome.exit_code == ConfigError.exit_code else RunError
    raise kind(f"{label}: {outcome.problem}")
