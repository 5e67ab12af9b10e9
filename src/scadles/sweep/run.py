"""The sweep itself: plan, make what is missing, write down what came of it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

from scadles.config import ConfigLike
from scadles.errors import ConfigError, MissingExtraError, RunError, did_you_mean
from scadles.observe import SweepProgress, SweepResult, SweepRun, plot_sweep
from scadles.sweep.plan import UNFINISHED, Task, plan
from scadles.sweep.ray_tasks import in_ray
from scadles.sweep.work import Failure, Outcome, Report, in_processes

BACKENDS: dict[str, Callable[[Sequence[Task], int, Report], None]] = {"local": in_processes, "ray": in_ray}
TABLE_FILE, NUMBERS_FILE, PICTURE_FILE = "sweep.md", "sweep.csv", "sweep.png"


def sweep(
    config: ConfigLike,
    over: Mapping[str, Sequence[Any]],
    *,
    out: Path | str,
    settings: Sequence[str] = (),
    seeds: int = 1,
    jobs: int = 1,
    backend: str = "local",
    quiet: bool = False,
) -> SweepResult:
    """Simulate every combination of settings, several seeds each, and put the runs into one table.

    Runs are made in processes of their own, so a script calls this below ``if __name__ == "__main__"``. Each goes
    into ``out/COMBINATION/seed-SEED`` when it is whole; one that is there already is not made again. A run that fails
    does not end the sweep. ``out`` gets the table (``sweep.md``, ``sweep.csv``) and, where the extra ``plots`` is
    installed, the picture ``sweep.png``. Runs draw no pictures of their own unless ``picture=true`` is among the
    settings.

    Args:
        config: the settings that all combinations share, or a YAML file of them.
        over: dotted settings and the values of each, for example ``{"batch.window_s": [0.5, 1], "method": ["ddl"]}``.
        out: the folder of the sweep.
        settings: ``key=value`` over ``config``.
        seeds: runs of each combination, with the configuration's seed and those after it.
        jobs: runs that are made at the same time; results do not depend on it.
        backend: ``local`` processes, or tasks of ``ray``.
        quiet: do not tell of each run that is finished.

    Raises:
        ConfigError: there is nothing to sweep, no combination can work, or ``out`` holds something else.
        MissingExtraError: Ray is asked for and not installed.
        RunError: ``out`` cannot be written.
    """
    for name, value in (("seeds", seeds), ("jobs", jobs)):
        if value < 1:
            raise ConfigError(f"{name} = {value}: must be at least 1")
    if backend not in BACKENDS:
        raise ConfigError(f"backend = {backend!r}: unknown{did_you_mean(backend, BACKENDS)}")
    folder = Path(out).absolute()
    planned = plan(config, over, ["picture=false", *settings], seeds, folder)
    known = {place: run for place, run in enumerate(planned) if isinstance(run, SweepRun)}
    tasks = {task.run.folder: place for place, task in enumerate(planned) if isinstance(task, Task)}
    with SweepProgress(len(planned), list(known.values()), quiet=quiet) as progress:

        def report(task: Task, outcome: Outcome) -> None:
            run = _with_outcome(task.run, outcome)
            known[tasks[run.folder]] = run
            progress.update(run)

        if tasks:
            BACKENDS[backend]([task for task in planned if isinstance(task, Task)], jobs, report)
    result = SweepResult(tuple(over), tuple(known[place] for place in range(len(planned))))
    _write(result, folder)
    return result


def _with_outcome(run: SweepRun, outcome: Outcome) -> SweepRun:
    if isinstance(outcome, Failure):
        return replace(run, problem=outcome.problem, exit_code=outcome.exit_code)
    return replace(run, summary=outcome)


def _write(result: SweepResult, folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / TABLE_FILE).write_text(result.to_markdown() + "\n")
        (folder / NUMBERS_FILE).write_text(result.to_csv())
        _tidy(folder / UNFINISHED)
        with suppress(MissingExtraError):
            plot_sweep(result, folder / PICTURE_FILE)
    except OSError as error:
        raise RunError(f"cannot write the table of the sweep into {folder}: {error}") from error


def _tidy(unfinished: Path) -> None:
    """Remove the folders that finished runs have left empty; what a failed run wrote stays to be looked at."""
    for path in unfinished.glob("*"):
        with suppress(OSError):
            path.rmdir()
    with suppress(OSError):
        unfinished.rmdir()
