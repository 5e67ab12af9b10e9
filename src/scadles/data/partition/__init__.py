"""Who gets which samples."""

from __future__ import annotations

import numpy as np

from scadles.config import DataConfig
from scadles.data.dataset import Dataset, EndlessDataset
from scadles.data.partition.contract import Partition
from scadles.data.partition.deals import deal_by_label, deal_evenly, deal_in_sizes
from scadles.data.partition.dealt import DealtPartition
from scadles.data.partition.drawn import EndlessMixtures, EndlessPartition, SharedPartition
from scadles.data.partition.drift import DriftingPartition
from scadles.data.partition.joined import JoinedPartition
from scadles.data.partition.skew import dirichlet_shares, label_shares, mixtures, size_weights
from scadles.errors import ConfigError

__all__ = [
    "DealtPartition",
    "DriftingPartition",
    "EndlessMixtures",
    "EndlessPartition",
    "JoinedPartition",
    "Partition",
    "SharedPartition",
    "make_partition",
]


def make_partition(data: DataConfig, dataset: Dataset, devices: int, seed: int) -> Partition:
    """Return who gets which samples of ``dataset``, as ``data`` says.

    Args:
        data: ``partition`` and what belongs to it.
        dataset: what is dealt.
        devices: to how many.
        seed: of the run.

    Raises:
        ConfigError: settings that do not fit the data set.
        DataError: too few samples for so many devices.
    """
    if data.partition in ("labels", "dirichlet") and not dataset.target.is_label:
        raise ConfigError(
            f"data.partition = {data.partition}: {dataset.name} has {dataset.target.describe()} and no class labels to "
            "deal by; use iid or shared"
        )
    if isinstance(dataset, EndlessDataset):
        partition = _endless(data, dataset, devices, seed)
    else:
        partition = _finite(data, dataset, devices, seed)
    if data.drift_samples is not None:
        return DriftingPartition(partition, devices, data.drift_samples)
    return partition


def _endless(data: DataConfig, dataset: EndlessDataset, devices: int, seed: int) -> Partition:
    if data.size_spread:
        raise ConfigError(
            f"data.size_spread = {data.size_spread:g}: an endless data set has no parts that could differ in size; "
            "how much each device brings is said by stream.rates"
        )
    if data.partition in ("iid", "shared"):
        return EndlessPartition(devices)
    shares = _shares(data, devices, np.ones(dataset.classes, dtype=bool), seed)
    return EndlessMixtures(mixtures(shares), dataset.numbered, seed)


def _finite(data: DataConfig, dataset: Dataset, devices: int, seed: int) -> Partition:
    size = dataset.train_size or 0
    if data.partition == "shared":
        return SharedPartition(size, seed)
    weights = size_weights(data.size_spread, devices, seed)
    if data.partition == "iid":
        parts = deal_in_sizes(size, weights, seed) if data.size_spread else deal_evenly(size, devices, seed)
        return DealtPartition(parts, seed)
    labels = dataset.labels(np.arange(size))
    present = np.bincount(labels, minlength=dataset.classes) > 0
    shares = _shares(data, devices, present, seed) * weights[:, None]
    return DealtPartition(deal_by_label(labels, shares, seed, least=int(data.partition == "labels")), seed)


def _shares(data: DataConfig, devices: int, present: np.ndarray, seed: int) -> np.ndarray:
    if data.partition == "labels":
        return label_shares(data.labels_per_device, devices, present, seed)
    return dirichlet_shares(data.alpha, devices, len(present), seed)
