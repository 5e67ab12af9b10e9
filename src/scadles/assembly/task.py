"""From settings and a data set to what is learnt of it."""

from __future__ import annotations

import torch

from scadles.config import RunConfig
from scadles.data import Dataset, Preparation, Scale
from scadles.tasks import Task, make_task
from scadles.tasks.kinds import Samples, scale_told


def build_task(config: RunConfig, dataset: Dataset) -> Task:
    """Return what is learnt of a data set.

    Raises:
        ConfigError: the data set does not suit it.
    """
    return make_task(config, _as_the_task_sees_it(config, dataset))


def build_preparation(config: RunConfig, dataset: Dataset) -> Preparation:
    """Return what samples and answers go through, for whoever uses the model later."""
    parts = {name: part.kind for name, part in config.task.parts.items()}
    told = scale_told(config.task.kind, _as_the_task_sees_it(config, dataset), parts)
    answers = {name: _scale(part) for name, part in told.items()} if isinstance(told, dict) else _scale(told)
    return Preparation(dataset.preparation, answers)


def _scale(told: tuple[torch.Tensor, torch.Tensor] | None) -> Scale:
    return Scale() if told is None else Scale(told[0].tolist(), told[1].tolist())


def _as_the_task_sees_it(config: RunConfig, dataset: Dataset) -> Samples:
    return Samples(
        dataset.name,
        tuple(dataset.shape) if dataset.layout is None else dataset.layout.shapes,
        dataset.target,
        vocabulary=dataset.vocabulary,
        scale=dataset.target_scale,
        horizon=config.task.horizon,
    )
