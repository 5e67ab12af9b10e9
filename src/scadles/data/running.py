"""Normalisation that needs no data set: by the samples that all devices have trained on so far."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from scadles.data.dataset import Dataset
from scadles.data.preparation import Scale


class _Measured(NamedTuple):
    """A part of a sample that is normalised.

    Attributes:
        name: of the part; empty where a sample has one.
        shape: of the part.
        begin, end: where its channels are among those of all parts.
    """

    name: str
    shape: tuple[int, ...]
    begin: int
    end: int

    @property
    def spread(self) -> tuple[int, ...]:
        """The shape in which numbers of channels fit samples."""
        return (-1, *(1 for _ in self.shape[1:])) if self.shape else ()


class RunningStatistics:
    """Mean and deviation of each feature or channel over all that was trained on, the same on all devices.

    In each step a device measures its batch about the common mean (:meth:`observe`); the gradient's message brings the
    mean of what all have measured, with the weights of their gradients (:meth:`receive`); once the step counts, that
    is merged (:meth:`merge`) as Chan, Golub and LeVeque (1983) merge the moments of two sets, in float64. The first
    step only finds the mean, about which float32 can then measure deviations however small they are beside it. Until
    the second one is merged nothing is known, and a model gets zeros.

    Args:
        dataset: says which parts of samples are measures, and makes them a model's input; it normalises nothing.

    Attributes:
        tensors: what is known, by name: all devices have it alike, and checkpoints hold it.

    >>> import numpy as np
    >>> from scadles.data.dataset import ArrayDataset
    >>> x = np.array([[300.0], [301.0], [302.0]], dtype=np.float32)
    >>> statistics = RunningStatistics(ArrayDataset("t", (x, np.arange(3)), (x, np.arange(3)), 3, normalize=False))
    >>> for _ in range(2):
    ...     statistics.observe(torch.from_numpy(x))
    ...     statistics.receive(statistics.measured)
    ...     statistics.merge(3)
    >>> [round(value, 3) for value in statistics(torch.from_numpy(x)).flatten().tolist()]
    [-1.225, 0.0, 1.225]
    """

    def __init__(self, dataset: Dataset) -> None:
        self._prepare = dataset.prepare
        self._plain = dataset.preparation
        self._parts = _measured_parts(dataset)
        channels = self._parts[-1].end if self._parts else 0
        self.tensors = {
            "normalize.samples": torch.zeros(1, dtype=torch.float64),
            "normalize.known": torch.zeros(1, dtype=torch.float64),
            "normalize.mean": torch.zeros(channels, dtype=torch.float64),
            "normalize.square": torch.zeros(channels, dtype=torch.float64),
        }
        self.measured = torch.zeros(2 * channels, dtype=torch.float64)
        self._received: Tensor | None = None

    def __call__(self, x: Tensor) -> Any:
        """Return raw samples ``[n, *shape]`` as a model's input, normalised by what is known."""
        prepared = self._prepare(x)
        if not isinstance(prepared, Tensor):
            return self._in_parts(prepared)
        return self._normalised(self._parts[0], prepared) if self._parts else prepared

    @property
    def size(self) -> int:
        """How many numbers a step's message has of it."""
        return len(self.measured)

    def plain(self, x: Tensor) -> Any:
        """Return raw samples as a model's input, as they are."""
        return self._prepare(x)

    def observe(self, x: Tensor) -> None:
        """Measure a batch of raw samples ``[b, *shape]``, at least one."""
        self.measured = self.moments(x).mean(dim=0)

    def moments(self, x: Tensor) -> Tensor:
        """Return of each raw sample the mean of channels about the common one, then of squares, float64 ``[b, 2C]``."""
        prepared = self._prepare(x)
        means, squares = [], []
        for part in self._parts:
            values = prepared if isinstance(prepared, Tensor) else _part_of(prepared, part.name)
            centre = self.tensors["normalize.mean"][part.begin : part.end].reshape(part.spread)
            off = values.to("cpu", torch.float64) - centre
            off = off.reshape(len(off), part.end - part.begin, -1)
            means.append(off.mean(dim=2))
            squares.append((off * off).mean(dim=2))
        return torch.cat([*means, *squares], dim=1) if means else torch.zeros(len(x), 0, dtype=torch.float64)

    def receive(self, mean: Tensor | None) -> None:
        """Take the mean of what devices have measured in this step, ``[2C]``; None where no device has."""
        self._received = None if mean is None else mean.detach().to("cpu", torch.float64)

    def merge(self, samples: int) -> None:
        """Count the step, which was on so many samples of all devices."""
        received, self._received = self._received, None
        if received is None or not samples or not self.size:
            return
        off, square = received.chunk(2)
        before, known, mean, squares = self.tensors.values()
        if not bool(known):
            mean += off
            known += 1
            return
        share = samples / (before + samples)
        squares += samples * (square - off * off).clamp(min=0.0) + off * off * before * share
        mean += off * share
        before += samples

    def preparation(self) -> Scale | Mapping[str, Scale]:
        """Return what becomes of samples, of each part by name where they have several."""
        if not bool(self.tensors["normalize.samples"]):
            return self._plain
        scales = {}
        for part in self._parts:
            mean, deviation = self._scale(part)
            scales[part.name] = Scale(mean.tolist(), deviation.tolist())
        return scales.get("", self._plain) if isinstance(self._plain, Scale) else {**self._plain, **scales}

    def _normalised(self, part: _Measured, x: Tensor) -> Tensor:
        if not bool(self.tensors["normalize.samples"]):
            return torch.zeros_like(x)
        mean, deviation = (scale.reshape(part.spread).to(x.device) for scale in self._scale(part))
        return (x - mean) / deviation

    def _scale(self, part: _Measured) -> tuple[Tensor, Tensor]:
        """Return mean and deviation of a part's channels, float32; the deviation is 1 where nothing varies."""
        channels = slice(part.begin, part.end)
        deviation = (self.tensors["normalize.square"][channels] / self.tensors["normalize.samples"]).sqrt()
        deviation = torch.where(deviation > 0, deviation, 1.0)
        return self.tensors["normalize.mean"][channels].float(), deviation.float()

    def _in_parts(self, prepared: Any) -> Any:
        found = {part.name: self._normalised(part, _part_of(prepared, part.name)) for part in self._parts}
        if isinstance(prepared, dict):
            return {name: found.get(name, x) for name, x in prepared.items()}
        return tuple(found.get(str(i), x) for i, x in enumerate(prepared))


def _part_of(structure: Any, name: str) -> Tensor:
    part: Tensor = structure[name] if isinstance(structure, dict) else structure[int(name)]
    return part


def _measured_parts(dataset: Dataset) -> Sequence[_Measured]:
    """Return the parts of samples that are measures: floating ones, and uint8."""
    layout = dataset.layout
    parts = [("", dataset.shape, dataset.dtype)] if layout is None else [part[:3] for part in layout.parts]
    found: list[_Measured] = []
    for name, shape, dtype in parts:
        if dtype.is_floating_point or dtype == torch.uint8:
            begin = found[-1].end if found else 0
            found.append(_Measured(name, tuple(shape), begin, begin + (shape[0] if shape else 1)))
    return found
