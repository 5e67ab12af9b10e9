"""Runs side by side."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import yaml

from scadles.config.bounded_yaml import TooMuchYAMLError, parse_yaml
from scadles.errors import ConfigError
from scadles.observe.console import human_bytes, human_count, markdown, plain_line, print_table, print_warning
from scadles.observe.rundir import CONFIG_FILE, RunFolder
from scadles.observe.summary import Away, DeviceSummary, Samples, Summary, why_ended

_NOTHING = "–"
_NOT_REACHED = "not reached"
_MOST_AWAY = 4


@dataclass(frozen=True)
class Comparison:
    """A table with one line for each quantity and one column for each run.

    Attributes:
        names: the runs, in the order they were given; the first is the baseline of the speed-up.
        rows: a quantity's name and its value in each run.
        warnings: what makes these runs hard to compare.
    """

    names: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    warnings: tuple[str, ...]

    def to_markdown(self) -> str:
        """Return the table and its warnings as Markdown."""
        lines = [("", *self.names), ("---", *("---:" for _ in self.names)), *self.rows]
        table = ["| " + " | ".join(map(markdown, line)) + " |" for line in lines]
        return "\n".join([*(f"> **Warning:** {markdown(text)}\n" for text in self.warnings), *table])

    def print(self) -> None:
        """Print the table and its warnings to standard output."""
        for text in self.warnings:
            print_warning(text)
        print_table("", ("", *map(plain_line, self.names)), self.rows)


def compare(folders: Iterable[RunFolder | Path | str]) -> Comparison:
    """Put runs side by side; the speed-up is against the first of them.

    Raises:
        ConfigError: no run was given.
        DataError: a folder is not one of a finished run.
    """
    runs = [folder if isinstance(folder, RunFolder) else RunFolder(folder) for folder in folders]
    if not runs:
        raise ConfigError("there is nothing to compare: name one or more run folders")
    names = _names(runs)
    what = _metric_of(runs)
    rows = [(title.format(what), *(value(run.summary) for run in runs)) for title, value in _QUANTITIES]
    _insert_after(f"best {what}", rows, _said(_metric_rows(runs)))
    _insert_after(f"best {what}", rows, _said(_closer_rows(runs)))
    rows += _said([*_shared_rows(runs), *_special_rows(runs)])
    if len(runs) > 1:
        speed_up = (f"speed-up against {names[0]}", *(_speed_up(runs[0].summary, run.summary) for run in runs))
        _insert_after(_TIME_TO_TARGET, rows, [speed_up])
    return Comparison(names, tuple(rows), _warnings(runs, names))


def _insert_after(title: str, rows: list[tuple[str, ...]], more: Sequence[tuple[str, ...]]) -> None:
    place = [row[0] for row in rows].index(title) + 1
    rows[place:place] = more


def _said(rows: Iterable[tuple[str, ...]]) -> list[tuple[str, ...]]:
    """Leave out rows in which no run says anything."""
    return [row for row in rows if any(cell != _NOTHING for cell in row[1:])]


def _metric_of(runs: Sequence[RunFolder]) -> str:
    """Return the metric of all these runs; where it differs, what stands for it."""
    metrics = {run.summary.outcome.metric for run in runs}
    return metrics.pop() if len(metrics) == 1 else "metric"


def _metric_rows(runs: Sequence[RunFolder]) -> list[tuple[str, ...]]:
    """Return what else tests measured, and whose metric is whose where they differ."""
    outcomes = [run.summary.outcome for run in runs]
    rows = [("metric", *(outcome.metric for outcome in outcomes))] if _metric_of(runs) == "metric" else []
    names = dict.fromkeys(name for outcome in outcomes for name in outcome.metrics if name != outcome.metric)
    return rows + [(f"final {name}", *(_number(one.metrics.get(name)) for one in outcomes)) for name in names]


def _closer_rows(runs: Sequence[RunFolder]) -> list[tuple[str, ...]]:
    """Return what accuracy looks like from closer: label by label, and on the devices' own streams."""
    summaries = [run.summary for run in runs]
    return [
        ("worst label", *(_label(s, min) for s in summaries)),
        ("best label", *(_label(s, max) for s in summaries)),
        ("accuracy on own streams", *(_online(s) for s in summaries)),
    ]


def _label(run: Summary, choose: Callable[[Iterable[float]], float]) -> str:
    """Return the worst or best label and the accuracy on it at the last test."""
    tested = [accuracy for accuracy in run.per_label if accuracy is not None]
    if not tested:
        return _NOTHING
    chosen = choose(tested)
    others = tested.count(chosen) - 1
    return f"{run.per_label.index(chosen)}: {_accuracy(chosen)}" + (f" (and {others} more)" if others else "")


def _online(run: Summary) -> str:
    """Return the accuracy on samples before they were trained on, and the range over devices."""
    if run.online_accuracy is None:
        return _NOTHING
    known = [row.online_accuracy for row in run.per_device if row.online_accuracy is not None]
    span = f" ({min(known):.2f} to {max(known):.2f})" if len(known) > 1 else ""
    return _accuracy(run.online_accuracy) + span


def _shared_rows(runs: Sequence[RunFolder]) -> list[tuple[str, ...]]:
    """Return what data injection took from devices."""
    shared = [run.summary.shared for run in runs]
    injected = [_NOTHING if run.summary.shared is None else human_count(run.summary.samples.injected) for run in runs]
    return [
        ("samples of others trained", *injected),
        ("samples shared", *(_NOTHING if s is None else human_count(s.samples) for s in shared)),
        ("distinct records that left", *(_NOTHING if s is None else human_count(s.distinct_records) for s in shared)),
        ("samples withheld", *(_NOTHING if s is None else human_count(s.withheld) for s in shared)),
        ("shared, counted once", *(_NOTHING if s is None else human_bytes(s.payload_bytes) for s in shared)),
        ("shared, as sent", *(_NOTHING if s is None else human_bytes(s.sent_bytes) for s in shared)),
    ]


def _special_rows(runs: Sequence[RunFolder]) -> list[tuple[str, ...]]:
    """Return what only runs with compression, and simulated ones, have to say."""
    summaries = [run.summary for run in runs]
    limits = [_NOTHING if s.stream_limit_s is None else _seconds(s.stream_limit_s) for s in summaries]
    shares = [_NOTHING if s.stream_efficiency is None else f"{s.stream_efficiency:.0%}" for s in summaries]
    trained = [s.simulated.trained if s.simulated else _NOTHING for s in summaries]
    charged = [s.simulated.charged if s.simulated else _NOTHING for s in summaries]
    cnc = [_NOTHING if s.compressed is None else f"{s.compressed.cnc:.3f}" for s in summaries]
    kept = [
        _NOTHING if s.compressed is None or s.compressed.kept_energy is None else f"{s.compressed.kept_energy:.3f}"
        for s in summaries
    ]
    unusual = any(s.tested_on != "dataset" for s in summaries)
    tested_on = [s.tested_on if unusual else _NOTHING for s in summaries]
    tested, unlabelled = ([getattr(s.samples, name) for s in summaries] for name in ("tested", "unlabelled"))
    again = [sum(device.duplicates for device in s.per_device) for s in summaries]
    missing = [sum(device.missing for device in s.per_device) for s in summaries]
    return [
        ("devices away, samples held", *(_away(s) for s in summaries)),
        ("tested on", *tested_on),
        ("samples for tests alone", *(human_count(count) if count else _NOTHING for count in tested)),
        ("samples without target in time", *(human_count(count) if count else _NOTHING for count in unlabelled)),
        ("records that came again", *(human_count(count) if count else _NOTHING for count in again)),
        ("records that never came", *(human_count(count) if count else _NOTHING for count in missing)),
        ("window chosen", *(_window(s) for s in summaries)),
        ("learning rate chosen", *(_rate(s) for s in summaries)),
        ("noise scale, samples", *(_noise_scale(s) for s in summaries)),
        ("steps compressed (CNC)", *cnc),
        ("share sent, in steps", *(_ratios(s) for s in summaries)),
        ("energy picked of it", *kept),
        ("limit of the streams", *limits),
        ("reached of it", *shares),
        ("trained", *trained),
        ("charged for", *charged),
    ]


def _ratios(run: Summary) -> str:
    """Return how many steps sent which share of the gradient, where that was chosen."""
    if run.compressed is None or run.compressed.ratios is None:
        return _NOTHING
    return ", ".join(f"{ratio}: {human_count(steps)}" for ratio, steps in run.compressed.ratios.items())


def _window(run: Summary) -> str:
    """Return the window at the end where one was chosen, and how often it changed."""
    window = run.window
    return _NOTHING if window is None else f"{window.window_s:.3g} s ({_changes(window.changes)})"


def _rate(run: Summary) -> str:
    """Return the factor of the learning rate at the end where one was chosen, and how often it changed."""
    rate = run.rate
    return _NOTHING if rate is None else f"x {rate.factor:.3g} ({_changes(rate.changes)})"


def _changes(count: int) -> str:
    return f"{count} change{'' if count == 1 else 's'}"


def _noise_scale(run: Summary) -> str:
    """Return the noise scale at the end, and between what it lies, where it was measured."""
    window = run.window
    if window is None or window.noise_scale is None or window.low is None:
        return _NOTHING
    high = "more" if window.high is None else human_count(round(window.high))
    return f"{human_count(round(window.noise_scale))} ({human_count(round(window.low))} to {high})"


def _away(run: Summary) -> str:
    """Return which devices did not go on, and what they held."""
    if not run.away:
        return _NOTHING
    names = [str(one.device) for one in run.away[:_MOST_AWAY]] + ["..."] * (len(run.away) > _MOST_AWAY)
    return f"{', '.join(names)}: {human_count(sum(one.samples.held for one in run.away))}"


def _parts(run: Summary) -> list[DeviceSummary | Away]:
    return [*run.per_device, *run.away]


def balanced(samples: Iterable[Samples]) -> bool:
    """Return whether every received sample is accounted for."""
    return all(s.balanced for s in samples)


def _names(runs: Sequence[RunFolder]) -> tuple[str, ...]:
    short = [run.name for run in runs]
    return tuple(name if short.count(name) == 1 else str(run.path) for name, run in zip(short, runs, strict=True))


def _seconds(seconds: float) -> str:
    """Return seconds in one unit for all runs, so that the eye can compare them."""
    return f"{seconds:,.1f} s" if seconds >= 1 else f"{seconds:.3g} s"


def _accuracy(value: float | None) -> str:
    return _NOTHING if value is None else f"{value:.4f}"


def _number(value: float | None) -> str:
    """Return the value of a metric that need not be a share: four digits behind the point, or six that count."""
    if value is None:
        return _NOTHING
    return f"{value:.4f}" if 1e-3 <= abs(value) < 1e4 or value == 0 else f"{value:.6g}"


def _time_to_target(run: Summary) -> str:
    if run.outcome.target is None:
        return _NOTHING
    return _NOT_REACHED if run.time_to_target_s is None else _seconds(run.time_to_target_s)


def _speed_up(baseline: Summary, run: Summary) -> str:
    """Return how many times sooner ``run`` got there; a lower bound where the baseline never did."""
    one, other = run.outcome, baseline.outcome
    if (one.metric, one.target) != (other.metric, other.target) or not run.time_to_target_s:
        return _NOTHING
    if baseline.time_to_target_s is not None:
        return f"{baseline.time_to_target_s / run.time_to_target_s:.2f}×"
    return f"over {baseline.time_s / run.time_to_target_s:.2f}×" if baseline.time_s > run.time_to_target_s else _NOTHING


_TIME_TO_TARGET = "stream time to target"
_QUANTITIES: tuple[tuple[str, Callable[[Summary], str]], ...] = (
    ("method", lambda s: s.method),
    ("devices", lambda s: human_count(s.devices)),
    ("steps", lambda s: human_count(s.steps)),
    ("target {}", lambda s: _number(s.outcome.target)),
    (_TIME_TO_TARGET, _time_to_target),
    ("stream time", lambda s: _seconds(s.time_s)),
    ("final {}", lambda s: _number(s.outcome.final)),
    ("best {}", lambda s: _number(s.outcome.best)),
    ("waiting for samples", lambda s: _seconds(s.seconds.wait)),
    ("computing", lambda s: _seconds(s.seconds.compute)),
    ("synchronising", lambda s: _seconds(s.seconds.sync)),
    ("samples trained", lambda s: human_count(s.samples.trained)),
    ("samples dropped", lambda s: human_count(s.samples.dropped)),
    ("samples held", lambda s: human_count(s.samples.held)),
    ("samples rejected", lambda s: human_count(s.samples.rejected)),
    ("largest buffer and lag", lambda s: human_count(s.buffer_max_samples)),
    ("bytes sent", lambda s: human_bytes(s.bytes_sent)),
    ("model", lambda s: s.model_sha256[:8] or _NOTHING),
    (
        "ledger balanced",
        lambda s: (
            "yes"
            if balanced([s.samples, *(row.samples for row in s.per_device), *(one.samples for one in s.away)])
            else "NO"
        ),
    ),
    ("ended by", lambda s: why_ended(s.ended_by, s.steps)),
)


def _warnings(runs: Sequence[RunFolder], names: Sequence[str]) -> tuple[str, ...]:
    """Name what should be equal among runs that are compared, and is not."""
    facts: dict[str, list[str]] = {
        field: [str(getattr(run.summary, field)) for run in runs]
        for field in ("target_accuracy", "seed", "dataset", "model", "clock")
    }
    outcomes = [run.summary.outcome for run in runs]
    facts["what they are tested on"] = [run.summary.tested_on for run in runs]
    facts |= {"task": [o.task for o in outcomes], "metric": [o.metric for o in outcomes]}
    if any(o.metric != "accuracy" for o in outcomes):
        del facts["target_accuracy"]
        facts["target"] = [str(o.target) for o in outcomes]
    configs = [_config(run) for run in runs]
    unread = [name for name, config in zip(names, configs, strict=True) if not config] if len(runs) > 1 else []
    if all(configs):
        for section in ("stream", "clock"):
            parts = _differing([config.get(section) for config in configs])
            facts[f"{section} settings"] = [json.dumps(part, sort_keys=True) for part in parts]
    unknown = [f"settings are not compared: {CONFIG_FILE} of {', '.join(unread)} cannot be read"] if unread else []
    differences = [
        f"the runs differ in {fact}: " + ", ".join(f"{n} {v}" for n, v in zip(names, values, strict=True))
        for fact, values in facts.items()
        if len(set(values)) > 1
    ]
    plain = [
        f"{name}: what travelled was neither encrypted nor authenticated (--insecure)"
        for name, run in zip(names, runs, strict=True)
        if run.summary.insecure
    ]
    return (*unknown, *differences, *plain, *(gap for run in runs for gap in run.gaps()))


def _differing(sections: Sequence[object]) -> list[object]:
    """Return of each section what is not the same in all of them.

    >>> _differing([{"end": "wait", "rates": 50}, {"end": "wait", "rates": 9}])
    [{'rates': 50}, {'rates': 9}]
    """
    trees = [section for section in sections if isinstance(section, dict)]
    if len(trees) < len(sections):
        return list(sections)
    same = [name for name in trees[0] if all(name in tree and tree[name] == trees[0][name] for tree in trees)]
    return [{name: value for name, value in tree.items() if name not in same} for tree in trees]


def _config(run: RunFolder) -> dict[str, object]:
    try:
        tree = parse_yaml(run.config_text)
    except (yaml.YAMLError, TooMuchYAMLError):
        return {}
    return tree if isinstance(tree, dict) else {}
