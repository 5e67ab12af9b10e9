"""Endless pictures, made as they are asked for."""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor

from scadles.data.preparation import Scale
from scadles.data.procedural import ProceduralDataset
from scadles.errors import ConfigError

NOISE_PER_SIDE = 0.45 / 32
MAX_NOISE = 0.5
ORIENTATIONS_PER_BAND = 5


class SyntheticImages(ProceduralDataset):
    """Pictures whose class is the orientation and frequency of a patch of stripes.

    Phase, place, size, contrast and colour of the patch are random, and a bright or dark blob and noise lie over it.
    So the mean picture of every class is the same grey: a linear model finds nothing, a small convolutional network
    does.

    Args:
        classes: at least 2. Many classes have orientations close together: 10 classes lie 36 degrees apart in two
            frequency bands, 100 classes 9 degrees apart in five.
        shape: (channels, height, width).
        test_samples: size of the test part.
        seed: of the run.

    Raises:
        ConfigError: fewer than 2 classes, or a shape or test part without samples.

    >>> data = SyntheticImages(10, (3, 32, 32), test_samples=4, seed=0)
    >>> x, y = data.samples(np.array([7, 123_456_789]))
    >>> x.shape, x.dtype, bool((data.samples(np.array([7]))[0] == x[:1]).all())
    (torch.Size([2, 3, 32, 32]), torch.uint8, True)
    """

    dtype = torch.uint8

    def __init__(self, classes: int, shape: tuple[int, ...], test_samples: int, seed: int) -> None:
        if len(shape) != 3 or min(shape) < 1:
            raise ConfigError(f"data.shape = {shape}: must be three sizes of at least 1 (channels, height, width)")
        super().__init__("synthetic-images", classes, shape, test_samples, seed, uniforms=10 + 2 * shape[0])

    @property
    def preparation(self) -> Scale:
        return Scale([128.0], [64.0])

    def prepare(self, x: Tensor) -> Tensor:
        """Return ``(x - 128) / 64`` as float32."""
        return (x.to(torch.float32) - 128.0) / 64.0

    def _draw(self, labels: np.ndarray, uniform: np.ndarray, noise: np.ndarray) -> np.ndarray:
        # Stripes on more pixels show through more noise: this keeps all sizes about equally hard.
        noise *= min(MAX_NOISE, NOISE_PER_SIDE * min(self.shape[1:]))
        noise += self._drawing(labels, uniform[:, :9], uniform[:, 9:])
        np.clip(noise * 127.0 + 128.5, 0.0, 255.0, out=noise)
        return noise.astype(np.uint8)

    def _drawing(self, labels: np.ndarray, u: np.ndarray, colours: np.ndarray) -> np.ndarray:
        """Return stripes and blob without noise, float32 ``[n, C, H, W]``, about -1 to 1.

        A grating under a Gaussian window is a sum of two products of a function of the row and one of the column, and
        a blob is one such product: all pictures are one batched matrix product of inner size 3.
        """
        channels, height, width = self.shape
        side = min(height, width)
        angle, cycles = self._stripes(labels, u[:, 0], u[:, 1])
        wave = 2 * np.pi * cycles
        row_wave, column_wave = wave * np.sin(angle), wave * np.cos(angle)
        phase, contrast = 2 * np.pi * u[:, 2], 0.2 + 0.5 * u[:, 3]
        rows, columns = (np.arange(height) + 0.5) / side, (np.arange(width) + 0.5) / side
        row0, column0 = (0.3 + 0.4 * u[:, 4]) * height / side, (0.3 + 0.4 * u[:, 5]) * width / side
        row_window = _window(rows, row0, 0.3)
        column_window = _window(columns, column0, 0.3)
        row_phase = np.outer(row_wave, rows) + phase[:, None]
        column_phase = np.outer(column_wave, columns)
        blob_rows = _window(rows, u[:, 6] * height / side, 0.12)
        blob_columns = _window(columns, u[:, 7] * width / side, 0.12)
        polarity = np.where(u[:, 8] < 0.5, -1.0, 1.0)
        stripe_colour = (contrast[:, None] * (0.4 + 0.6 * colours[:, :channels]))[:, :, None]
        blob_colour = (polarity[:, None] * (0.4 + 0.6 * colours[:, channels:]))[:, :, None]
        left = np.empty((len(labels), channels, height, 3), dtype=np.float32)
        left[..., 0] = stripe_colour * (row_window * np.cos(row_phase))[:, None]
        left[..., 1] = -stripe_colour * (row_window * np.sin(row_phase))[:, None]
        left[..., 2] = blob_colour * blob_rows[:, None]
        right = np.empty((len(labels), 3, width), dtype=np.float32)
        right[:, 0] = column_window * np.cos(column_phase)
        right[:, 1] = column_window * np.sin(column_phase)
        right[:, 2] = blob_columns
        product = left.reshape(len(labels), channels * height, 3) @ right
        return product.reshape(len(labels), channels, height, width)

    def _stripes(self, labels: np.ndarray, tilt: np.ndarray, stretch: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return the angle (radians) and frequency (cycles per shorter side) of each sample's stripes.

        ``tilt`` and ``stretch`` (0 to 1) vary both within the middle of what belongs to the class.
        """
        bands = math.ceil(math.sqrt(self.classes / ORIENTATIONS_PER_BAND))
        orientations = math.ceil(self.classes / bands)
        angle = np.pi / orientations * (labels // bands + 0.4 * (tilt - 0.5))
        side = min(self.shape[1:])
        low, high = min(3.0, side / 6), min(10.0, side / 3)
        place = (labels % bands + 0.5 + 0.4 * (stretch - 0.5)) / bands
        return angle, low * (high / low) ** place


def _window(places: np.ndarray, centre: np.ndarray, spread: float) -> np.ndarray:
    return np.asarray(np.exp(-0.5 * ((places - centre[:, None]) / spread) ** 2))
