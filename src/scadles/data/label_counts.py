"""Who holds what: how many samples of each label a device's stream brings."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from scadles.data.dataset import Dataset
from scadles.data.partition import DriftingPartition, Partition
from scadles.errors import ConfigError

LOOKED_AT = 1000


def count_labels(dataset: Dataset, partition: Partition, devices: Sequence[int], drifts: int = 0) -> np.ndarray:
    """Return samples of each label in each device's part, int64 ``[devices, classes]``.

    Where a stream never begins again, the first 1,000 samples of it are counted.

    Args:
        dataset: what was dealt.
        partition: how.
        devices: their numbers.
        drifts: how many times each device has gone on with another part before.

    Raises:
        ConfigError: targets are no class labels.
    """
    if not dataset.target.is_label:
        raise ConfigError(f"{dataset.name} has {dataset.target.describe()}: there are no labels to count")
    if isinstance(partition, DriftingPartition):
        return count_labels(dataset, partition.parts, [partition.part_of(device, drifts) for device in devices])
    rows = []
    for device in devices:
        offsets = np.arange(partition.pass_size(device) or LOOKED_AT)
        labels = dataset.labels(partition.indices(np.array([device]), offsets))
        rows.append(np.bincount(labels, minlength=dataset.classes))
    return np.stack(rows)
