"""The only place that turns configuration into objects."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.optim import SGD, Optimizer

from scadles.assembly.exchange import build_exchange, build_report_check, compressors_of
from scadles.assembly.injection import build_injection, build_sample_exchange, build_senders, injects
from scadles.assembly.optimizer import build_optimizer
from scadles.assembly.streams import build_late_source, build_source
from scadles.assembly.task import build_task as build_task
from scadles.clock import Clock, VirtualClock, WallClock
from scadles.config import RunConfig, load_config
from scadles.data import Columns, Dataset, JoinedPartition, NoDataset, Partition, load_dataset, make_partition
from scadles.data.running import RunningStatistics
from scadles.device.batching import BatchRule, FixedBatch, RateBatch, ShrunkBatch
from scadles.device.buffer import Buffer, BufferPolicy, Persistence, Truncation
from scadles.device.connected import ConnectedDevice
from scadles.device.device import Device
from scadles.device.holdout import Holdout
from scadles.device.intake import Intake
from scadles.device.learner import Learner
from scadles.device.managed import find_parameters
from scadles.device.measuring import Measuring
from scadles.device.optimizers import adopt, parts_of
from scadles.device.pace import WindowRule
from scadles.device.rate import AutoRate
from scadles.device.sliding_sums import SlidingSums
from scadles.device.transform import Transform
from scadles.device.window import AutoWindow
from scadles.errors import ConfigError, RunError
from scadles.exchange.aggregation import AdaptiveRate, GradientExchange, LearningRate, scaling_for
from scadles.exchange.aggregation.learning_rate import Scaling
from scadles.fabric import ElasticFabric, Fabric, LocalFabric, TorchFabric
from scadles.importing import import_callable
from scadles.models import BUILT_IN, build_model, convert_batchnorm
from scadles.records import Records
from scadles.streams import Inspector, RateMeter, Samples, Source, draw_rates, open_source_url
from scadles.streams.codec import Codec, make_codec
from scadles.streams.late import KeyedCodec
from scadles.streams.python import Stream
from scadles.streams.quarantine import Quarantine, quarantine_path
from scadles.streams.rejections import RejectionLimit
from scadles.structures import map_tensors
from scadles.targets import TargetType
from scadles.tasks import targets_of

_INSPECTED_AT_ONCE = 4096
_MOST_MOMENTUM = 0.99  # over which changes of the learning rate are spread
_DEADLINE_SHARE = 0.5  # that a window may take, so that nobody is given up who gathers


def build_dataset(config: RunConfig) -> Dataset:
    """Load the data set that ``data`` names, with the targets that the task reads."""
    data, codec = config.data, config.stream.codec
    if data.dataset == "none" and codec.shape is not None:
        return NoDataset(
            codec.shape,
            getattr(torch, codec.dtype or "float32"),
            data.classes if "classes" in data.model_fields_set else None,
            str(targets_of(config.task.kind)),
            data.target_shape,
        )
    return load_dataset(
        data.dataset,
        root=data.root,
        classes=data.classes,
        shape=data.shape,
        test_samples=data.test_samples,
        seed=config.seed,
        targets=targets_of(config.task.kind, {name: part.kind for name, part in config.task.parts.items()}),
        normalize=data.normalize == "dataset",
        columns=Columns(data.features, data.targets, data.window),
        tests=config.tested_on == "dataset",
    )


def build_inspector(dataset: Dataset) -> Inspector:
    """Return what looks at records before they are trained on."""
    form = dataset.shape, dataset.dtype
    return Inspector(*form, target=dataset.target, below=dataset.vocabulary, layout=dataset.layout)


def build_codec(config: RunConfig, dataset: Dataset) -> Codec:
    """Return how the messages of a live stream are read and written, without targets where these come later."""
    later = config.stream.labels is not None
    target = TargetType.none() if later else dataset.target
    codec = make_codec(config.stream.codec, dataset.shape, dataset.dtype, target=target, layout=dataset.layout)
    return KeyedCodec(codec) if later else codec


def build_quarantine(config: RunConfig, device: int, run_dir: Path | None) -> Quarantine | None:
    """Return where a device keeps examples of rejected records; None without a run folder."""
    if run_dir is None:
        return None
    return Quarantine(quarantine_path(run_dir, device), config.stream.quarantine_mb, device)


def build_transform(config: RunConfig, dataset: Dataset) -> Transform | None:
    """Return what becomes of samples before they are trained on, tried out on one; None: they stay as they are.

    Raises:
        ConfigError: there is no such function, it raises, or returns samples of another form.
    """
    name = config.data.transform
    if name is None:
        return None
    transform = Transform(import_callable("data.transform", name, ()), name, config.seed, dataset.layout)
    try:
        transform(dataset.samples(np.arange(1))[0], 0, 0)
    except RunError as error:
        raise ConfigError(str(error)) from error
    return transform


def build_rule(config: RunConfig) -> BatchRule:
    """Return the batch rule, for fewer own samples where those of others are to take their place."""
    batch = config.batch
    rule: BatchRule = RateBatch(batch.window_s, batch.min, batch.max)
    if batch.rule == "fixed":
        rule = FixedBatch(batch.size, batch.max_wait_s)
    if config.injection.batch == "constant" and injects(config):
        rule = ShrunkBatch(rule, build_injection(config).growth)
    return rule


def build_measuring(config: RunConfig, exchange: GradientExchange, optimizer: Optimizer) -> Measuring | None:
    """Return what is measured of steps; None where nothing goes by that."""
    batch, fabric, rate = config.batch, config.fabric, _build_rate(config, optimizer)
    if batch.window == "fixed":
        return Measuring(rate=rate) if rate is not None or config.lr.scaling == "adascale" else None
    rule = WindowRule(
        min(batch.min, config.buffer.capacity),
        min(batch.max, config.buffer.capacity),
        price_s=batch.step_cost_s,
        keeps_all=config.buffer.policy == "persistence",
        longest_s=fabric.deadline_s * config.clock.speed * _DEADLINE_SHARE,
    )
    compressors = compressors_of(exchange) if config.compression.ratio == "auto" else ()
    # the batch for which the learning rate is meant is one that somebody found of use
    window = AutoWindow(batch.window_s, rule, first_batch=max(batch.size, batch.min))
    return Measuring(window, compressors, noise_guess=batch.size * config.devices, rate=rate)


def _build_rate(config: RunConfig, optimizer: Optimizer) -> AutoRate | None:
    if config.lr.rate == "fixed":
        return None
    if others := _without_rate(parts_of(optimizer)):
        raise ConfigError(
            f"lr.rate = auto: {others}: only steps of SGD are as long as gradients say, which tells "
            "its best rate; set optimizer.name to sgd (of your own: torch.optim.SGD), or lr.rate to fixed"
        )
    asked = [float(group["lr"]) for group in optimizer.param_groups]
    return AutoRate(_momentum(config, optimizer), asked)


def build_holdout(config: RunConfig) -> Holdout | None:
    """Return what keeps samples of a stream for tests alone; None where none are."""
    evaluation = config.evaluation
    return Holdout(evaluation.holdout_every, evaluation.holdout_samples) if config.tested_on == "holdout" else None


def build_sums(config: RunConfig) -> SlidingSums | None:
    """Return what keeps tests of batches before they are trained on; None where they are not tested."""
    return SlidingSums(config.evaluation.intervals) if config.tested_on == "stream" else None


def build_policy(config: RunConfig) -> BufferPolicy:
    """Return the buffer policy."""
    return Persistence() if config.buffer.policy == "persistence" else Truncation(config.batch.window_s)


def choose_optimizer(config: RunConfig, model: nn.Module, given: Optimizer | Sequence[Optimizer] | None) -> Optimizer:
    """Return the user's optimizer, several as one, or where there is none the built-in one."""
    return build_optimizer(config.optimizer, model) if given is None else adopt(given, model)


def with_possible_rate(config: RunConfig, given: Optimizer | Sequence[Optimizer] | None) -> tuple[RunConfig, str]:
    """Return the settings, with a fixed rate where ``method: auto`` cannot choose one, and why; empty where it can.

    It can where ``given``, the user's optimizer or several, is SGD, or None.
    """
    several = given if isinstance(given, Sequence) else [given]
    others = _without_rate([one for one in several if isinstance(one, Optimizer)])
    if config.method != "auto" or config.lr.rate == "fixed" or not others:
        return config, ""
    why = f"method auto leaves the learning rate to {others}: it is chosen for torch.optim.SGD alone"
    return load_config(config, ["lr.rate=fixed"]), why


def _without_rate(optimizers: Sequence[Optimizer]) -> str:
    """Return the kinds of optimizers whose rate cannot be chosen by gradients; empty where there is none."""
    return ", ".join(sorted({type(one).__name__ for one in optimizers if not isinstance(one, SGD)}))


def build_learning_rate(config: RunConfig, optimizer: Optimizer, measuring: Measuring | None = None) -> LearningRate:
    """Return the rule for the learning rate; its base batch is ``batch.size`` on every device."""
    lr, scaling = config.lr, config.lr.scaling
    scalings = _scalings(optimizer)
    if scaling in ("auto", "adascale") and len(scalings) > 1:
        raise ConfigError(f"lr.scaling = {scaling}: the optimizers suit different scalings; say linear, sqrt or none")
    base_batch, schedule = config.batch.size * config.devices, (lr.warmup_samples, lr.milestones, lr.gamma)
    if scaling != "adascale":
        return LearningRate(scalings.pop() if scaling == "auto" else scaling, base_batch, *schedule)
    noise = (measuring or Measuring()).noise
    return AdaptiveRate(
        *(base_batch, *schedule),
        power=0.5 if "sqrt" in scalings else 1.0,
        momentum=_momentum(config, optimizer),
        noise=lambda: noise.bounds,
    )


def _scalings(optimizer: Optimizer) -> set[Scaling]:
    """Return what scaling of the rate suits each of the optimizers that this one is made of."""
    return {scaling_for(one) for one in parts_of(optimizer)}


def _momentum(config: RunConfig, optimizer: Optimizer) -> float:
    """Return the momentum of an optimizer, or of compression: the largest, as they spread a gradient over steps."""
    groups = optimizer.param_groups if config.lr.rate == "fixed" else []  # else it is part of the rate
    known = [float(group.get("momentum", 0.0)) for group in groups]
    known += [float(group["betas"][0]) for group in groups if "betas" in group]
    return min(max([*known, config.compression.momentum or 0.0]), _MOST_MOMENTUM)


def build_learner(
    config: RunConfig,
    dataset: Dataset,
    model: nn.Module,
    optimizer: Optimizer,
    exchange: GradientExchange,
) -> Learner:
    """Return model, optimizer and the rules of training them."""
    measuring = build_measuring(config, exchange, optimizer)
    rate = build_learning_rate(config, optimizer, measuring)
    clip_norm = config.optimizer.clip_norm
    prepare = RunningStatistics(dataset) if config.data.normalize == "running" else dataset.prepare
    learner = Learner(
        *(model, optimizer, rate, exchange, prepare),
        mean="plain" if config.aggregation.mean == "plain" else "weighted",
        clip_norm=clip_norm,
        pair=build_task(config, dataset).pair,
        measuring=measuring,
    )
    if config.lr.guard:
        learner.look_for_divergence()
    return learner


def build_network(config: RunConfig, dataset: Dataset, model: nn.Module | None = None) -> nn.Module:
    """Return ``model``, or where that is None the network that the settings name, normalised as they say."""
    network = _made(config, dataset) if model is None else model
    return convert_batchnorm(network) if config.normalization == "group" else network


def _made(config: RunConfig, dataset: Dataset) -> nn.Module:
    """Return the network that the settings name, for what the task gives a model."""
    if dataset.vocabulary is not None and config.model in BUILT_IN:
        raise ConfigError(
            f"model {config.model} computes with measures, and samples of {dataset.name} are identifiers (integers "
            "wider than uint8): name a model with an embedding as MODULE:CALLABLE, or store measures as float32"
        )
    task = build_task(config, dataset)
    x, y = dataset.samples(np.arange(1))
    shape = map_tensors(lambda part: tuple(part.shape[1:]), task.pair(dataset.prepare(x), y)[0])
    if config.model in BUILT_IN:
        _refuse_parts(config.model, dataset)
    classes = dataset.classes if dataset.target.is_label else 0
    return build_model(config.model, shape, classes, config.seed, outputs=task.outputs)


def _refuse_parts(model: str, dataset: Dataset) -> None:
    """Refuse a built-in network where it is not of one tensor to one tensor."""
    what, names = "samples", dataset.layout.names if dataset.layout is not None else ()
    if not names and dataset.target.parts:
        what, names = "targets", tuple(name for name, _ in dataset.target.parts)
    if names:
        raise ConfigError(
            f"model {model} takes one tensor and answers with one, and {what} of {dataset.name} have the parts "
            f"{', '.join(names)}: name a model of your own as MODULE:CALLABLE"
        )


def build_fabric(config: RunConfig, torch_device: torch.device) -> Fabric:
    """Return the way to the other devices: torchrun's process group, or nobody for a run of one.

    Raises:
        ConfigError: devices are to meet at a hub, which :class:`scadles.fabric.hub.HubFabric` does.
    """
    if config.fabric.backend == "hub":
        raise ConfigError("fabric.backend = hub: start scadles hub CONFIG, then scadles join HOST:PORT on each device")
    if "WORLD_SIZE" not in os.environ:
        return LocalFabric.create(1)[0]
    backend = config.fabric.backend
    if backend == "auto":
        backend = "nccl" if torch_device.type == "cuda" else "gloo"
    return TorchFabric(backend, config.fabric.deadline_s, torch_device, sleep=WallClock().sleep)


def build_device(
    config: RunConfig,
    dataset: Dataset,
    model: nn.Module,
    optimizer: Optimizer | Sequence[Optimizer] | None,
    fabric: Fabric,
    clock: Clock,
    run_dir: Path | None = None,
    dealt: int | None = None,
    stream: Stream | None = None,
) -> ConnectedDevice:
    """Return one device, ready to start.

    Args:
        config, dataset, model, optimizer, fabric, clock, run_dir: of the run.
        dealt: to how many devices the data set was dealt; None: to those there are.
        stream: what is iterated over in place of a stream that the settings name.
    """
    partition = build_partition(config, dataset, dealt)
    samples = samples_of(dataset, partition, fabric.rank)
    rate_hz = draw_rates(config.stream.rates, config.devices, config.seed)[fabric.rank]
    replayed = config.stream.url.startswith("replay:")
    quarantine = build_quarantine(config, fabric.rank, run_dir)
    source = _source(
        *(config, dataset, fabric.rank, rate_hz, samples, clock, partition),
        codec=None if replayed else build_codec(config, dataset),
        run_dir=run_dir,
        quarantine=quarantine,
        target=dataset.target,
        layout=dataset.layout,
        given=stream,
    )
    inspector = build_inspector(dataset)
    intake = Intake(
        *(source, inspector, Buffer(config.buffer.capacity), build_policy(config), RateMeter(), clock),
        quarantine=quarantine,
        limit=RejectionLimit(config.stream.max_rejected_share),
        holdout=build_holdout(config),
    )
    chosen = choose_optimizer(config, model, optimizer)
    exchange = build_exchange(config, find_parameters(model, chosen), fabric)
    return ConnectedDevice(
        intake,
        build_rule(config),
        build_learner(config, dataset, model, chosen, exchange),
        fabric,
        clock,
        build_sample_exchange(config, dataset, partition, fabric),
        build_sums(config),
        build_transform(config, dataset),
        build_report_check(config) if isinstance(fabric, ElasticFabric) else None,
    )


def _source(config: RunConfig, dataset: Dataset, *arguments: Any, **live: Any) -> Source:
    """Return the stream of one device, with targets that come with the samples or later."""
    if isinstance(dataset, NoDataset) and config.stream.url.startswith("replay:"):
        raise ConfigError("data.dataset = none: a replayed stream plays a data set; say this device's own stream.url")
    if config.stream.labels is None:
        return build_source(config, *arguments, **live)
    return build_late_source(config, *arguments, **live | {"target": dataset.target})


def build_devices(config: RunConfig, dataset: Dataset, learner: Learner) -> list[Device]:
    """Return the devices of a simulated cluster, which share ``learner``, each with a virtual clock of its own.

    Their streams bring positions in place of samples, unless samples must be looked at or are kept for tests.
    """
    if not config.stream.url.startswith("replay:"):
        raise ConfigError(
            f"stream.url = {config.stream.url!r}: only a replayed stream can be simulated; leave the URL out and "
            "describe what it brings with stream.rates and stream.profile"
        )
    rates = draw_rates(config.stream.rates, config.devices, config.seed)
    inspector = build_inspector(dataset)
    partition = build_partition(config, dataset)
    unlike_a_list = config.tested_on == "holdout" or config.stream.labels is not None
    looked_at = unlike_a_list or not _all_good(dataset, inspector)
    sender = build_senders(config, dataset, partition) if injects(config) else None
    rule, policy = build_rule(config), build_policy(config)
    devices = []
    for number, rate_hz in enumerate(rates):
        clock = VirtualClock()
        samples = samples_of(dataset, partition, number) if looked_at else None
        source = _source(config, dataset, number, rate_hz, samples, clock, partition)
        intake = Intake(
            *(source, inspector, Buffer(config.buffer.capacity), policy, RateMeter(), clock),
            holdout=build_holdout(config),
        )
        intake.open()
        shares = sender(number) if sender else None
        devices.append(Device(number, intake, rule, learner, clock, shares, build_sums(config)))
    return devices


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
    config = load_config({"data": {"dataset": dataset}, "steps": 1})
    played = build_dataset(config)
    samples = samples_of(played, build_partition(config, played), 0)
    source = open_source_url(url, samples=samples, clock=clock or WallClock(), codec=build_codec(config, played))
    source.open(0)
    return source


def build_partition(config: RunConfig, dataset: Dataset, dealt: int | None = None) -> Partition:
    """Return who gets which samples, as they were ``dealt`` to so many devices; None: to those there are."""
    dealt = dealt or config.devices
    partition = make_partition(config.data, dataset, dealt, config.seed)
    return JoinedPartition(partition, dealt) if config.devices > dealt else partition


def samples_of(dataset: Dataset, partition: Partition, device: int) -> Samples:
    """Return the way from a device's stream offsets to samples."""
    mine = np.array([device])
    return lambda offsets: dataset.samples(partition.indices(mine, offsets))


def _all_good(dataset: Dataset, inspector: Inspector) -> bool:
    """Whether every training sample would pass inspection; an endless data set is made to."""
    for start in range(0, dataset.train_size or 0, _INSPECTED_AT_ONCE):
        numbers = np.arange(start, min(start + _INSPECTED_AT_ONCE, dataset.train_size or 0))
        x, y = dataset.samples(numbers)
        if inspector.split(Records(numbers, np.zeros(len(numbers)), x, y))[1]:
            return False
    return True
