"""The samples that simulated devices share in a step, kept once, whoever trains on them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import torch

from scadles.device.buffer import Chunk
from scadles.records import Records
from scadles.structures import Structure, concatenate, pick


class SampleMessage(NamedTuple):
    """What one device shares.

    Attributes:
        number: the device.
        taken: the batch that its samples are from.
        indices: of these in the batch, int64 ascending.
        offsets: where in the device's stream they are, int64 ascending.
    """

    number: int
    taken: Chunk
    indices: np.ndarray
    offsets: np.ndarray


Find = Callable[[Sequence[SampleMessage]], tuple[Structure, Structure]]


class SampleMessages:
    """All messages of a step: everybody gets all of them but its own.

    Args:
        messages: of the senders, by number.

    >>> from scadles.records import Span
    >>> two, one = np.array([2, 5]), np.array([0])
    >>> messages = SampleMessages([SampleMessage(1, Span(0, 8), two, two), SampleMessage(3, Span(0, 8), one, one)])
    >>> messages.received(np.arange(4)).tolist()
    [3, 1, 3, 2]
    """

    def __init__(self, messages: Sequence[SampleMessage]) -> None:
        self.messages = [message for message in messages if len(message.indices)]
        self.numbers = np.array([message.number for message in self.messages], dtype=np.int64)
        self.counts = np.array([len(message.indices) for message in self.messages], dtype=np.int64)
        self._found: tuple[Structure, Structure] | None = None

    def __bool__(self) -> bool:
        return bool(self.messages)

    def received(self, numbers: np.ndarray) -> np.ndarray:
        """Return how many samples these devices get, int64 ``[n]``."""
        return np.asarray(self.counts.sum() - self.of(numbers, self.counts))

    def of(self, numbers: np.ndarray, values: np.ndarray) -> np.ndarray:
        """Return each device's own of the ``values`` that belong to the messages, 0 for who sends nothing, ``[n]``."""
        if not self.messages:
            return np.zeros(len(numbers), dtype=values.dtype)
        indices = np.minimum(np.searchsorted(self.numbers, numbers), len(self.numbers) - 1)
        return np.where(self.numbers[indices] == numbers, values[indices], 0)

    def of_all(self, numbers: np.ndarray, values: np.ndarray) -> np.ndarray:
        """Return the senders' own of the ``values`` that belong to these devices, 0 for who is not there, ``[k]``."""
        indices = np.minimum(np.searchsorted(numbers, self.numbers), len(numbers) - 1)
        return np.where(numbers[indices] == self.numbers, values[indices], 0)

    def all(self, find: Find) -> tuple[Structure, Structure]:
        """Return samples and labels of all messages, one message after the other; they are looked up once."""
        if self._found is None:
            self._found = find(self.messages)
        return self._found

    def of_others(self, number: int, find: Find) -> tuple[Structure, Structure]:
        """Return what a device gets."""
        x, y = self.all(find)
        index = int(np.searchsorted(self.numbers, number))
        if index == len(self.numbers) or self.numbers[index] != number:
            return x, y
        begin = int(self.counts[:index].sum())
        end = begin + int(self.counts[index])
        others = slice(begin), slice(end, None)
        return concatenate([pick(x, part) for part in others]), concatenate([pick(y, part) for part in others])


NO_MESSAGES = SampleMessages([])


def picked(message: SampleMessage) -> Records:
    """Return the records of a message that holds samples."""
    taken, indices = message.taken, message.indices
    if not isinstance(taken, Records):
        raise TypeError("a span holds no samples")
    chosen = torch.from_numpy(indices)
    return Records(taken.offsets[indices], taken.times[indices], torch.as_tensor(taken.x)[chosen], taken.y[chosen])
