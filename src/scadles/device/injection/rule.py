"""Who shares how much in which step: agreed from the seed, without a message."""

from __future__ import annotations

import math

import numpy as np

from scadles.seeding import numpy_generator

# products such as 0.1 * 30 end a hair beside the whole number that is meant
_ROUNDING = 1e-9


class Injection:
    """Each step a random ``ceil(alpha N)`` of the devices share a random ``int(beta b)`` of the samples of their
    present batch with all others (paper, section IV, data injection).

    Every device draws the same senders from (seed, step), so that nobody needs to be told who will send.

    Args:
        alpha: share of the devices, above 0, at most 1.
        beta: share of a batch, above 0, at most 1.
        devices: N.
        seed: of the run.

    >>> injection = Injection(alpha=0.25, beta=0.5, devices=10, seed=0)
    >>> len(injection.senders(step=1)), len(injection.indices(device=3, step=1, size=39))
    (3, 19)
    """

    def __init__(self, alpha: float, beta: float, devices: int, seed: int) -> None:
        self.alpha = alpha
        self.beta = beta
        self.devices = devices
        self._seed = seed
        self._senders_each_step = math.ceil(alpha * devices - _ROUNDING)

    def senders(self, step: int) -> tuple[int, ...]:
        """Return the devices that share in a step, ascending; the same wherever it is asked."""
        drawn = numpy_generator(self._seed, "injection", step).permutation(self.devices)[: self._senders_each_step]
        return tuple(np.sort(drawn).tolist())

    def indices(self, device: int, step: int, size: int) -> np.ndarray:
        """Return which of the ``size`` samples of its batch a device shares, if it does, int64 ascending."""
        generator = numpy_generator(self._seed, device, "injection", step)
        return np.sort(generator.permutation(size)[: self.count(size)])

    def count(self, size: int) -> int:
        """Return how many of ``size`` samples are shared."""
        return int(self.beta * size + _ROUNDING)

    @property
    def growth(self) -> float:
        """How many times larger a batch is with what the others share: ``1 + alpha beta N``."""
        return 1 + self.alpha * self.beta * self.devices
