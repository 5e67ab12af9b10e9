"""Which way of making gradients suits a model: the fastest that is exact."""

from __future__ import annotations

from scadles.config import RunConfig
from scadles.device.learner import Learner
from scadles.errors import ConfigError
from scadles.exchange.reduction import ClusterExchange, JudgedClusterExchange
from scadles.models import Nothing
from scadles.simulation.batchnorm import ClusterStatistics
from scadles.simulation.gradients import (
    FusedGradients,
    Gradients,
    Lookup,
    NoGradients,
    mixes_samples,
)
from scadles.simulation.measured import MeasuredGradients
from scadles.simulation.per_device import BatchedGradients, LoopedGradients, SeparateGradients
from scadles.simulation.sketched import SketchedGradients
from scadles.tasks import Task


def choose_gradients(
    config: RunConfig, learner: Learner, lookup: Lookup, task: Task, statistics: ClusterStatistics
) -> Gradients:
    """Return the way that ``simulation.gradients`` asks for, with what is measured beside it where that is wanted.

    Raises:
        ConfigError: ``fused`` was asked for and would not be exact.
    """
    looped = LoopedGradients(learner, lookup, task, statistics)
    chosen = _choose(config, learner, lookup, task, looped)
    if learner.statistics is None or isinstance(chosen, NoGradients):
        return chosen
    return MeasuredGradients(chosen, lookup, learner.statistics)


def _choose(config: RunConfig, learner: Learner, lookup: Lookup, task: Task, looped: LoopedGradients) -> Gradients:
    """Return the way that ``simulation.gradients`` asks for; in steps that are measured, each device's by itself."""
    if isinstance(learner.model, Nothing):
        return NoGradients(learner)
    measuring = learner.measuring
    if isinstance(learner.exchange, ClusterExchange | JudgedClusterExchange):
        if measuring is None:
            return SeparateGradients(learner.exchange, looped)
        sketched = SketchedGradients(looped, looped, learner, measuring, config.devices)
        return SeparateGradients(learner.exchange, sketched)
    usual = _fastest(config, learner, lookup, task, looped)
    return usual if measuring is None else SketchedGradients(usual, looped, learner, measuring, config.devices)


def _fastest(config: RunConfig, learner: Learner, lookup: Lookup, task: Task, looped: LoopedGradients) -> Gradients:
    """Return the way that ``simulation.gradients`` asks for; ``auto`` fuses where that is exact.

    Fusing is exact for a loss that is the mean of samples' losses and a model in which no sample depends on others, and
    so is batching by ``torch.func``, which fills batches up. The choice depends on nothing but the model and the
    settings, so that one seed gives one result.

    Raises:
        ConfigError: ``fused`` was asked for and would not be exact.
    """
    if task.sample_losses is None:
        if config.simulation.gradients == "fused":
            raise ConfigError(
                "simulation.gradients = fused: only a loss that is a mean of samples' losses can be fused, such as "
                "cross-entropy without class weights; use auto"
            )
        return looped
    mixing = mixes_samples(learner.model, lookup.example()[0])
    if config.simulation.gradients == "fused" and mixing:
        raise ConfigError(
            f"simulation.gradients = fused: in model {config.model} samples of a batch depend on each other (as "
            "BatchNorm makes them), so devices cannot share a batch; use auto"
        )
    if mixing:
        return looped
    if config.simulation.gradients != "per-device":
        return FusedGradients(learner, lookup, looped, task)
    return BatchedGradients(learner, lookup, looped, task) if BatchedGradients.suits(learner) else looped
