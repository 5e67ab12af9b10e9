"""Who holds what in a run, for a look at it before or after."""

from __future__ import annotations

from pathlib import Path

from scadles.assembly import build_partition
from scadles.config import DataConfig, RunConfig
from scadles.data import Dataset, count_labels
from scadles.observe import MOST_DEVICES, LabelDistribution, evenly

PARTITION_FILE = "partition.png"


def draw_label_distribution(config: RunConfig, dataset: Dataset, run_dir: Path) -> None:
    """Draw who holds what into a run folder, where a data set is dealt and devices differ in what they have.

    Raises:
        MissingExtraError: matplotlib is not installed.
        RunError: the folder cannot be written to.
    """
    if config.data.skewed and dataset.target.is_label and config.stream.url.startswith("replay:"):
        build_label_distribution(config, dataset).plot(run_dir / PARTITION_FILE)


def build_label_distribution(config: RunConfig, dataset: Dataset) -> LabelDistribution:
    """Return how many samples of each label the devices have; of many devices, evenly chosen ones stand for all."""
    devices = evenly(config.devices, MOST_DEVICES)
    data, partition = config.data, build_partition(config, dataset)
    return LabelDistribution(
        devices=tuple(devices),
        of=config.devices,
        counts=count_labels(dataset, partition, devices),
        parts=dataset.train_size is not None and data.partition != "shared",
        title=f"Who holds what: {data.dataset}, {config.devices:,} devices, {_in_words(data)}",
        drifted=count_labels(dataset, partition, devices, drifts=1) if data.drift_samples else None,
        drift_samples=data.drift_samples,
    )


def _in_words(data: DataConfig) -> str:
    """Say how samples are dealt.

    >>> _in_words(DataConfig(partition="dirichlet", alpha=0.1, size_spread=1))
    'Dirichlet shares (alpha 0.1), sizes log-normal (spread 1)'
    """
    words = {
        "iid": "dealt at random",
        "shared": "all drawing from all",
        "labels": f"{data.labels_per_device} label{'s' * (data.labels_per_device > 1)} each",
        "dirichlet": f"Dirichlet shares (alpha {data.alpha:g})",
    }[data.partition]
    return words + (f", sizes log-normal (spread {data.size_spread:g})" if data.size_spread else "")
