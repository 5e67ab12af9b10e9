"""The gradients of all devices of a simulated cluster, added up as their fabric would.

Where a sample's gradient does not depend on what else is in its batch, one backward pass over all devices' samples
gives the same sum as one of each device (:class:`FusedGradients`); otherwise each device's is made by itself
(:mod:`scadles.simulation.per_device`).
"""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.modules.dropout import _DropoutNd

from scadles.data import Dataset, Partition
from scadles.device.buffer import Chunk
from scadles.device.learner import Learner
from scadles.device.transform import Transform
from scadles.records import Records
from scadles.simulation.injected import NO_MESSAGES, SampleMessage, SampleMessages, picked
from scadles.structures import Structure, answer, pick, tensors_in, to_torch_device
from scadles.tasks import Task, right_answers

_CHUNK_VALUES = 2**20
_CHUNK_SAMPLES = 2048
_PROBE = 4


class Shares(NamedTuple):
    """What devices bring to a step.

    Attributes:
        weights: of their gradients, 0 where one was not finite, float64 ``[n]``.
        losses: mean over each one's batch, 0 where that is not finite, float64 ``[n]``.
        correct: right answers on each one's own samples before they were trained on, int64 ``[n]``; 0 where targets are
            no class labels.
    """

    weights: np.ndarray
    losses: np.ndarray
    correct: np.ndarray

    @staticmethod
    def concatenate(parts: Sequence[Shares]) -> Shares:
        """Return those of some devices after those of others."""
        return Shares(*(np.concatenate(column) for column in zip(*parts, strict=True)))


class Lookup:
    """The way from what devices have taken to what the model takes.

    Args:
        dataset: what the streams play.
        partition: which device gets which samples.
        learner: prepares raw samples.
        transform: makes something else of what a device trains on; None leaves it as it is.
    """

    def __init__(
        self, dataset: Dataset, partition: Partition, learner: Learner, transform: Transform | None = None
    ) -> None:
        self._transform = transform
        self._dataset = dataset
        self._partition = partition
        self._learner = learner
        self.sample_values = int(np.prod(dataset.shape))

    def __call__(self, numbers: Sequence[int], taken: Sequence[Chunk]) -> tuple[Structure, Structure]:
        """Return prepared samples ``[n, *shape]`` and labels ``[n]`` of these devices, one device after the other."""
        return self._prepared(*self.raw(numbers, taken))

    def raw(self, numbers: Sequence[int], taken: Sequence[Chunk]) -> tuple[Tensor, Tensor]:
        """Return the same before it is prepared."""
        x, y = self._streamed(numbers, taken)
        if self._transform is None:
            return x, y
        step, parts = self._learner.step_number + 1, torch.split(x, [len(chunk) for chunk in taken])
        transform = self._transform
        made = [transform(part, number, step) for number, part in zip(numbers, parts, strict=True) if len(part)]
        return torch.cat(made), y

    def _streamed(self, numbers: Sequence[int], taken: Sequence[Chunk]) -> tuple[Tensor, Tensor]:
        if all(isinstance(chunk, Records) for chunk in taken):
            x = torch.cat([torch.as_tensor(chunk.x) for chunk in taken if isinstance(chunk, Records)])
            y = torch.cat([chunk.y for chunk in taken if isinstance(chunk, Records)])
        else:
            counts = np.array([len(chunk) for chunk in taken])
            firsts = np.array([chunk.first_offset for chunk in taken])
            begins = np.cumsum(counts) - counts
            offsets = np.repeat(firsts - begins, counts) + np.arange(counts.sum())
            x, y = self._dataset.samples(self._partition.indices(np.repeat(numbers, counts), offsets))
        return x, y

    def messages(self, messages: Sequence[SampleMessage]) -> tuple[Structure, Structure]:
        """Return prepared samples and labels of what devices share, one message after the other."""
        return self._prepared(*self.raw_messages(messages))

    def raw_messages(self, messages: Sequence[SampleMessage]) -> tuple[Tensor, Tensor]:
        """Return the same before it is prepared."""
        if all(isinstance(message.taken, Records) for message in messages):
            records = Records.concatenate([picked(message) for message in messages])
            return torch.as_tensor(records.x), records.y
        numbers = np.repeat([message.number for message in messages], [len(message.indices) for message in messages])
        offsets = np.concatenate([message.offsets for message in messages])
        return self._dataset.samples(self._partition.indices(numbers, offsets))

    def labels(self, number: int, offsets: np.ndarray) -> np.ndarray:
        """Return the labels of a device's samples at these offsets of its stream, int64 ``[n]``."""
        return self._dataset.labels(self._partition.indices(np.array([number]), offsets))

    def _prepared(self, x: Tensor, y: Tensor) -> tuple[Structure, Structure]:
        torch_device = self._learner.torch_device
        x, y = self._learner.pair(self._learner.prepare(x), y)
        return to_torch_device(x, torch_device), to_torch_device(y, torch_device)

    def example(self) -> tuple[Structure, Structure]:
        """Return a few prepared samples to try a model with, and their targets."""
        x, y = self._dataset.samples(np.arange(min(_PROBE, self._dataset.train_size or _PROBE)))
        if self._learner.statistics is None:
            return self._prepared(x, y)
        # nothing is known yet, and a model would get zeros, of which nobody can tell one from another
        plain, true = self._learner.pair(self._learner.statistics.plain(x), y)
        torch_device = self._learner.torch_device
        return to_torch_device(plain, torch_device), to_torch_device(true, torch_device)


class Gradients(ABC):
    """A way to make the sum of all devices' weighted gradients.

    Attributes:
        description: this way, in words.
    """

    description: str

    @abstractmethod
    def add_up(self, numbers: Sequence[int], taken: Sequence[Chunk], messages: SampleMessages = NO_MESSAGES) -> Shares:
        """Add each device's gradient, times its weight, to those that the parameters hold.

        Args:
            numbers: the devices, ascending.
            taken: what each has taken; with what the others share there is at least one sample.
            messages: what is shared; each device trains on that of all others as well.
        """


class NoGradients(Gradients):
    """For a cluster that learns nothing: everything is counted and charged, nothing is computed."""

    description = "none"

    def __init__(self, learner: Learner) -> None:
        self._learner = learner

    def add_up(self, numbers: Sequence[int], taken: Sequence[Chunk], messages: SampleMessages = NO_MESSAGES) -> Shares:
        losses = np.zeros(len(taken))
        sizes = np.array([len(chunk) for chunk in taken]) + messages.received(np.asarray(numbers))
        weights = self._learner.weights(sizes, losses)
        return Shares(weights, losses, np.zeros(len(taken), dtype=np.int64))


class FusedGradients(Gradients):
    """One backward pass over the samples of many devices, in chunks of at most 2,048 samples.

    What devices share passes through the model once more, and not once for each device that trains on it: its
    gradient counts as often as it is trained on.

    Args:
        learner: of a model in which no sample depends on others.
        lookup: finds the samples.
        one_by_one: takes over where a loss or gradient is not finite, and somebody has to be left out.
        task: whose loss is a mean of samples' losses.
    """

    description = "fused"

    def __init__(self, learner: Learner, lookup: Lookup, one_by_one: Gradients, task: Task) -> None:
        self._learner = learner
        self._lookup = lookup
        self._one_by_one = one_by_one
        self._task = task
        self._chunk = max(256, min(_CHUNK_SAMPLES, _CHUNK_VALUES // lookup.sample_values))

    def add_up(self, numbers: Sequence[int], taken: Sequence[Chunk], messages: SampleMessages = NO_MESSAGES) -> Shares:
        everybody, counts = np.asarray(numbers), np.array([len(chunk) for chunk in taken])
        sizes = counts + messages.received(everybody)
        weights = self._learner.weights(sizes, np.zeros(len(sizes)))
        parts = weights / sizes  # of each sample's gradient in its device's
        sums, correct = np.zeros(len(sizes)), np.zeros(len(sizes), dtype=np.int64)
        own = np.flatnonzero(counts)
        for chunk in chunks(counts[own], self._chunk) if len(own) else ():
            places = own[chunk]
            x, y = self._lookup(everybody[places].tolist(), [taken[place] for place in places.tolist()])
            sums[places], correct[places] = self._add(x, y, counts[places], parts[places])
        if messages:
            trained_by_others = parts.sum() - messages.of_all(everybody, parts)
            given = self._add_messages(messages, trained_by_others)
            sums += given.sum() - messages.of(everybody, given)
        gradients = [p.grad for p in self._learner.exchange.parameters if p.grad is not None]
        if np.isfinite(sums).all() and all(bool(torch.isfinite(gradient.sum())) for gradient in gradients):
            return Shares(weights, sums / sizes, correct)
        for gradient in gradients:
            gradient.fill_(-0.0)  # as if nothing had been added yet
        return self._one_by_one.add_up(numbers, taken, messages)

    def _add(self, x: Structure, y: Structure, counts: np.ndarray, parts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Add gradients of samples, so many with each part; return sums of losses and of right answers."""
        outputs, begins = answer(self._learner.model, x), np.cumsum(counts) - counts
        losses = self._task.each_loss(outputs, y)
        correct = np.zeros(len(counts), dtype=np.int64)
        if self._task.classes:
            right = right_answers(self._task.fit(outputs, y), y)
            correct = np.add.reduceat(right.cpu().numpy(), begins, dtype=np.int64)
        sums = np.add.reduceat(losses.detach().cpu().double().numpy(), begins)
        if np.isfinite(sums).all():
            if (parts != 1).any():
                losses = losses * torch.from_numpy(np.repeat(parts, counts)).to(losses)
            losses.sum().backward()  # type: ignore[no-untyped-call]
        return sums, correct

    def _add_messages(self, messages: SampleMessages, parts: np.ndarray) -> np.ndarray:
        """Add the gradients of what is shared, weighting each message; return its sum of losses, float64 ``[k]``."""
        x, y = messages.all(self._lookup.messages)
        sums, ends = np.zeros(len(messages.counts)), np.cumsum(messages.counts)
        for chunk in chunks(messages.counts, self._chunk):
            samples = slice(int(ends[chunk][0] - messages.counts[chunk][0]), int(ends[chunk][-1]))
            sums[chunk], _ = self._add(pick(x, samples), pick(y, samples), messages.counts[chunk], parts[chunk])
        return sums


def chunks(sizes: Sequence[int] | np.ndarray, limit: int) -> list[slice]:
    """Return slices of ``sizes`` whose sums are at most ``limit``; a larger one stands alone.

    >>> chunks([3, 4, 9, 1], 8)
    [slice(0, 2, None), slice(2, 3, None), slice(3, 4, None)]
    """
    parts, start, filled = [], 0, 0
    for i, size in enumerate(sizes):
        if i > start and filled + size > limit:
            parts.append(slice(start, i))
            start, filled = i, 0
        filled += size
    return [*parts, slice(start, len(sizes))]


def mixes_samples(model: nn.Module, x: Structure) -> bool:
    """Whether, in training, a sample's output depends on the others in its batch, as BatchNorm makes it.

    Found out by trying it on a copy of the model; dropout is switched off for that, because it draws anew each time.

    Args:
        model: with outputs ``[b, ...]``, or several in a dictionary, list or tuple.
        x: at least four samples ``[b, *shape]``, or their parts.

    >>> mixes_samples(nn.Linear(3, 2), torch.eye(3)), mixes_samples(nn.BatchNorm1d(3), torch.eye(3))
    (False, True)
    """
    tried = copy.deepcopy(model).train()
    for part in tried.modules():
        if isinstance(part, _DropoutNd):
            part.eval()
    with torch.no_grad():
        whole, half = (
            [tensor for tensor in tensors_in(answer(tried, some)) if tensor.dim()] for some in (x, pick(x, slice(2)))
        )
    return not all(torch.allclose(a[:2], b, rtol=1e-3, atol=1e-5) for a, b in zip(whole, half, strict=True))
