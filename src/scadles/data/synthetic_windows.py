"""Endless windows of sensor values, made as they are asked for."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from scadles.data.procedural import ProceduralDataset
from scadles.errors import ConfigError

NOISE = 0.4
SHORTEST = 16
_FIXED = 4
_OF_CHANNEL = 3


class SyntheticWindows(ProceduralDataset):
    """Windows whose class is how fast a passing oscillation is.

    All channels see it, each with an amplitude and a delay of its own; where in the window it is, its phase and a slow
    drift are random, and noise lies over it. So the mean window of every class is zero: a linear model finds nothing, a
    small convolution over time does.

    Args:
        classes: at least 2; many have speeds close together.
        shape: (channels, time), time at least 16.
        test_samples: size of the test part.
        seed: of the run.

    Raises:
        ConfigError: fewer than 2 classes, or a shape or test part without samples.

    >>> data = SyntheticWindows(6, (9, 128), test_samples=4, seed=0)
    >>> x, y = data.samples(np.array([7, 123_456_789]))
    >>> x.shape, x.dtype, bool((data.samples(np.array([7]))[0] == x[:1]).all())
    (torch.Size([2, 9, 128]), torch.float32, True)
    """

    dtype = torch.float32

    def __init__(self, classes: int, shape: tuple[int, ...], test_samples: int, seed: int) -> None:
        if len(shape) != 2 or shape[0] < 1 or shape[1] < SHORTEST:
            raise ConfigError(
                f"data.shape = {list(shape)}: synthetic-windows needs channels and time, time at least {SHORTEST}, for "
                "example [9, 128]"
            )
        uniforms = 1 + _FIXED + _OF_CHANNEL * shape[0]
        super().__init__("synthetic-windows", classes, shape, test_samples, seed, uniforms)

    def prepare(self, x: Tensor) -> Tensor:
        """Return ``x`` as float32: it is about -2 to 2."""
        return x.to(torch.float32)

    def _draw(self, labels: np.ndarray, uniform: np.ndarray, noise: np.ndarray) -> np.ndarray:
        length = self.shape[1]
        jitter, phase, centre, drift = uniform[:, :_FIXED].T
        amplitude, delay, slow = np.split(uniform[:, _FIXED:, None], _OF_CHANNEL, axis=1)
        times = (np.arange(length) + 0.5) / length
        slowest, fastest = 2.5, length / 5
        place = (labels + 0.5 + 0.5 * (jitter - 0.5)) / self.classes
        cycles = slowest * (fastest / slowest) ** place
        angle = 2 * np.pi * (cycles[:, None] * times + phase[:, None])
        window = np.exp(-0.5 * ((times - (0.25 + 0.5 * centre)[:, None]) / 0.25) ** 2)
        wave = window[:, None] * (0.4 + 0.8 * amplitude) * np.cos(angle[:, None] + np.pi * delay)
        trend = drift[:, None, None] * np.cos(np.pi * (times * (0.5 + drift[:, None, None]) + 2 * slow))
        noise *= NOISE
        noise += wave + trend
        return noise
