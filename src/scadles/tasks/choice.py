"""From settings to a task."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

from scadles.config import PartTask, RunConfig, TaskConfig
from scadles.errors import ConfigError, did_you_mean
from scadles.importing import call_with, import_callable
from scadles.tasks.kinds import KINDS, Form, Samples
from scadles.tasks.library_metrics import LibraryMetric, is_library_metric
from scadles.tasks.losses import find_loss
from scadles.tasks.metrics import Metric
from scadles.tasks.multitask import Weighted, multitask, taking_apart
from scadles.tasks.named_metrics import find_metric, metric_names
from scadles.tasks.task import Goal, Task

PART_KINDS = ("classification", "multilabel", "regression", "segmentation")


def make_task(config: RunConfig, data: Samples) -> Task:
    """Return the task that settings describe, for one data set.

    Args:
        config: ``task``, and what is to be reached.
        data: what samples and targets are.

    Raises:
        ConfigError: the data set does not suit it, an unknown loss, metric or argument, or a target that is none of its
            metrics.
    """
    settings = config.task
    if settings.parts:
        task = _of_parts(settings, data)
    else:
        task = _built_in(settings, data) if settings.kind in KINDS else _own(settings, data)
    if data.target.parts:
        task = taking_apart(task, data.target.unpack)
    return _with_goal(task, config)


def _of_parts(settings: TaskConfig, data: Samples) -> Task:
    names = [name for name, _ in data.target.parts]
    if sorted(names) != sorted(settings.parts):
        found = f"the parts {', '.join(names)}" if names else data.target.describe()
        raise ConfigError(f"task.parts names {', '.join(settings.parts)}: {data.name} has {found}; name each part once")
    if settings.metrics:
        raise ConfigError("task.metrics: with task.parts each part names its own; leave it out")
    tasks = {name: _of_part(name, settings.parts[name], data.of(name)) for name in names}
    own = find_loss(settings.loss, settings.loss_options).mean if settings.loss else None
    return multitask(tasks, data.target.layout, own)


def _of_part(name: str, settings: PartTask, data: Samples) -> Weighted:
    setting = f"task.parts.{name}"
    if settings.kind not in PART_KINDS:
        raise ConfigError(
            f"{setting}.kind = {settings.kind}: a part of a target is told by {', '.join(PART_KINDS)}"
            f"{did_you_mean(settings.kind, PART_KINDS)}"
        )
    fields = {field: getattr(settings, field) for field in ("kind", "loss", "loss_options", "metrics")}
    try:
        task = _built_in(TaskConfig(**fields), data)
    except ConfigError as error:
        raise ConfigError(f"{setting}: {error}") from error
    if task.mean_over is not None:
        raise ConfigError(
            f"{setting}.loss_options: with class weights or ignored labels this part's mean would be over something "
            "else than that of the others; leave them out, or give task.loss as MODULE:CALLABLE"
        )
    return Weighted(task, settings.weight)


def _built_in(settings: TaskConfig, data: Samples) -> Task:
    kind = KINDS[settings.kind]
    if settings.horizon != 1 and settings.kind != "forecasting":
        raise ConfigError(f"task.horizon = {settings.horizon}: it belongs to forecasting; leave it out")
    form = kind.form(data)
    loss = find_loss(settings.loss or kind.loss, settings.loss_options)
    named = settings.loss is None or ":" not in settings.loss
    metrics = [_metric(name, settings.kind, form) for name in settings.metrics or kind.metrics]
    return Task(
        loss=loss.mean,
        metrics=metrics,
        kind=settings.kind,
        outputs=form.outputs,
        pair=form.pair,
        fit=form.fit,
        sample_losses=loss.each,
        mean_over=loss.mean_over,
        classes=form.classes,
        in_own_units=form.in_own_units,
        fits_loss=named,
    )


def _metric(name: str, kind: str, form: Form) -> Metric:
    if ":" in name:
        counts = {"num_classes": form.labels, "num_labels": form.values, "num_outputs": form.values}
        made = call_with("task.metrics", name, import_callable("task.metrics", name, ()), counts)
        if is_library_metric(made):
            return LibraryMetric(made, name)
        if not isinstance(made, Metric):
            raise ConfigError(
                f"task.metrics {name!r} returned {type(made).__name__}, not a scadles.tasks.Metric, nor one of "
                "torchmetrics"
            )
        return made
    found = find_metric(name, kind, form)
    if found is None:
        raise ConfigError(f"task.metrics: {kind} has no metric {name!r}{did_you_mean(name, metric_names(kind, form))}")
    return found


def _own(settings: TaskConfig, data: Samples) -> Task:
    said = [name for name in ("loss", "loss_options", "metrics") if getattr(settings, name)]
    if said:
        raise ConfigError(f"task.{said[0]}: a task of your own ({settings.kind}) says it itself; leave it out")
    make = import_callable("task.kind", settings.kind, KINDS)
    offered: dict[str, Any] = {"shape": data.shape, "target": data.target}
    task = call_with("task.kind", settings.kind, make, offered)
    if not isinstance(task, Task):
        raise ConfigError(f"task.kind {settings.kind!r} returned {type(task).__name__}, not a scadles.Task")
    if not task.metrics:
        raise ConfigError(f"task.kind {settings.kind!r}: it has no metric; give it one, for example tasks.MeanLoss()")
    return dataclasses.replace(task, kind=settings.kind)


def _with_goal(task: Task, config: RunConfig) -> Task:
    """Return the task with what is to be reached, whose metric comes first."""
    if config.target_accuracy is not None:
        return _aimed(task, "target_accuracy", "accuracy", config.target_accuracy, at_least=True)
    if config.target is None:
        return task
    name = config.target.metric or task.metrics[0].name
    return _aimed(task, "target", name, config.target.value, at_least=config.target.at_least is not None)


def _aimed(task: Task, setting: str, name: str, limit: float, *, at_least: bool) -> Task:
    names = [metric.name for metric in task.metrics]
    if name not in names:
        raise ConfigError(f"{setting}: task {task.kind} measures {_listed(names)}, not {name}; name it in task.metrics")
    metric = task.metrics[names.index(name)]
    if metric.higher_is_better != at_least:
        way, word = ("more", "at_least") if metric.higher_is_better else ("less", "at_most")
        raise ConfigError(f"{setting}: of {name} {way} is better; write {{metric: {name}, {word}: {limit:g}}}")
    others = [other for other in task.metrics if other is not metric]
    goal = Goal(name, metric.higher_is_better, limit)
    return dataclasses.replace(task, metrics=[metric, *others], goal=goal)


def _listed(names: Sequence[str]) -> str:
    return " and ".join(names) if len(names) < 3 else f"{', '.join(names[:-1])} and {names[-1]}"
