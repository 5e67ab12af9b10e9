"""Each device's gradient by itself: many small models at once through ``torch.func``, or one after the other."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.func import functional_call, grad_and_value, vmap
from torch.nn.modules.conv import _ConvNd

from scadles.device.buffer import Chunk
from scadles.device.learner import Learner
from scadles.exchange.aggregation import NOT_FINITE
from scadles.exchange.reduction import SeparateExchange
from scadles.simulation.batchnorm import ClusterStatistics
from scadles.simulation.gradients import Gradients, Lookup, Shares
from scadles.simulation.injected import NO_MESSAGES, SampleMessages
from scadles.structures import Structure, answer, arguments, concatenate, count, map_tensors, tensors_in
from scadles.tasks import Task, right_answers

# Larger networks keep a core busy by themselves: batching them saves little and takes memory for every device.
_SMALL_NETWORK = 300_000
_BATCHED_VALUES = 2**21
_MOST_AT_ONCE = 256


class LoopedGradients(Gradients):
    """One device after the other, as each device process would do it.

    Args:
        learner: the model, with the rule of weights.
        lookup: finds the samples.
        task: what is minimised.
        statistics: BatchNorm's, of each device.
    """

    description = "per device, one after the other"

    def __init__(self, learner: Learner, lookup: Lookup, task: Task, statistics: ClusterStatistics) -> None:
        self._learner = learner
        self._lookup = lookup
        self._task = task
        self._statistics = statistics

    def add_up(self, numbers: Sequence[int], taken: Sequence[Chunk], messages: SampleMessages = NO_MESSAGES) -> Shares:
        found = [self._add(number, chunk, messages) for number, chunk in zip(numbers, taken, strict=True)]
        return Shares(*(np.array(column) for column in zip(*found, strict=True)))

    def _add(self, number: int, taken: Chunk, messages: SampleMessages) -> tuple[float, float, int]:
        """Add one device's gradient; return its weight, loss and right answers on its own samples."""
        x, y = self._batch(number, taken, messages)
        self._statistics.load(number)
        outputs = answer(self._learner.model, x)
        loss = self._task.minimised(outputs, y)
        value = float(loss.detach())
        weight = self._learner.weight(count(y), value, self._task.weight(y))
        parameters = self._learner.exchange.parameters
        if weight:
            found = torch.autograd.grad(loss * weight, parameters, allow_unused=True)
            if all(bool(torch.isfinite(grad.sum())) for grad in found if grad is not None):
                for parameter, grad in zip(parameters, found, strict=True):
                    if grad is not None and parameter.grad is not None:
                        parameter.grad.add_(grad)
                self._statistics.keep(number, count(y))
                own = len(taken)
                if not self._task.classes:
                    return weight, value, 0
                answers = self._task.fit(outputs, y)
                return weight, value, int(right_answers(answers[:own], y[:own]).sum())
        return 0.0, NOT_FINITE if weight or not math.isfinite(value) else 0.0, 0

    def _batch(self, number: int, taken: Chunk, messages: SampleMessages) -> tuple[Structure, Structure]:
        """Return a device's own samples, then what the others share."""
        parts = [self._lookup([number], [taken])] if len(taken) else []
        if messages.received(np.array([number]))[0]:
            parts.append(messages.of_others(number, self._lookup.messages))
        if len(parts) == 1:
            return parts[0]
        x, y = zip(*parts, strict=True)
        return concatenate(x), concatenate(y)


class SeparateGradients(Gradients):
    """Each device's gradient kept apart, where devices compress what they send, or it is looked at by itself.

    Args:
        exchange: takes each device's.
        one_by_one: makes them.
    """

    description = "per device, kept apart"

    def __init__(self, exchange: SeparateExchange, one_by_one: Gradients) -> None:
        self._exchange = exchange
        self._one_by_one = one_by_one

    def add_up(self, numbers: Sequence[int], taken: Sequence[Chunk], messages: SampleMessages = NO_MESSAGES) -> Shares:
        shares = []
        for number, chunk in zip(numbers, taken, strict=True):
            shares.append(self._one_by_one.add_up([number], [chunk], messages))
            self._exchange.take_update(number)
        return Shares.concatenate(shares)


class BatchedGradients(Gradients):
    """Up to 256 devices at once, each with its own gradient: ``torch.func.vmap`` over ``grad``.

    Batches of different size are filled up with samples of weight 0. Where samples are shared, batches are so large
    that one device after the other is as fast and takes less memory.

    Args:
        learner: a model in which no sample depends on others.
        lookup: finds the samples.
        one_by_one: takes over where a loss or gradient is not finite, and somebody has to be left out.
        task: whose loss is a mean of samples' losses.
    """

    description = "per device, batched by torch.func"

    def __init__(self, learner: Learner, lookup: Lookup, one_by_one: Gradients, task: Task) -> None:
        self._task = task
        self._learner = learner
        self._lookup = lookup
        self._one_by_one = one_by_one
        self._trained = _used(learner.model, task, *lookup.example())
        self._parameters = {name: p.detach() for name, p in self._trained.items()}
        size = sum(p.numel() for p in self._parameters.values())
        self._at_once = max(1, min(_MOST_AT_ONCE, _BATCHED_VALUES // size))
        self._gradient = vmap(grad_and_value(self._loss, has_aux=True), in_dims=(None, 0, 0, 0), randomness="different")

    @staticmethod
    def suits(learner: Learner) -> bool:
        """Whether batching pays: for small networks, which spend most of their time on calls, without convolutions.

        A batch of convolutions with weights of their own takes twice as long as one after the other (docs/log.md).
        """
        convolves = any(isinstance(part, _ConvNd) for part in learner.model.modules())
        return not convolves and sum(p.numel() for p in learner.exchange.parameters) <= _SMALL_NETWORK

    def add_up(self, numbers: Sequence[int], taken: Sequence[Chunk], messages: SampleMessages = NO_MESSAGES) -> Shares:
        if messages:
            return self._one_by_one.add_up(numbers, taken, messages)
        shares = Shares(np.zeros(len(numbers)), np.zeros(len(numbers)), np.zeros(len(numbers), dtype=np.int64))
        order = sorted(range(len(taken)), key=lambda place: len(taken[place]))  # alike in size: little to fill up
        for start in range(0, len(order), self._at_once):
            places = order[start : start + self._at_once]
            found = self._add_together([numbers[i] for i in places], [taken[i] for i in places])
            for column, values in zip(shares, found, strict=True):
                column[places] = values
        return shares

    def _loss(self, parameters: Any, x: Structure, y: Structure, factors: Tensor) -> tuple[Tensor, Tensor]:
        outputs = functional_call(self._learner.model, parameters, *arguments(x))
        losses = self._task.each_loss(outputs, y)
        right = torch.zeros_like(factors, dtype=torch.bool)
        if self._task.classes:
            right = right_answers(self._task.fit(outputs, y), y)
        return (losses * factors).sum(), (right & (factors > 0)).sum()

    def _add_together(self, numbers: Sequence[int], taken: Sequence[Chunk]) -> Shares:
        counts = np.array([len(chunk) for chunk in taken])
        x, y, factors = _filled_up(counts, *self._lookup(numbers, taken))
        gradients, (losses, correct) = self._gradient(self._parameters, x, y, factors)
        sums = sum(gradient.flatten(1).sum(dim=1) for gradient in gradients.values()) + losses
        if not bool(torch.isfinite(sums).all()):
            return self._one_by_one.add_up(numbers, taken)
        values = losses.detach().cpu().double().numpy()
        weights = self._learner.weights(counts, values)
        scales = torch.from_numpy(weights).to(losses)
        for name, gradient in gradients.items():
            total = self._trained[name].grad
            if total is not None:
                total.view(-1).add_(scales @ gradient.flatten(1))
        return Shares(weights, values, correct.cpu().numpy())


def _used(model: nn.Module, task: Task, x: Structure, y: Structure) -> dict[str, nn.Parameter]:
    """Return the parameters that have a part in the loss of samples: torch.func gives zeros for the rest."""
    named = {name: p for name, p in model.named_parameters() if p.requires_grad}
    with torch.random.fork_rng(), torch.enable_grad():
        found = torch.autograd.grad(task.each_loss(answer(model, x), y).sum(), list(named.values()), allow_unused=True)
    return {name: p for (name, p), gradient in zip(named.items(), found, strict=True) if gradient is not None}


def _filled_up(counts: np.ndarray, x: Structure, y: Structure) -> tuple[Structure, Structure, Tensor]:
    """Return samples ``[devices, most, *shape]``, targets, and each sample's part in its device's mean, 0 if filled."""
    devices, most = len(counts), int(counts.max())
    first = tensors_in(x)[0]
    here = torch.from_numpy(np.arange(most) < counts[:, None]).to(first.device)
    dtype = first.dtype if first.is_floating_point() else torch.float32
    factors = here.to(dtype) / torch.from_numpy(counts).to(first.device, dtype)[:, None]

    def filled_up(tensor: Tensor) -> Tensor:
        if int(counts.min()) == most:
            return tensor.reshape(devices, most, *tensor.shape[1:])
        full = tensor.new_zeros(devices, most, *tensor.shape[1:])
        full[here] = tensor
        return full

    return map_tensors(filled_up, x), map_tensors(filled_up, y), factors
