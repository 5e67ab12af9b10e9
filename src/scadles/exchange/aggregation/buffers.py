"""Buffers that a forward pass changes and the next one goes by: the same on all devices after every step."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol

import torch
from torch import Tensor, nn

from scadles.exchange.aggregation.batchnorm import tracks_statistics


class Statistics(Protocol):
    """What devices measure of their batches, of which each step brings the weighted mean to all.

    Attributes:
        measured: of the present batch, ``[size]``.
        size: how many numbers that are.
    """

    measured: Tensor

    @property
    def size(self) -> int: ...

    def receive(self, mean: Tensor | None) -> None: ...


class ForwardBuffers:
    """The buffers of a model, but for the running statistics of normalisation layers, which no training pass reads.

    Singular vectors of spectral norms, counters and codebooks are of this kind. After a step each of those that a pass
    changes becomes what it was before, plus the mean of what the devices' passes have added to it, with the weights of
    their gradients; a device that had nothing takes it over. Counts are rounded, and flags by majority.

    What devices measure of their batches beside the model travels the same way.

    Args:
        model: its buffers are found once, here, but may be replaced by others of the same shape.
        statistics: what is measured; None where nothing is.

    Attributes:
        active: numbers of those that are made the same after every step.
    """

    def __init__(self, model: nn.Module, statistics: Statistics | None = None) -> None:
        self._statistics = statistics
        self._places: list[tuple[nn.Module, str]] = []
        self.active: list[int] = []
        seen: set[int] = set()
        for part in model.modules():
            for name, buffer in part._buffers.items():
                known = buffer is None or id(buffer) in seen or buffer.is_complex()
                if buffer is not None and not known and not tracks_statistics(part, name):
                    seen.add(id(buffer))
                    self._places.append((part, name))
        self._kept = [value.detach().clone() for value in self._values()]
        self._marks = self._look()
        self._before_batch: tuple[list[tuple[int, int]], dict[int, Tensor]] | None = None

    def __len__(self) -> int:
        return len(self._places)

    @property
    def size(self) -> int:
        """How many values the active ones have, with what is measured."""
        measured = self._statistics.size if self._statistics is not None else 0
        return sum(self._kept[i].numel() for i in self.active) + measured

    def remember(self) -> None:
        """Take what there is now for what was there before the next pass."""
        for i in self.changed():
            self._kept[i] = self._values()[i].detach().clone()
        self._marks = self._look()

    def begin_batch(self) -> None:
        """Note what there is before the passes of a batch, which may not be what was there after the last step."""
        values = self._values()
        self._before_batch = self._look(), {i: values[i].detach().clone() for i in self.changed()}

    def undo_batch(self) -> None:
        """Take back what passes have done since :meth:`begin_batch`, if there is such a batch."""
        if self._before_batch is None:
            return
        (marks, others), self._before_batch = self._before_batch, None
        values = self._values()
        written = [i for i, mark in enumerate(self._look()) if mark != marks[i]]
        for i in written:
            values[i].detach().copy_(others.get(i, self._kept[i]))
        now = self._look()
        for i in written:
            if i not in others:
                self._marks[i] = now[i]

    def end_batch(self) -> None:
        """Let what passes have done stand: the step is over."""
        self._before_batch = None

    def take_own(self) -> None:
        """End a step that nobody else has taken part in."""
        self.remember()
        if self._statistics is not None:
            self._statistics.receive(self._statistics.measured)

    def restore(self) -> None:
        """Undo what passes have done since :meth:`remember`, or since the last step."""
        if self._statistics is not None:
            self._statistics.receive(None)
        values = self._values()
        for i in self.changed():
            values[i].detach().copy_(self._kept[i])
        self._marks = self._look()

    def changed(self) -> list[int]:
        """Return the numbers of those that something has been written to since then."""
        return [i for i, mark in enumerate(self._look()) if mark != self._marks[i]]

    def pack(self, message: Tensor, weight: float) -> None:
        """Write into ``message`` what the active ones have gained since then, times a weight."""
        values, start = self._values(), 0
        for i in self.active:
            gained = values[i].detach().to(message.dtype) - self._kept[i].to(message.dtype)
            if not values[i].is_floating_point() and values[i].dtype != torch.bool:
                gained = (values[i].detach() - self._kept[i]).to(message.dtype)  # counts may be large, gains are not
            message[start : start + gained.numel()] = gained.reshape(-1) * weight
            start += gained.numel()
        if self._statistics is not None:
            message[start:] = self._statistics.measured.to(message) * weight

    def take_up(self, total: Tensor) -> None:
        """Add to what the active ones were the mean over all devices, which is in ``total``."""
        values, start = self._values(), 0
        for i in self.active:
            kept = self._kept[i]
            mean = total[start : start + kept.numel()].view_as(kept)
            start += kept.numel()
            if kept.dtype == torch.bool:
                kept.copy_(kept.to(mean.dtype) + mean >= 0.5)
            else:
                kept.add_(mean.to(kept.dtype) if kept.is_floating_point() else mean.round().to(kept.dtype))
            values[i].detach().copy_(kept)
        if self._statistics is not None:
            self._statistics.receive(total[start:])
        now = self._look()
        for i in self.active:
            self._marks[i] = now[i]

    @contextmanager
    def untouched(self) -> Iterator[list[int]]:
        """Let a pass leave no trace; yields a list that then holds which ones it has written to."""
        values, found = self._values(), list[int]()
        copies, before = [value.detach().clone() for value in values], self._look()
        try:
            yield found
        finally:
            found += [i for i, (mark, old) in enumerate(zip(self._look(), before, strict=True)) if mark != old]
            for i in found:
                self._places[i][0]._buffers[self._places[i][1]] = values[i]
                values[i].detach().copy_(copies[i])
            now = self._look()
            for i in found:
                if self._marks[i] == before[i]:
                    self._marks[i] = now[i]

    def _values(self) -> list[Tensor]:
        return [part._buffers[name] for part, name in self._places]  # type: ignore[misc]

    def _look(self) -> list[tuple[int, int]]:
        return [(id(value), value._version) for value in self._values()]
