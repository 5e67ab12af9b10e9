"""Data sets and how they are dealt to devices."""

from __future__ import annotations

from pathlib import Path

from scadles.data.dataset import ArrayDataset, Dataset, EndlessDataset
from scadles.data.digits import load_digits
from scadles.data.label_counts import count_labels
from scadles.data.npz import load_npz
from scadles.data.partition import (
    DealtPartition,
    DriftingPartition,
    EndlessMixtures,
    EndlessPartition,
    JoinedPartition,
    Partition,
    SharedPartition,
    make_partition,
)
from scadles.data.synthetic import SyntheticImages
from scadles.data.vision import load_torchvision
from scadles.errors import ConfigError, did_you_mean

__all__ = [
    "ArrayDataset",
    "Dataset",
    "DealtPartition",
    "DriftingPartition",
    "EndlessDataset",
    "EndlessMixtures",
    "EndlessPartition",
    "JoinedPartition",
    "Partition",
    "SharedPartition",
    "SyntheticImages",
    "count_labels",
    "load_dataset",
    "load_digits",
    "load_npz",
    "load_torchvision",
    "make_partition",
]

_ARGUMENT = {"digits": None, "npz": "PATH", "synthetic-images": None, "torchvision": "NAME"}


def load_dataset(
    spec: str,
    *,
    root: Path,
    classes: int,
    shape: tuple[int, int, int],
    test_samples: int,
    seed: int,
    targets: str = "labels",
    normalize: bool = True,
) -> Dataset:
    """Return the data set that ``spec`` names: ``digits``, ``synthetic-images``, ``npz:PATH`` or ``torchvision:NAME``.

    Args:
        spec: the name, with what belongs to it after a colon.
        root: folder of torchvision's data sets.
        classes: of synthetic-images.
        shape: of synthetic-images, (channels, height, width).
        test_samples: of synthetic-images.
        seed: of the run; synthetic-images only.
        targets: what those of a file are read as (:func:`~scadles.data.forms.read_targets`); others have class labels.
        normalize: whether samples are normalised over the training part.

    Raises:
        ConfigError: an unknown name, or an argument that is missing or not expected.
        MissingExtraError: torchvision is not installed.
        DataError: data that are missing or unreadable.
    """
    name, _, argument = spec.partition(":")
    if name not in _ARGUMENT:
        raise ConfigError(f"data.dataset = {spec!r}: unknown data set{did_you_mean(name, _ARGUMENT)}")
    wanted = _ARGUMENT[name]
    if bool(argument) != bool(wanted):
        raise ConfigError(
            f"data.dataset = {spec!r}: write it as {name}:{wanted}"
            if wanted
            else f"data.dataset = {spec!r}: {name} takes nothing after a colon"
        )
    if name == "npz":
        return load_npz(Path(argument).expanduser(), targets, normalize=normalize)
    if name == "torchvision":
        return load_torchvision(argument, root, normalize=normalize)
    if name == "synthetic-images":
        return SyntheticImages(classes, shape, test_samples, seed)
    return load_digits(normalize=normalize)
