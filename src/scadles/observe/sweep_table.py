"""What a sweep came to: a row for each combination of settings, over all its seeds."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from scadles.observe.console import human_bytes, human_count, markdown, plain, print_table
from scadles.observe.summary import Summary

_NOTHING = "–"
_NOT_REACHED = "not reached"


@dataclass(frozen=True)
class SweepRun:
    """One run of a sweep.

    Attributes:
        settings: the swept settings and their values in this run.
        seed: of the run.
        folder: its run folder.
        summary: what it came to; None where it failed.
        problem: why it failed; empty where it did not.
        exit_code: what the problem would have ended ``scadles simulate`` with; 0 where there is none.
        reused: whether it was found finished.
    """

    settings: Mapping[str, Any]
    seed: int
    folder: Path
    summary: Summary | None = None
    problem: str = ""
    exit_code: int = 0
    reused: bool = False

    @property
    def combination(self) -> str:
        """The swept settings in one line."""
        return " ".join(f"{key}={as_yaml(value)}" for key, value in self.settings.items())


@dataclass(frozen=True)
class Spread:
    """Median and range of a quantity over seeds; infinite for a target that was not reached."""

    median: float
    low: float
    high: float

    def show(self, number: Callable[[float], str]) -> str:
        """Return the median, and the range where there is one."""
        shown = number(self.median)
        return shown if self.low == self.high else f"{shown} ({number(self.low)}..{number(self.high)})"


@dataclass(frozen=True)
class SweepRow:
    """A combination of settings and what its runs came to; a quantity is None where no run has it.

    Attributes:
        settings: the swept settings and their values.
        runs: how many runs ended without a failure.
        failed: how many failed.
        reached: how many reached the target; None where there is none.
        time_to_target_s, final, steps, dropped, bytes_sent: over the runs.
        buffer_max_samples: the most that any device of any run held.
        problem: the first failure.
    """

    settings: Mapping[str, Any]
    runs: int
    failed: int
    reached: int | None
    time_to_target_s: Spread | None
    final: Spread | None
    steps: Spread | None
    dropped: Spread | None
    bytes_sent: Spread | None
    buffer_max_samples: int | None
    problem: str


@dataclass(frozen=True)
class SweepResult:
    """All runs of a sweep.

    Attributes:
        keys: the swept settings.
        runs: combination by combination, seed by seed.
    """

    keys: tuple[str, ...]
    runs: tuple[SweepRun, ...] = field(repr=False)

    @property
    def exit_code(self) -> int:
        """0 when nothing failed, otherwise the highest of the runs' exit codes: 2 for a user's mistake."""
        return max((run.exit_code for run in self.runs), default=0)

    @property
    def reused(self) -> int:
        """How many runs were found finished."""
        return sum(run.reused for run in self.runs)

    def rows(self) -> tuple[SweepRow, ...]:
        """Return one row for each combination, in the order of the runs."""
        groups: dict[str, list[SweepRun]] = {}
        for run in self.runs:
            groups.setdefault(run.combination, []).append(run)
        return tuple(_row(group) for group in groups.values())

    def to_markdown(self) -> str:
        """Return the table as Markdown."""
        columns, cells = self._cells()
        lines = [columns, ["---"] * len(columns), *cells]
        return "\n".join("| " + " | ".join(map(markdown, line)) + " |" for line in lines)

    def to_csv(self) -> str:
        """Return the table as plain numbers; a cell is empty where there is none, or the target was not reached."""
        text = io.StringIO()
        columns = [
            "runs",
            "failed",
            "reached",
            *(f"{self._column(name)}_{part}" for name in _SPREADS for part in _PARTS),
        ]
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow([*self.keys, *columns, "buffer_max_samples", "problem"])
        for row in self.rows():
            numbers = [getattr(getattr(row, name), part, None) for name in _SPREADS for part in _PARTS]
            known = ["" if number is None or math.isinf(number) else f"{number:.10g}" for number in numbers]
            settings = [as_yaml(row.settings[key]) for key in self.keys]
            writer.writerow(
                [*settings, row.runs, row.failed, row.reached, *known, row.buffer_max_samples, _one_line(row.problem)]
            )
        return text.getvalue()

    @property
    def metric(self) -> str:
        """The metric of the runs; where it differs, or none has ended, what stands for it."""
        metrics = {run.summary.outcome.metric for run in self.runs if run.summary is not None}
        return metrics.pop() if len(metrics) == 1 else "metric" if metrics else "accuracy"

    def _column(self, name: str) -> str:
        return f"final_{self.metric}" if name == "final" else name

    def print(self) -> None:
        """Print the table to standard output."""
        print_table("", *self._cells())

    def _cells(self) -> tuple[list[str], list[list[str]]]:
        rows = self.rows()
        columns: list[tuple[str, Callable[[SweepRow], str]]] = [*_COLUMNS]
        if not any(row.problem for row in rows):
            columns = columns[:-1]
        table = [
            [*(as_yaml(row.settings[key]) for key in self.keys), *(show(row) for _, show in columns)] for row in rows
        ]
        return [*self.keys, *(title.format(self.metric) for title, _ in columns)], table


_SPREADS = ("time_to_target_s", "final", "steps", "dropped", "bytes_sent")
_PARTS = ("median", "low", "high")


class _WrittenOut(yaml.SafeDumper):
    """Writes a list again where it comes again: aliases are not read back."""

    def ignore_aliases(self, data: Any) -> bool:
        return True


def as_yaml(value: Any) -> str:
    """Return a value as one writes it in YAML, in one line.

    >>> as_yaml(0.5), as_yaml([50, 38]), as_yaml(None), as_yaml("ddl")
    ('0.5', '[50, 38]', 'null', 'ddl')
    """
    text = yaml.dump(value, Dumper=_WrittenOut, default_flow_style=True, width=math.inf, sort_keys=False)
    return text.removesuffix("\n").removesuffix("\n...")


def _row(runs: Sequence[SweepRun]) -> SweepRow:
    done = [run.summary for run in runs if run.summary is not None]
    aimed = [summary for summary in done if summary.outcome.target is not None]
    reached = [summary for summary in aimed if summary.time_to_target_s is not None]
    return SweepRow(
        settings=runs[0].settings,
        runs=len(done),
        failed=len(runs) - len(done),
        reached=len(reached) if aimed else None,
        # a run that never got there counts as slower than all others, not as if it had not been
        time_to_target_s=_spread(math.inf if s.time_to_target_s is None else s.time_to_target_s for s in aimed),
        final=_spread(s.outcome.final for s in done if s.outcome.final is not None),
        steps=_spread(s.steps for s in done),
        dropped=_spread(s.samples.dropped for s in done),
        bytes_sent=_spread(s.bytes_sent for s in done),
        buffer_max_samples=max((s.buffer_max_samples for s in done), default=None),
        problem=next((run.problem for run in runs if run.problem), ""),
    )


def _spread(values: Iterable[float]) -> Spread | None:
    known = sorted(values)
    if not known:
        return None
    # of an even number the mean of the middle two, which is infinite if one of them is
    return Spread(float(np.mean(known[(len(known) - 1) // 2 : len(known) // 2 + 1])), known[0], known[-1])


def _one_line(text: str) -> str:
    return "; ".join(plain(text).splitlines())


def _seconds(value: float) -> str:
    return _NOT_REACHED if math.isinf(value) else f"{value:,.1f}" if value >= 1 else f"{value:.3g}"


def _with_range(spread: Spread | None, number: Callable[[float], str]) -> str:
    return _NOTHING if spread is None else spread.show(number)


def _median(spread: Spread | None, number: Callable[[float], str]) -> str:
    return _NOTHING if spread is None else number(spread.median)


def _metric(value: float) -> str:
    return f"{value:.4f}" if abs(value) < 1e4 else f"{value:.6g}"


def _count(value: float) -> str:
    return human_count(round(value))


_COLUMNS: tuple[tuple[str, Callable[[SweepRow], str]], ...] = (
    ("reached", lambda row: _NOTHING if row.reached is None else f"{row.reached}/{row.runs}"),
    ("time to target, s", lambda row: _with_range(row.time_to_target_s, _seconds)),
    ("final {}", lambda row: _with_range(row.final, _metric)),
    ("steps", lambda row: _median(row.steps, _count)),
    ("dropped", lambda row: _median(row.dropped, _count)),
    ("largest buffer", lambda row: _NOTHING if row.buffer_max_samples is None else _count(row.buffer_max_samples)),
    ("bytes sent", lambda row: _median(row.bytes_sent, human_bytes)),
    ("problem", lambda row: _one_line(row.problem) + (f" ({row.failed} runs)" if row.failed > 1 else "")),
)
