"""Which entries of an update are sent."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from scadles.errors import ConfigError
from scadles.exchange.compression.blocks import one_of_each
from scadles.exchange.compression.sparse import Sparse
from scadles.seeding import numpy_generator


class Selector(ABC):
    """A rule that picks at most ``k`` entries.

    Attributes:
        k: the most it picks.
    """

    k: int

    @abstractmethod
    def select(self, values: Tensor, step: int | None = None) -> Tensor:
        """Return ascending indices, int64 ``[<= k]``, of a float32 vector.

        Args:
            values: all finite.
            step: of the run, for rules that draw; None counts the calls.
        """

    def pick(self, values: Tensor, step: int | None = None) -> Sparse:
        """Return the selected entries with their values."""
        indices = self.select(values, step)
        return Sparse(indices, values.index_select(0, indices))

    def state(self) -> list[Any]:
        """Return what a checkpoint must hold for the next selection to be the same, where it depends on the last."""
        return []

    def load(self, state: list[Any]) -> None:  # noqa: B027 - most carry nothing
        """Go on from a state."""


class ExactTopK(Selector):
    """The ``k`` largest magnitudes (all, where there are fewer), by torch.topk.

    >>> ExactTopK(2).select(torch.tensor([1.0, -3.0, 0.5, 2.0])).tolist()
    [1, 3]
    """

    def __init__(self, k: int) -> None:
        self.k = _checked(k)

    def select(self, values: Tensor, step: int | None = None) -> Tensor:
        k = min(self.k, values.numel())
        return torch.topk(values.abs(), k, sorted=False).indices.sort().values


class RandomK(Selector):
    """``k`` entries drawn anew each step, one from each of ``k`` equal stretches, all equally likely.

    Args:
        k: entries (all, where there are fewer).
        seed: of the run.
        rank: of this device.

    >>> len(RandomK(3, seed=0).select(torch.zeros(100), step=5))
    3
    """

    def __init__(self, k: int, seed: int, rank: int = 0) -> None:
        self.k = _checked(k)
        self._seed = seed
        self._rank = rank
        self._calls = 0

    def select(self, values: Tensor, step: int | None = None) -> Tensor:
        self._calls += 1
        n = values.numel()
        generator = numpy_generator(self._seed, self._rank, "random-k", self._calls if step is None else step)
        return torch.from_numpy(one_of_each(min(self.k, n), n, generator)).to(values.device)


class PerSlice(Selector):
    """A selector of its own for each slice of the vector: for each layer, or for each bucket.

    Args:
        sizes: of consecutive slices, which together are the vector.
        selectors: one for each slice.

    >>> PerSlice([2, 3], [ExactTopK(1), ExactTopK(1)]).select(torch.tensor([5.0, 9.0, 1.0, 2.0, 0.0])).tolist()
    [1, 3]
    """

    def __init__(self, sizes: Sequence[int], selectors: Sequence[Selector]) -> None:
        if len(sizes) != len(selectors):
            raise ConfigError(f"sizes has {len(sizes)} entries for {len(selectors)} selectors: give one for each slice")
        self._sizes = list(sizes)
        self._selectors = list(selectors)
        self.k = sum(selector.k for selector in selectors)

    def select(self, values: Tensor, step: int | None = None) -> Tensor:
        if values.numel() != sum(self._sizes):
            raise ConfigError(f"sizes add up to {sum(self._sizes)}, the update has {values.numel()} values")
        starts = np.cumsum([0, *self._sizes[:-1]]).tolist()
        parts = zip(self._selectors, torch.split(values, self._sizes), starts, strict=True)
        return torch.cat([selector.select(part, step) + start for selector, part, start in parts])

    def state(self) -> list[Any]:
        return [selector.state() for selector in self._selectors]

    def load(self, state: list[Any]) -> None:
        for selector, theirs in zip(self._selectors, state, strict=True):
            selector.load(theirs)


def _checked(k: int) -> int:
    if k < 1:
        raise ConfigError(f"k = {k}: at least 1 entry must be kept")
    return k
