"""What a data set is: raw samples by number, a test part, and how raw samples become a model's input."""

from __future__ import annotations

from abc import ABC, abstractmethod

import numpy as np
import torch
from torch import Tensor

CHUNK = 4096


class Dataset(ABC):
    """Labelled samples ``[C, H, W]`` in a training and a test part.

    Samples stay raw (uint8 where they are pictures) while they are stored and sent; :meth:`prepare` makes them a
    model's input.

    Attributes:
        name: as given in the configuration.
        classes: labels are integers from 0 to ``classes - 1``.
        shape: of one sample, (channels, height, width).
        train_size: number of training samples; None where they never end.
        dtype: of raw samples.
    """

    name: str
    classes: int
    shape: tuple[int, ...]
    train_size: int | None
    dtype: torch.dtype

    @abstractmethod
    def samples(self, indices: np.ndarray) -> tuple[Tensor, Tensor]:
        """Return raw training samples ``[n, *shape]`` and their labels, int64 ``[n]``.

        Args:
            indices: into the training part, int64 ``[n]``.
        """

    @abstractmethod
    def labels(self, indices: np.ndarray) -> np.ndarray:
        """Return the labels of training samples alone, int64 ``[n]``."""

    @abstractmethod
    def test(self) -> tuple[Tensor, Tensor]:
        """Return the whole test part: raw samples ``[n, *shape]`` and labels, int64 ``[n]``."""

    @abstractmethod
    def prepare(self, x: Tensor) -> Tensor:
        """Return raw samples ``[n, *shape]`` as a model's input: float32, normalised, on the same torch device."""


class EndlessDataset(Dataset):
    """A data set whose training samples never end."""

    train_size = None

    @abstractmethod
    def numbered(self, labels: np.ndarray, numbers: np.ndarray) -> np.ndarray:
        """Return where the samples of given labels are, int64 ``[n]``: the ``numbers``-th of each, for ever new ones.

        They are other samples than those with the indices 0, 1, 2, ...
        """


class ArrayDataset(Dataset):
    """A data set that lies in memory, normalised by mean and deviation of each channel over the training part.

    Args:
        name: as given in the configuration.
        train: samples ``[n, C, H, W]``, uint8 or float32, and labels from 0, integers ``[n]``.
        test: the same for the test part.
        classes: number of classes.

    NaN and infinite values do not count towards mean and deviation.

    >>> x, y = np.arange(8, dtype=np.uint8).reshape(8, 1, 1, 1), np.arange(8) % 2
    >>> data = ArrayDataset("tiny", (x, y), (x[:2], y[:2]), classes=2)
    >>> data.samples(np.array([3, 0]))[1].tolist()
    [1, 0]
    >>> bool(data.prepare(torch.from_numpy(x)).mean().abs() < 1e-6)
    True
    """

    def __init__(
        self, name: str, train: tuple[np.ndarray, np.ndarray], test: tuple[np.ndarray, np.ndarray], classes: int
    ) -> None:
        self.name = name
        self.classes = classes
        self.shape = tuple(train[0].shape[1:])
        self.train_size = len(train[0])
        self.dtype = torch.from_numpy(np.empty(0, dtype=train[0].dtype)).dtype
        self._train_x, self._train_y = train[0], train[1].astype(np.int64)
        self._test_x, self._test_y = test[0], test[1].astype(np.int64)
        mean, deviation = channel_statistics(self._train_x)
        self._mean = torch.from_numpy(mean.astype(np.float32))[:, None, None]
        self._deviation = torch.from_numpy(deviation.astype(np.float32))[:, None, None]

    def samples(self, indices: np.ndarray) -> tuple[Tensor, Tensor]:
        return torch.from_numpy(self._train_x[indices]), torch.from_numpy(self._train_y[indices])

    def labels(self, indices: np.ndarray) -> np.ndarray:
        return np.asarray(self._train_y[indices])

    def test(self) -> tuple[Tensor, Tensor]:
        return torch.from_numpy(self._test_x.copy()), torch.from_numpy(self._test_y.copy())

    def prepare(self, x: Tensor) -> Tensor:
        return (x.to(torch.float32) - self._mean.to(x.device)) / self._deviation.to(x.device)


def channel_statistics(x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return mean and standard deviation of each channel of ``x`` ``[n, C, H, W]``, float64 ``[C]``.

    Values that are not finite are left out; where nothing varies the deviation is 1.
    """
    mean = _channel_mean(x, np.zeros(x.shape[1]), power=1)
    variance = _channel_mean(x, mean, power=2)
    return mean, np.where(variance > 0, np.sqrt(variance), 1.0)


def _channel_mean(x: np.ndarray, centre: np.ndarray, *, power: int) -> np.ndarray:
    total, count = np.zeros(x.shape[1]), np.zeros(x.shape[1])
    for start in range(0, len(x), CHUNK):
        values = (x[start : start + CHUNK].astype(np.float64) - centre[:, None, None]) ** power
        finite = np.isfinite(values)
        total += np.where(finite, values, 0.0).sum(axis=(0, 2, 3))
        count += finite.sum(axis=(0, 2, 3))
    return total / np.maximum(count, 1)
