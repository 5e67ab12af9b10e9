"""The samples that simulated devices share in a step, kept once, whoever trains on them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from scadles.device.buffer import Chunk
from scadles.records import Records


class Gift(NamedTuple):
    """What one device shares.

    Attributes:
        number: the device.
        taken: the batch that its samples are from.
        places: of these in the batch, int64 ascending.
        offsets: where in the device's stream they are, int64 ascending.
    """

    number: int
    taken: Chunk
    places: np.ndarray
    offsets: np.ndarray


Find = Callable[[Sequence[Gift]], tuple[Tensor, Tensor]]


class Gifts:
    """All gifts of a step: everybody gets all of them but its own.

    Args:
        gifts: of the sharers that have something to give, by number.

    >>> from scadles.records import Span
    >>> two, one = np.array([2, 5]), np.array([0])
    >>> gifts = Gifts([Gift(1, Span(0, 8), two, two), Gift(3, Span(0, 8), one, one)])
    >>> gifts.received(np.arange(4)).tolist()
    [3, 1, 3, 2]
    """

    def __init__(self, gifts: Sequence[Gift]) -> None:
        self.gifts = [gift for gift in gifts if len(gift.places)]
        self.numbers = np.array([gift.number for gift in self.gifts], dtype=np.int64)
        self.counts = np.array([len(gift.places) for gift in self.gifts], dtype=np.int64)
        self._found: tuple[Tensor, Tensor] | None = None

    def __bool__(self) -> bool:
        return bool(self.gifts)

    def received(self, numbers: np.ndarray) -> np.ndarray:
        """Return how many samples these devices get, int64 ``[n]``."""
        return np.asarray(self.counts.sum() - self.of(numbers, self.counts))

    def of(self, numbers: np.ndarray, values: np.ndarray) -> np.ndarray:
        """Return each device's own of the ``values`` that belong to the gifts, 0 for who gives nothing, ``[n]``."""
        if not self.gifts:
            return np.zeros(len(numbers), dtype=values.dtype)
        places = np.minimum(np.searchsorted(self.numbers, numbers), len(self.numbers) - 1)
        return np.where(self.numbers[places] == numbers, values[places], 0)

    def of_all(self, numbers: np.ndarray, values: np.ndarray) -> np.ndarray:
        """Return the givers' own of the ``values`` that belong to these devices, 0 for who is not there, ``[k]``."""
        places = np.minimum(np.searchsorted(numbers, self.numbers), len(numbers) - 1)
        return np.where(numbers[places] == self.numbers, values[places], 0)

    def all(self, find: Find) -> tuple[Tensor, Tensor]:
        """Return samples and labels of all gifts, one gift after the other; they are looked up once."""
        if self._found is None:
            self._found = find(self.gifts)
        return self._found

    def of_others(self, number: int, find: Find) -> tuple[Tensor, Tensor]:
        """Return what a device gets."""
        x, y = self.all(find)
        place = int(np.searchsorted(self.numbers, number))
        if place == len(self.numbers) or self.numbers[place] != number:
            return x, y
        begin = int(self.counts[:place].sum())
        end = begin + int(self.counts[place])
        return torch.cat([x[:begin], x[end:]]), torch.cat([y[:begin], y[end:]])


NO_GIFTS = Gifts([])


def picked(gift: Gift) -> Records:
    """Return the records of a gift that holds samples."""
    taken, places = gift.taken, gift.places
    if not isinstance(taken, Records):
        raise TypeError("a span holds no samples")
    chosen = torch.from_numpy(places)
    return Records(taken.offsets[places], taken.times[places], torch.as_tensor(taken.x)[chosen], taken.y[chosen])
