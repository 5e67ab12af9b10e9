"""What a data set is: raw samples by number, a test part, and how raw samples become a model's input."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from scadles.data.preparation import Scale
from scadles.layout import Layout
from scadles.targets import TargetType

CHUNK = 4096


class Dataset(ABC):
    """Samples of one shape with their targets, in a training and a test part.

    Samples stay raw (uint8 where they are pictures) while they are stored and sent; :meth:`prepare` makes them a
    model's input.

    Attributes:
        name: as given in the configuration.
        classes: labels are integers from 0 to ``classes - 1``; 0 where targets are no classes.
        shape: of one sample, for example (channels, height, width).
        train_size: number of training samples; None where they never end.
        dtype: of raw samples.
    """

    name: str
    classes: int
    shape: tuple[int, ...]
    train_size: int | None
    dtype: torch.dtype

    @property
    def target(self) -> TargetType:
        """What belongs to each sample."""
        return TargetType.label(self.classes)

    @property
    def layout(self) -> Layout | None:
        """Where the parts of a raw sample are in its row of bytes; None where it is one tensor."""
        return None

    @property
    def target_scale(self) -> Any:
        """Mean and deviation of targets that are numbers, over the training part; None where they stay as they are.

        Both are tensors ``[*target.shape]``; of targets of several parts this is a dictionary of such by name.
        """
        return None

    @property
    def vocabulary(self) -> int | None:
        """How many values samples of integers may have, from 0 on; None where they are other numbers."""
        return None

    @property
    def preparation(self) -> Scale | Mapping[str, Scale]:
        """What :meth:`prepare` does, in words that a file can hold; of several parts by name."""
        return Scale()

    @abstractmethod
    def samples(self, indices: np.ndarray) -> tuple[Tensor, Tensor]:
        """Return raw training samples ``[n, *shape]`` and their labels, int64 ``[n]``, or other targets.

        Args:
            indices: into the training part, int64 ``[n]``.
        """

    @abstractmethod
    def labels(self, indices: np.ndarray) -> np.ndarray:
        """Return the labels of training samples alone, int64 ``[n]``."""

    @abstractmethod
    def test(self) -> tuple[Tensor, Tensor]:
        """Return the whole test part: raw samples ``[n, *shape]`` and labels, int64 ``[n]``, or other targets."""

    @abstractmethod
    def prepare(self, x: Tensor) -> Any:
        """Return raw samples ``[n, *shape]`` as a model's input, on the same torch device.

        It is float32, normalised; integers wider than uint8 are identifiers and become int64. Samples of several parts
        become tensors ``[n, ...]`` by name, or in order.
        """


class EndlessDataset(Dataset):
    """A data set whose training samples never end."""

    train_size = None

    @abstractmethod
    def numbered(self, labels: np.ndarray, numbers: np.ndarray) -> np.ndarray:
        """Return where the samples of given labels are, int64 ``[n]``: the ``numbers``-th of each, for ever new ones.

        They are other samples than those with the indices 0, 1, 2, ...
        """


class ArrayDataset(Dataset):
    """A data set that lies in memory.

    Floating and uint8 samples are normalised by mean and deviation over the training part: of each feature of tables
    ``[n, F]``, of each channel of windows ``[n, C, T]`` and pictures ``[n, C, H, W]``. Other integers become int64, and
    truth values float32, as they are.

    Args:
        name: as given in the configuration.
        train: samples ``[n, *shape]`` and targets: labels from 0, integers ``[n]``, or what ``target`` says.
        test: the same for the test part.
        classes: number of classes.
        target: what a target is, where it is no class label.
        normalize: whether samples are normalised; without it they only become float32, and targets stay as they are.

    NaN and infinite values do not count towards mean and deviation.

    >>> x, y = np.arange(8, dtype=np.uint8).reshape(8, 1, 1, 1), np.arange(8) % 2
    >>> data = ArrayDataset("tiny", (x, y), (x[:2], y[:2]), classes=2)
    >>> data.samples(np.array([3, 0]))[1].tolist()
    [1, 0]
    >>> bool(data.prepare(torch.from_numpy(x)).mean().abs() < 1e-6)
    True
    """

    def __init__(
        self,
        name: str,
        train: tuple[np.ndarray, np.ndarray],
        test: tuple[np.ndarray, np.ndarray],
        classes: int = 0,
        *,
        target: TargetType | None = None,
        normalize: bool = True,
    ) -> None:
        self.name = name
        self._target = TargetType.label(classes) if target is None else target
        self.classes = self._target.classes
        self.shape = tuple(train[0].shape[1:])
        self.train_size = len(train[0])
        self.dtype = torch.from_numpy(np.empty(0, dtype=train[0].dtype)).dtype
        target_dtype = str(self._target.dtype).removeprefix("torch.")
        self._train_x, self._train_y = train[0], train[1].astype(target_dtype)
        self._test_x, self._test_y = test[0], test[1].astype(target_dtype)
        self._measures = self.dtype.is_floating_point or self.dtype == torch.uint8
        self._normalize = normalize
        self._normalizes = normalize and self._measures
        if self._normalizes:
            mean, deviation = channel_statistics(self._train_x)
            spread = (-1, *(1 for _ in self.shape[1:])) if self.shape else ()
            self._mean = torch.from_numpy(mean.astype(np.float32)).reshape(spread)
            self._deviation = torch.from_numpy(deviation.astype(np.float32)).reshape(spread)

    @property
    def target(self) -> TargetType:
        return self._target

    @property
    def target_scale(self) -> tuple[Tensor, Tensor] | None:
        return scale_of(self._target, self._train_y) if self._normalize else None

    @property
    def vocabulary(self) -> int | None:
        parts = [x for x in (self._train_x, self._test_x) if len(x)]
        if self._measures or self.dtype == torch.bool or min(x.min() for x in parts) < 0:
            return None
        return int(max(x.max() for x in parts)) + 1

    @property
    def preparation(self) -> Scale:
        if self._normalizes:
            return Scale(self._mean.flatten().tolist(), self._deviation.flatten().tolist())
        return Scale(becomes="float32" if self._measures or self.dtype == torch.bool else "int64")

    def samples(self, indices: np.ndarray) -> tuple[Tensor, Tensor]:
        return torch.from_numpy(self._train_x[indices]), torch.from_numpy(self._train_y[indices])

    def labels(self, indices: np.ndarray) -> np.ndarray:
        return np.asarray(self._train_y[indices])

    def test(self) -> tuple[Tensor, Tensor]:
        return torch.from_numpy(self._test_x.copy()), torch.from_numpy(self._test_y.copy())

    def prepare(self, x: Tensor) -> Tensor:
        if not self._normalizes:
            return x.to(torch.float32 if self._measures or self.dtype == torch.bool else torch.int64)
        return (x.to(torch.float32) - self._mean.to(x.device)) / self._deviation.to(x.device)


def scale_of(target: TargetType, y: np.ndarray) -> tuple[Tensor, Tensor] | None:
    """Return mean and deviation of targets ``[n, *shape]`` that are numbers, ``[*shape]`` both; None for others."""
    if target.classes or target.is_none:
        return None
    mean, deviation = (torch.from_numpy(part.astype(np.float32)) for part in channel_statistics(y.reshape(len(y), -1)))
    return mean.reshape(target.shape), deviation.reshape(target.shape)


def channel_statistics(x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return mean and standard deviation of each channel of ``x`` ``[n, C, ...]``, float64 ``[C]``.

    Samples that are single numbers, ``[n]``, have one channel. Values that are not finite are left out; where nothing
    varies the deviation is 1.
    """
    x = x if x.ndim > 1 else x[:, None]
    mean = _channel_mean(x, np.zeros(x.shape[1]), power=1)
    variance = _channel_mean(x, mean, power=2)
    return mean, np.where(variance > 0, np.sqrt(variance), 1.0)


def _channel_mean(x: np.ndarray, centre: np.ndarray, *, power: int) -> np.ndarray:
    others = tuple(axis for axis in range(x.ndim) if axis != 1)
    centre = centre.reshape(-1, *(1 for _ in x.shape[2:]))
    total, count = np.zeros(x.shape[1]), np.zeros(x.shape[1])
    for start in range(0, len(x), CHUNK):
        values = (x[start : start + CHUNK].astype(np.float64) - centre) ** power
        finite = np.isfinite(values)
        total += np.where(finite, values, 0.0).sum(axis=others)
        count += finite.sum(axis=others)
    return total / np.maximum(count, 1)
