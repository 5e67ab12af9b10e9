"""torchvision's data sets."""

from __future__ import annotations

from http.client import HTTPException
from pathlib import Path
from typing import Any

import numpy as np

from scadles.data.dataset import ArrayDataset
from scadles.data.torchvision import import_torchvision
from scadles.errors import ConfigError, DataError

NAMES = ("CIFAR10", "CIFAR100", "FashionMNIST", "KMNIST", "MNIST", "SVHN")
_UNREADABLE = (AssertionError, EOFError, HTTPException, KeyError, OSError, RuntimeError, TypeError, ValueError)


def load_torchvision(name: str, root: Path, *, normalize: bool = True) -> ArrayDataset:
    """Return one of torchvision's data sets, uint8 ``[C, H, W]``, from ``root`` or else from the network.

    torchvision reads CIFAR's own pickled files, after comparing them with their published checksums.

    Raises:
        ConfigError: a name that is not in ``NAMES``.
        MissingExtraError: torchvision is not installed.
        DataError: the data are neither in ``root`` nor to be had, or cannot be read.
    """
    if name not in NAMES:
        raise ConfigError(f"data.dataset = 'torchvision:{name}': unknown data set; there are {', '.join(NAMES)}")
    kind = getattr(import_torchvision("datasets", f"the data set torchvision:{name}"), name)
    train, test = _part(name, kind, root, train=True), _part(name, kind, root, train=False)
    classes = int(max(train[1].max(), test[1].max())) + 1
    return ArrayDataset(f"torchvision:{name}", train, test, classes, normalize=normalize)


def _part(name: str, kind: Any, root: Path, *, train: bool) -> tuple[np.ndarray, np.ndarray]:
    options: dict[str, Any] = {"split": "train" if train else "test"} if name == "SVHN" else {"train": train}
    part = _opened(name, kind, root, options)
    x = np.asarray(part.data)
    if x.ndim == 3:
        x = x[:, None]
    elif x.shape[3] == 3:
        x = np.ascontiguousarray(x.transpose(0, 3, 1, 2))
    return x, np.asarray(part.labels if name == "SVHN" else part.targets)


def _opened(name: str, kind: Any, root: Path, options: dict[str, Any]) -> Any:
    try:
        return kind(root=root, download=False, **options)
    except _UNREADABLE as error:
        if "download=True" not in str(error):
            raise DataError(
                f"{name} in data.root = {root} cannot be read ({_brief(error)}): delete it and load it again"
            ) from None
    try:
        return kind(root=root, download=True, **options)
    except _UNREADABLE as error:
        raise DataError(
            f"{name} is not in data.root = {root} and cannot be downloaded ({_brief(error)}): on a machine with a "
            f"network run torchvision.datasets.{name}({str(root)!r}, download=True) and copy the folder here, "
            "or choose data.dataset = digits or synthetic-images, which need no files"
        ) from None


def _brief(error: Exception) -> str:
    return f"{type(error).__name__}: {error}".splitlines()[0]
