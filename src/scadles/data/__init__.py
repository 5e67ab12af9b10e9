"""Data sets and how they are dealt to devices."""

from __future__ import annotations

from pathlib import Path

from scadles.data.arrays import Wanted, dataset_of
from scadles.data.dataset import ArrayDataset, Dataset, EndlessDataset
from scadles.data.digits import load_digits
from scadles.data.label_counts import count_labels
from scadles.data.none import NoDataset
from scadles.data.npz import load_npz
from scadles.data.own import load_own
from scadles.data.parquet import load_parquet
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
from scadles.data.parts import PartsDataset
from scadles.data.preparation import Preparation, Scale
from scadles.data.synthetic import SyntheticImages
from scadles.data.synthetic_windows import SyntheticWindows
from scadles.data.table import TABLES, Columns, load_csv, load_table
from scadles.data.vision import load_torchvision
from scadles.errors import ConfigError, did_you_mean

__all__ = [
    "ArrayDataset",
    "Columns",
    "Dataset",
    "DealtPartition",
    "DriftingPartition",
    "EndlessDataset",
    "EndlessMixtures",
    "EndlessPartition",
    "JoinedPartition",
    "NoDataset",
    "Partition",
    "PartsDataset",
    "Preparation",
    "Scale",
    "SharedPartition",
    "SyntheticImages",
    "SyntheticWindows",
    "count_labels",
    "dataset_of",
    "load_csv",
    "load_dataset",
    "load_digits",
    "load_npz",
    "load_own",
    "load_parquet",
    "load_table",
    "load_torchvision",
    "make_partition",
]

_ARGUMENT = {
    "csv": "PATH",
    "digits": None,
    "npz": "PATH",
    "parquet": "PATH",
    "synthetic-images": None,
    "synthetic-windows": None,
    "torchvision": "NAME",
    **dict.fromkeys(TABLES),
}

_TABLE_FILES = {"csv": load_csv, "parquet": load_parquet}
_FILES = ("npz", *_TABLE_FILES)


def load_dataset(
    spec: str,
    *,
    root: Path,
    classes: int,
    shape: tuple[int, ...],
    test_samples: int,
    seed: int,
    targets: Wanted = "labels",
    normalize: bool = True,
    columns: Columns | None = None,
    tests: bool = True,
) -> Dataset:
    """Return the data set that ``spec`` names, such as ``digits``, ``npz:PATH`` or ``MODULE:CALLABLE``.

    Args:
        spec: the name, with what belongs to it after a colon.
        root: folder of data sets, for torchvision's and those of the user's own.
        classes: of synthetic data sets.
        shape: of synthetic-images, (channels, height, width), and synthetic-windows, (channels, time).
        test_samples: of synthetic data sets.
        seed: of the run; for synthetic data sets and those of the user's own.
        targets: what those of a file are read as (:func:`~scadles.data.forms.read_targets`), by part where they have
            several; other data sets have class labels.
        normalize: whether samples are normalised over the training part.
        columns: of a CSV or Parquet file, what is read.
        tests: whether there must be a test part, which an npz file may do without.

    Raises:
        ConfigError: an unknown name, or an argument that is missing or not expected.
        MissingExtraError: torchvision or pyarrow is not installed.
        DataError: data that are missing or unreadable.
    """
    name, _, argument = spec.partition(":")
    if name not in _ARGUMENT and argument.isidentifier():
        return load_own(spec, root, seed, targets, built_in=_ARGUMENT, normalize=normalize)
    _check_form(spec, name, argument)
    if name == "npz":
        return load_npz(Path(argument).expanduser(), targets, normalize=normalize, tests=tests)
    if not isinstance(targets, str):
        raise ConfigError(
            f"task.parts names parts of a target, and {spec} has targets of one part: use npz:PATH with arrays "
            f"{', '.join(f'train_y.{part}' for part in targets)}"
        )
    if name in _TABLE_FILES:
        return _TABLE_FILES[name](Path(argument).expanduser(), columns or Columns(), targets, normalize=normalize)
    if name in TABLES:
        return load_table(name, targets, normalize=normalize)
    if name == "torchvision":
        return load_torchvision(argument, root, normalize=normalize)
    if name == "synthetic-images":
        return SyntheticImages(classes, shape, test_samples, seed)
    if name == "synthetic-windows":
        return SyntheticWindows(classes, shape, test_samples, seed)
    return load_digits(normalize=normalize)


def _check_form(spec: str, name: str, argument: str) -> None:
    """Refuse an unknown name, and one with something or nothing after a colon where that must not be."""
    if name not in _ARGUMENT:
        kind = Path(spec).suffix.removeprefix(".")
        hint = f"; a file is {kind}:PATH" if not argument and kind in _FILES else did_you_mean(name, _ARGUMENT)
        raise ConfigError(f"data.dataset = {spec!r}: unknown data set{hint}")
    wanted = _ARGUMENT[name]
    if bool(argument) != bool(wanted):
        raise ConfigError(
            f"data.dataset = {spec!r}: write it as {name}:{wanted}"
            if wanted
            else f"data.dataset = {spec!r}: {name} takes nothing after a colon"
        )
