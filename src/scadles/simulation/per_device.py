"""Each device's gradient by itself: many small models at once through ``torch.func``, or one after the other."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.func import functional_call, grad_and_value, vmap
from torch.nn.functional import cross_entropy

from scadles.buffer import Chunk
from scadles.learner import Learner
from scadles.simulation.gradients import Gradients, Lookup, LossFunction, Shares
from scadles.simulation.statistics import FleetStatistics

# Larger networks keep a core busy by themselves: batching them saves nothing and takes memory for every device.
_SMALL_NETWORK = 100_000
_BATCHED_VALUES = 2**21
_MOST_AT_ONCE = 256
_FEWEST_AT_ONCE = 4


class LoopedGradients(Gradients):
    """One device after the other, as each device process would do it.

    Args:
        learner: the model, with the rule of weights.
        lookup: finds the samples.
        loss: mean loss of (outputs, labels).
        statistics: BatchNorm's, of each device.
    """

    description = "per device, one after the other"

    def __init__(self, learner: Learner, lookup: Lookup, loss: LossFunction, statistics: FleetStatistics) -> None:
        self._learner = learner
        self._lookup = lookup
        self._loss = loss
        self._statistics = statistics

    def add_up(self, numbers: Sequence[int], taken: Sequence[Chunk]) -> Shares:
        found = [self._add(number, chunk) for number, chunk in zip(numbers, taken, strict=True)]
        return Shares(*(np.array(column) for column in zip(*found, strict=True)))

    def _add(self, number: int, taken: Chunk) -> tuple[float, float]:
        """Add one device's gradient; return its weight and loss."""
        x, y = self._lookup([number], [taken])
        self._statistics.load(number)
        loss = self._loss(self._learner.model(x), y)
        value = float(loss.detach())
        weight = float(self._learner.weights(np.array(len(taken)), np.array(value)))
        parameters = self._learner.exchange.parameters
        if weight:
            found = torch.autograd.grad(loss * weight, parameters, allow_unused=True)
            if all(bool(torch.isfinite(grad.sum())) for grad in found if grad is not None):
                for parameter, grad in zip(parameters, found, strict=True):
                    if grad is not None and parameter.grad is not None:
                        parameter.grad.add_(grad)
                self._statistics.keep(number, len(taken))
                return weight, value
        return 0.0, 0.0


class BatchedGradients(Gradients):
    """Up to 256 devices at once, each with its own gradient: ``torch.func.vmap`` over ``grad``.

    Batches of different size are filled up with samples of weight 0, unless the model mixes samples: then only equal
    ones go together and the rest one after the other.

    Args:
        learner: a small network whose loss is cross-entropy.
        lookup: finds the samples.
        one_by_one: does what cannot be batched.
        statistics: BatchNorm's, of each device.
        mixing: whether samples of a batch depend on each other.
    """

    description = "per device, batched by torch.func"

    def __init__(
        self, learner: Learner, lookup: Lookup, one_by_one: Gradients, statistics: FleetStatistics, *, mixing: bool
    ) -> None:
        self._learner = learner
        self._lookup = lookup
        self._one_by_one = one_by_one
        self._statistics = statistics
        self._mixing = mixing
        trainable = {name: p for name, p in learner.model.named_parameters() if p.requires_grad}
        self._parameters = {name: p.detach() for name, p in trainable.items()}
        self._targets = trainable
        size = sum(p.numel() for p in trainable.values())
        self._at_once = max(_FEWEST_AT_ONCE, min(_MOST_AT_ONCE, _BATCHED_VALUES // size))
        self._gradient = vmap(grad_and_value(self._loss), in_dims=(None, 0, 0, 0, 0), randomness="different")

    @staticmethod
    def suits(learner: Learner) -> bool:
        """Whether batching pays for this network: small ones spend most of their time on calls."""
        return sum(p.numel() for p in learner.exchange.parameters) <= _SMALL_NETWORK

    def add_up(self, numbers: Sequence[int], taken: Sequence[Chunk]) -> Shares:
        shares = Shares(np.zeros(len(numbers)), np.zeros(len(numbers)))
        for places in self._groups([len(chunk) for chunk in taken]):
            some, theirs = [numbers[i] for i in places], [taken[i] for i in places]
            alone = self._mixing and len(places) < _FEWEST_AT_ONCE
            found = self._one_by_one.add_up(some, theirs) if alone else self._add_together(some, theirs)
            shares.weights[places], shares.losses[places] = found
        return shares

    def _groups(self, sizes: Sequence[int]) -> list[list[int]]:
        """Return places in ``sizes``, alike in size (equal where the model mixes samples), some at once."""
        order = sorted(range(len(sizes)), key=sizes.__getitem__)
        runs = [list(run) for _, run in groupby(order, key=sizes.__getitem__)] if self._mixing else [order]
        return [run[i : i + self._at_once] for run in runs for i in range(0, len(run), self._at_once)]

    def _loss(self, parameters: Any, buffers: Any, x: Tensor, y: Tensor, factors: Tensor) -> Tensor:
        losses = cross_entropy(functional_call(self._learner.model, (parameters, buffers), (x,)), y, reduction="none")
        return (losses * factors).sum()

    def _add_together(self, numbers: Sequence[int], taken: Sequence[Chunk]) -> Shares:
        counts = np.array([len(chunk) for chunk in taken])
        x, y, factors = self._filled_up(counts, *self._lookup(numbers, taken))
        buffers = self._statistics.stacked(numbers)
        gradients, losses = self._gradient(self._parameters, buffers, x, y, factors)
        values = losses.detach().cpu().double().numpy()
        weights = self._learner.weights(counts, values)
        sums = sum(grad.flatten(1).sum(dim=1) for grad in gradients.values()) + losses
        if not bool(torch.isfinite(sums).all()):
            return self._one_by_one.add_up(numbers, taken)
        scales = torch.from_numpy(weights).to(losses)
        for name, grad in gradients.items():
            target = self._targets[name].grad
            if target is not None:
                target.view(-1).add_(scales @ grad.flatten(1))
        self._statistics.keep_stacked(numbers, buffers, counts)
        return Shares(weights, values)

    def _filled_up(self, counts: np.ndarray, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return samples ``[devices, most, *shape]``, labels and each sample's part in its device's mean."""
        devices, most = len(counts), int(counts.max())
        here = torch.from_numpy(np.arange(most) < counts[:, None]).to(x.device)
        factors = here.to(x.dtype) / torch.from_numpy(counts).to(x)[:, None]
        if int(counts.min()) == most:
            return x.view(devices, most, *x.shape[1:]), y.view(devices, most), factors
        full_x, full_y = x.new_zeros(devices, most, *x.shape[1:]), y.new_zeros(devices, most)
        full_x[here], full_y[here] = x, y
        return full_x, full_y, factors
