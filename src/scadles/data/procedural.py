"""Endless samples, made as they are asked for."""

from __future__ import annotations

from abc import abstractmethod

import numpy as np
import torch
from torch import Tensor

from scadles.data.dataset import EndlessDataset
from scadles.errors import ConfigError
from scadles.seeding import numpy_generator

CHUNK = 256


class ProceduralDataset(EndlessDataset):
    """Samples that are drawn from random numbers, with a class each.

    Sample i is a function of (seed, i) alone; the test part has numbers of its own. From 0 on, labels are drawn; those
    of the samples -1, -2, ... go through all classes in turn, so that one of a given label is found at once.

    Args:
        name: as given in the configuration.
        classes: at least 2.
        shape: of one sample.
        test_samples: size of the test part.
        seed: of the run.
        uniforms: how many uniform numbers are drawn for a sample; the first draws its label.

    Raises:
        ConfigError: fewer than 2 classes, or a test part without samples.
    """

    def __init__(
        self, name: str, classes: int, shape: tuple[int, ...], test_samples: int, seed: int, uniforms: int
    ) -> None:
        if classes < 2:
            raise ConfigError(f"data.classes = {classes}: {name} needs at least 2 classes")
        if test_samples < 1:
            raise ConfigError(f"data.test_samples = {test_samples}: must be at least 1")
        self.name = name
        self.classes = classes
        self.shape = shape
        self._test_samples = test_samples
        self._seed = seed
        self._uniforms = uniforms

    def samples(self, indices: np.ndarray) -> tuple[Tensor, Tensor]:
        return self._make("train", indices)

    def labels(self, indices: np.ndarray) -> np.ndarray:
        uniform = np.zeros(len(indices))
        for row in np.flatnonzero(indices >= 0).tolist():
            uniform[row] = self._generator("train", int(indices[row])).random()
        return self._labels(indices, uniform)

    def numbered(self, labels: np.ndarray, numbers: np.ndarray) -> np.ndarray:
        return np.asarray(-1 - (numbers * self.classes + labels))

    def test(self) -> tuple[Tensor, Tensor]:
        return self._make("test", np.arange(self._test_samples))

    @abstractmethod
    def _draw(self, labels: np.ndarray, uniform: np.ndarray, noise: np.ndarray) -> np.ndarray:
        """Return samples ``[n, *shape]``; ``noise`` may be overwritten.

        Args:
            labels: int64 ``[n]``.
            uniform: from 0 to 1, float64 ``[n, uniforms - 1]``.
            noise: standard normal, float32 ``[n, *shape]``.
        """

    def _make(self, part: str, indices: np.ndarray) -> tuple[Tensor, Tensor]:
        x = np.empty((len(indices), *self.shape), dtype=str(self.dtype).removeprefix("torch."))
        y = np.empty(len(indices), dtype=np.int64)
        for start in range(0, len(indices), CHUNK):
            chunk = slice(start, start + CHUNK)
            x[chunk], y[chunk] = self._make_chunk(part, indices[chunk])
        return torch.from_numpy(x), torch.from_numpy(y)

    def _make_chunk(self, part: str, indices: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        uniform = np.empty((len(indices), self._uniforms))
        noise = np.empty((len(indices), *self.shape), dtype=np.float32)
        for row, index in enumerate(indices.tolist()):
            generator = self._generator(part, index)
            generator.random(out=uniform[row])
            generator.standard_normal(out=noise[row], dtype=np.float32)
        labels = self._labels(indices, uniform[:, 0])
        return self._draw(labels, uniform[:, 1:], noise), labels

    def _generator(self, part: str, index: int) -> np.random.Generator:
        return numpy_generator(self._seed, self.name, part, index)

    def _labels(self, indices: np.ndarray, uniform: np.ndarray) -> np.ndarray:
        drawn = np.minimum((uniform * self.classes).astype(np.int64), self.classes - 1)
        return np.where(indices >= 0, drawn, (-1 - indices) % self.classes)
