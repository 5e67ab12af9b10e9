"""What a sweep has to do: its combinations, checked, and what of them is there already."""

from __future__ import annotations

import hashlib
import itertools
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from scadles.config import ConfigLike, RunConfig, load_config, with_devices
from scadles.errors import ConfigError
from scadles.observe import CONFIG_FILE, SUMMARY_FILE, RunFolder, Summary, SweepRun
from scadles.observe.sweep_table import as_yaml

UNFINISHED = "unfinished"
_DIALS = ("method", "cost.profile")
_LONGEST_NAME = 100


@dataclass(frozen=True)
class Task:
    """A run that is still to be made.

    Attributes:
        run: what is known of it.
        config: its settings, whole.
        workshop: where it is made, to be moved to ``run.folder`` when it is whole.
    """

    run: SweepRun
    config: RunConfig
    workshop: Path


def plan(
    config: ConfigLike, over: Mapping[str, Sequence[Any]], settings: Sequence[str], seeds: int, out: Path
) -> list[SweepRun | Task]:
    """Return all runs, combination by combination: those that are finished, cannot be, or are still to be made.

    Args:
        config: the settings that all combinations share.
        over: the swept settings, dotted, and the values of each.
        settings: ``key=value`` over ``config``.
        seeds: runs of each combination, with the configuration's seed and those after it.
        out: the folder of the sweep.

    Raises:
        ConfigError: nothing to sweep, a value given twice, no combination that can work, or a folder that holds
            something else.
    """
    _check(config, over)
    planned: list[SweepRun | Task] = []
    problems: list[str] = []
    for values in itertools.product(*over.values()):
        combination = dict(zip(over, values, strict=True))
        folder = out / folder_name(combination)
        try:
            first = with_devices(load_config(config, [*settings, *_overrides(combination)]))
        except ConfigError as error:
            problems.append(str(error))
            planned.append(SweepRun(combination, 0, folder, problem=str(error), exit_code=error.exit_code))
        else:
            planned += _runs(combination, first, seeds, folder, out)
    if len(problems) == len(planned):
        # what is wrong with all of them is wrong with the sweep: an unknown setting, say
        raise ConfigError(problems[0])
    return planned


def folder_name(combination: Mapping[str, Any]) -> str:
    """Return the folder of a combination; where it cannot be spelled out, a few digits tell it from others.

    >>> folder_name({"batch.window_s": 0.5, "method": "ddl"})
    'batch.window_s=0.5,method=ddl'
    >>> folder_name({"stream.rates": [50, 38]})
    'stream.rates=50_38-3fdd16dd'
    """
    exact = ",".join(f"{key}={as_yaml(value)}" for key, value in combination.items())
    safe = ",".join(
        f"{key}={re.sub(r'[^A-Za-z0-9.+-]+', '_', as_yaml(value)).strip('_')}" for key, value in combination.items()
    )
    if safe == exact and len(safe) <= _LONGEST_NAME:
        return safe
    return f"{safe[:_LONGEST_NAME]}-{hashlib.sha256(exact.encode()).hexdigest()[:8]}"


def _check(config: ConfigLike, over: Mapping[str, Sequence[Any]]) -> None:
    if not over:
        raise ConfigError("there is nothing to sweep: give a setting and its values, e.g. --over batch.window_s=0.5,1")
    for key, values in over.items():
        if key == "seed":
            raise ConfigError("seed is not swept: give the number of --seeds, counted from the configuration's seed")
        if key in _DIALS and isinstance(config, RunConfig):
            raise ConfigError(
                f"{key} fills in what a configuration leaves open, and a RunConfig leaves nothing open: "
                "sweep it over a file or a mapping"
            )
        texts = [as_yaml(value) for value in values]
        if not texts:
            raise ConfigError(f"{key} has no values to sweep")
        for text in texts:
            if texts.count(text) > 1:
                raise ConfigError(f"{key} = {text} is given twice")


def _overrides(combination: Mapping[str, Any]) -> list[str]:
    return [f"{key}={as_yaml(value)}" for key, value in combination.items()]


def _runs(
    combination: Mapping[str, Any], first: RunConfig, seeds: int, folder: Path, out: Path
) -> Iterator[SweepRun | Task]:
    for seed in range(first.seed, first.seed + seeds):
        config = first.model_copy(update={"seed": seed})
        run = SweepRun(combination, seed, folder / f"seed-{seed}")
        summary = _finished(run.folder, config)
        if summary is not None:
            yield SweepRun(combination, seed, run.folder, summary, reused=True)
        else:
            yield Task(run, config, out / UNFINISHED / folder.name / run.folder.name)


def _finished(folder: Path, config: RunConfig) -> Summary | None:
    """Return what a run came to that is there already; None where there is none.

    Raises:
        ConfigError: the folder holds something else.
    """
    try:
        if not folder.exists():
            return None
    except OSError as error:
        raise ConfigError(f"{folder} cannot be a run folder: {error.strerror}; choose another --out") from None
    if not (folder / SUMMARY_FILE).exists():
        raise ConfigError(f"{folder} is in the way, and no finished run: remove it, or choose another --out")
    found = load_config(folder / CONFIG_FILE)
    for name in RunConfig.model_fields:
        before, wanted = (tree.model_dump(mode="json")[name] for tree in (found, config))
        if before != wanted:
            raise ConfigError(
                f"{folder} holds a run with other settings ({name} was {before!r} and is now {wanted!r}): "
                "choose another --out, or remove it"
            )
    return RunFolder(folder).summary
