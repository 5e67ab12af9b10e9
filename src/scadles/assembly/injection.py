"""From settings to what devices share."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from scadles.config import RunConfig
from scadles.data import Dataset, Partition
from scadles.device.injection import (
    History,
    Injection,
    Numbered,
    Passing,
    SampleExchange,
    SampleFormat,
    SampleSender,
    SharingPolicy,
)
from scadles.errors import ConfigError
from scadles.fabric import Fabric


def injects(config: RunConfig) -> bool:
    """Whether samples are shared in a run: one device alone has nobody to share with."""
    return config.injection.on and config.devices > 1


def build_injection(config: RunConfig) -> Injection:
    """Return the rule of who shares how much."""
    return Injection(config.injection.alpha, config.injection.beta, config.devices, config.seed)


def build_senders(config: RunConfig, dataset: Dataset, partition: Partition) -> Callable[[int], SampleSender]:
    """Return the way from a device's number to what it shares.

    Raises:
        ConfigError: a label is named that the data set does not have.
    """
    settings = config.injection
    for name, labels in settings.named_labels().items():
        if labels and not dataset.target.is_label:
            raise ConfigError(f"{name} names labels: {dataset.name} has {dataset.target.describe()}; leave it out")
        if labels and max(labels) >= dataset.classes:
            raise ConfigError(
                f"{name} names label {max(labels)}: labels of {dataset.name} are 0 to {dataset.classes - 1}"
            )
    injection = build_injection(config)
    policy = SharingPolicy(
        settings.allow_devices, settings.refuse_devices, settings.allow_labels, settings.refuse_labels
    )
    return lambda device: SampleSender(device, injection, policy, _history(config, dataset, partition, device))


def build_sample_format(dataset: Dataset) -> SampleFormat:
    """Return how samples of a data set travel."""
    return SampleFormat(dataset.shape, dataset.dtype, target=dataset.target, layout=dataset.layout)


def build_sample_exchange(
    config: RunConfig, dataset: Dataset, partition: Partition, fabric: Fabric
) -> SampleExchange | None:
    """Return one device's end of injection; None where nothing is shared."""
    if not injects(config):
        return None
    sender = build_senders(config, dataset, partition)(fabric.rank)
    largest = config.batch.size if config.batch.rule == "fixed" else config.batch.max
    return SampleExchange(sender, build_sample_format(dataset), fabric.share, sender.injection.count(largest))


def _history(config: RunConfig, dataset: Dataset, partition: Partition, device: int) -> History:
    """Return what counts the records that leave: those of a replayed finite data set come again in every pass."""
    if dataset.train_size is None or not config.stream.url.startswith("replay:"):
        return Passing()
    mine = np.array([device])
    return Numbered(lambda offsets: partition.indices(mine, offsets), dataset.train_size)
