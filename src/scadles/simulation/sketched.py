"""Gradients of devices by themselves in steps in which it is measured how noisy they are."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from torch import Tensor

from scadles.device.buffer import Chunk
from scadles.device.learner import Learner
from scadles.device.measuring import Measuring, is_measured
from scadles.simulation.gradients import Gradients, Shares
from scadles.simulation.injected import NO_MESSAGES, SampleMessages


class SketchedGradients(Gradients):
    """One device after the other in steps that are measured, with a sketch of each one's gradient; else another way.

    Args:
        usual: makes gradients in all other steps.
        one_by_one: makes them in these.
        learner: theirs.
        measuring: says which steps these are, and is given the sketches.
        devices: how many there are.
    """

    def __init__(
        self, usual: Gradients, one_by_one: Gradients, learner: Learner, measuring: Measuring, devices: int
    ) -> None:
        self.description = usual.description
        self._usual = usual
        self._one_by_one = one_by_one
        self._learner = learner
        self._measuring = measuring
        self._devices = devices

    def add_up(self, numbers: Sequence[int], taken: Sequence[Chunk], messages: SampleMessages = NO_MESSAGES) -> Shares:
        step = self._learner.step_number + 1
        if not self._measuring.is_due(step):
            return self._usual.add_up(numbers, taken, messages)
        shares, sum_sketch = [], None
        for number, chunk in zip(numbers, taken, strict=True):
            share, sum_sketch = self._add(step, number, chunk, messages, sum_sketch)
            shares.append(share)
        return Shares.concatenate(shares)

    def _add(
        self, step: int, number: int, taken: Chunk, messages: SampleMessages, before: Tensor | None
    ) -> tuple[Shares, Tensor | None]:
        """Add a device's gradient, given the sketch of the sum before; return the one after, where that is known."""
        if not is_measured(number, self._devices):
            return self._one_by_one.add_up([number], [taken], messages), None
        before = self._sketch(step) if before is None else before
        share = self._one_by_one.add_up([number], [taken], messages)
        after = self._sketch(step)
        if weight := float(share.weights[0]):
            samples = len(taken) + int(messages.received(np.array([number]))[0])
            self._measuring.note(step, number, samples, (after - before) / weight)
        return share, after

    def _sketch(self, step: int) -> Tensor:
        return self._measuring.sketch((parameter.grad for parameter in self._learner.exchange.parameters), step)
