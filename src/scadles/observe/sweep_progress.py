"""What a sweep shows while it goes on: one line for each run that is finished."""

from __future__ import annotations

from collections.abc import Sequence
from types import TracebackType
from typing import TYPE_CHECKING

from rich.console import Console
from rich.text import Text

from scadles.clock import wall_seconds
from scadles.observe.console import human_seconds, metric_value, plain_line
from scadles.observe.sweep_table import SweepRun

if TYPE_CHECKING:
    from typing_extensions import Self


class SweepProgress:
    """Tells on standard error which runs of a sweep are finished, and how long the rest may take.

    Args:
        total: how many runs there are.
        known: those that need not be made: found finished, or impossible.
        quiet: show nothing at all.
        console: where to show it; standard error by default.
    """

    def __init__(self, total: int, known: Sequence[SweepRun], *, quiet: bool, console: Console | None = None) -> None:
        self._total, self._known, self._done = total, known, len(known)
        self._quiet = quiet
        self._console = console or Console(stderr=True)
        self._started_s = wall_seconds()

    def __enter__(self) -> Self:
        self._started_s = wall_seconds()
        reused = sum(run.reused for run in self._known)
        if reused:
            self._say(f"reused {reused} of {self._total} runs that were there already")
        for run in self._known:
            if run.problem:
                self._say(f"{run.combination} cannot run: {run.problem}")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is not None and self._done:
            self._say(f"ended after {self._done} of {self._total} runs; the same command goes on with the others")

    def update(self, run: SweepRun) -> None:
        """Tell of one more run."""
        self._done += 1
        made, left = self._done - len(self._known), self._total - self._done
        left_s = (wall_seconds() - self._started_s) / made * left
        rest = f", about {human_seconds(left_s)} left" if left else ""
        self._say(f"{self._done} of {self._total}: {run.combination}, seed {run.seed}: {_came_to(run)}{rest}")

    def _say(self, text: str) -> None:
        if not self._quiet:
            self._console.print(Text(plain_line(text)), soft_wrap=True)


def _came_to(run: SweepRun) -> str:
    if run.summary is None:
        return f"failed: {run.problem}"
    if run.summary.time_to_target_s is not None:
        return f"target after {human_seconds(run.summary.time_to_target_s)}"
    outcome = run.summary.outcome
    ended = "target not reached" if outcome.target is not None else "ended"
    final = outcome.final
    return ended + (f", {outcome.metric} {metric_value(outcome.metric, final)}" if final is not None else "")
