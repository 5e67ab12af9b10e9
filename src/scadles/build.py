"""The only place that turns configuration into objects."""

from __future__ import annotations

import os
from collections.abc import Callable
from urllib.parse import urlencode

import numpy as np
import torch
from torch import Tensor, nn
from torch.optim import SGD, Adam, AdamW, Optimizer

from scadles.aggregation import LearningRate, scaling_for
from scadles.batching import BatchRule, FixedBatch, RateBatch
from scadles.buffer import Buffer, BufferPolicy, Persistence, Truncation
from scadles.clock import Clock, WallClock
from scadles.config import OptimizerConfig, ProfileConfig, RunConfig, load_config
from scadles.data import Dataset, iid_shards, load_dataset
from scadles.device import Device, Learner
from scadles.errors import ConfigError
from scadles.fabric import Fabric, LocalFabric, TorchFabric
from scadles.intake import Intake
from scadles.models import build_model
from scadles.streams import Inspector, RateMeter, Source, draw_rates, open_source_url


def build_dataset(config: RunConfig) -> Dataset:
    """Load the data set that ``data`` names."""
    data = config.data
    return load_dataset(
        data.dataset,
        root=data.root,
        classes=data.classes,
        shape=data.shape,
        test_samples=data.test_samples,
        seed=config.seed,
    )


def build_source(config: RunConfig, device: int, dataset: Dataset, clock: Clock) -> Source:
    """Return the stream of one device, not opened yet; ``replay://`` gets rate and profile from the configuration."""
    try:
        url = config.stream.url.format(device=device)
    except (KeyError, IndexError, ValueError):
        raise ConfigError(
            f"stream.url = {config.stream.url!r}: only {{device}} can be filled in; write other braces doubled"
        ) from None
    if url == "replay://":
        rate = draw_rates(config.stream.rates, config.devices, config.seed)[device]
        profile = config.stream.profile
        mine = profile if isinstance(profile, ProfileConfig) else profile[device]
        parameters = mine.model_dump()
        parameters["profile"] = parameters.pop("name")
        url += "?" + urlencode({"rate": rate, "seed": config.seed, "device": device, **parameters})
    samples = _samples(dataset, device, config.devices, config.seed)
    return open_source_url(url, samples=samples, clock=clock)


def build_rule(config: RunConfig) -> BatchRule:
    """Return the batch rule."""
    batch = config.batch
    if batch.rule == "fixed":
        return FixedBatch(batch.size, batch.max_wait_s)
    return RateBatch(batch.window_s, batch.min, batch.max)


def build_policy(config: RunConfig) -> BufferPolicy:
    """Return the buffer policy."""
    return Persistence() if config.buffer.policy == "persistence" else Truncation(config.batch.window_s)


def build_intake(config: RunConfig, source: Source, dataset: Dataset, clock: Clock) -> Intake:
    """Return the way from ``source`` into the buffer."""
    return Intake(
        source,
        Inspector(dataset.shape, dataset.dtype, dataset.classes),
        Buffer(config.buffer.capacity),
        build_policy(config),
        RateMeter(),
        clock,
    )


def build_optimizer(config: OptimizerConfig, model: nn.Module) -> Optimizer:
    """Return a built-in optimizer over a model's parameters."""
    if config.name == "sgd":
        return SGD(model.parameters(), config.lr, momentum=config.momentum, weight_decay=config.weight_decay)
    kind = Adam if config.name == "adam" else AdamW
    return kind(model.parameters(), config.lr, weight_decay=config.weight_decay)


def build_learning_rate(config: RunConfig, optimizer: Optimizer) -> LearningRate:
    """Return the rule for the learning rate; its base batch is ``batch.size`` on every device."""
    lr = config.lr
    return LearningRate(
        scaling_for(optimizer) if lr.scaling == "auto" else lr.scaling,
        base_batch=config.batch.size * config.devices,
        warmup_samples=lr.warmup_samples,
        milestones=lr.milestones,
        gamma=lr.gamma,
    )


def build_learner(config: RunConfig, dataset: Dataset, model: nn.Module, optimizer: Optimizer) -> Learner:
    """Return model, optimizer and the rules of training them."""
    on_cuda = next(model.parameters()).is_cuda
    overlap = config.fabric.overlap == "on" or (config.fabric.overlap == "auto" and on_cuda)
    return Learner(
        model,
        optimizer,
        build_learning_rate(config, optimizer),
        dataset.prepare,
        mean=config.aggregation.mean,
        bucket_bytes=int(config.fabric.bucket_mb * 2**20) if overlap else None,
    )


def build_network(config: RunConfig, dataset: Dataset) -> nn.Module:
    """Return the network that ``model`` names, with its initial weights."""
    return build_model(config.model, dataset.shape, dataset.classes, config.seed)


def build_fabric(config: RunConfig, place: torch.device) -> Fabric:
    """Return the way to the other devices: torchrun's process group, or nobody for a run of one."""
    if "WORLD_SIZE" not in os.environ:
        return LocalFabric.create(1)[0]
    backend = config.fabric.backend
    if backend == "auto":
        backend = "nccl" if place.type == "cuda" else "gloo"
    return TorchFabric(backend, config.fabric.deadline_s, place, sleep=WallClock().sleep)


def build_device(
    config: RunConfig,
    dataset: Dataset,
    model: nn.Module,
    optimizer: Optimizer | None,
    fabric: Fabric,
    clock: Clock,
) -> Device:
    """Return one device, ready to start."""
    source = build_source(config, fabric.rank, dataset, clock)
    return Device(
        build_intake(config, source, dataset, clock),
        build_rule(config),
        build_learner(config, dataset, model, optimizer or build_optimizer(config.optimizer, model)),
        fabric,
        clock,
    )


def open_source(url: str, *, dataset: str = "digits", clock: Clock | None = None) -> Source:
    """Return the stream at ``url``, opened at its beginning.

    Args:
        url: for example ``replay://?rate=50&profile=bursts``.
        dataset: what ``replay://`` plays.
        clock: stream time; None is the wall clock.

    Raises:
        ConfigError: an unknown scheme or parameter.

    >>> from scadles.clock import VirtualClock
    >>> source = open_source("replay://?rate=40", clock=VirtualClock())
    >>> len(source.poll(max_records=100, timeout_s=2.0))
    80
    """
    played = build_dataset(load_config({"data": {"dataset": dataset}, "steps": 1}))
    source = open_source_url(url, samples=_samples(played, 0, 1, 0), clock=clock or WallClock())
    source.open(0)
    return source


def _samples(dataset: Dataset, device: int, devices: int, seed: int) -> Callable[[np.ndarray], tuple[Tensor, Tensor]]:
    """Return the way from a device's stream offsets to samples."""
    shard = iid_shards(dataset.train_size, devices, seed)[device]
    return lambda offsets: dataset.samples(shard.indices(offsets))
