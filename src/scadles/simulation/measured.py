"""What all devices of a simulated cluster measure of their batches, where samples are normalised by that."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from scadles.data.running import RunningStatistics
from scadles.device.buffer import Chunk
from scadles.simulation.gradients import Gradients, Lookup, Shares, chunks
from scadles.simulation.injected import NO_MESSAGES, SampleMessages

_CHUNK_SAMPLES = 2048


class MeasuredGradients(Gradients):
    """Another way to make gradients, and beside it the mean of what devices measure, with the gradients' weights.

    Args:
        inner: makes the gradients.
        lookup: finds the samples.
        statistics: is given the mean.
    """

    def __init__(self, inner: Gradients, lookup: Lookup, statistics: RunningStatistics) -> None:
        self.description = inner.description
        self._inner = inner
        self._lookup = lookup
        self._statistics = statistics

    def add_up(self, numbers: Sequence[int], taken: Sequence[Chunk], messages: SampleMessages = NO_MESSAGES) -> Shares:
        shares = self._inner.add_up(numbers, taken, messages)
        total = float(shares.weights.sum())
        self._statistics.receive(self._mean(np.asarray(numbers), taken, messages, shares.weights) if total else None)
        return shares

    def _mean(
        self, numbers: np.ndarray, taken: Sequence[Chunk], messages: SampleMessages, weights: np.ndarray
    ) -> Tensor:
        counts = np.array([len(chunk) for chunk in taken])
        parts = weights / (counts + messages.received(numbers)) / weights.sum()  # of each sample in the mean
        mean = torch.zeros(self._statistics.size, dtype=torch.float64)
        own = np.flatnonzero(counts)
        for chunk in chunks(counts[own], _CHUNK_SAMPLES) if len(own) else ():
            places = own[chunk]
            x, _ = self._lookup.raw(numbers[places].tolist(), [taken[place] for place in places.tolist()])
            mean += self._weighed(x, np.repeat(parts[places], counts[places]))
        if messages:
            x, _ = self._lookup.raw_messages(messages.messages)
            by_others = parts.sum() - messages.of_all(numbers, parts)
            mean += self._weighed(x, np.repeat(by_others, messages.counts))
        return mean

    def _weighed(self, x: Tensor, parts: np.ndarray) -> Tensor:
        return torch.from_numpy(parts) @ self._statistics.moments(x)
