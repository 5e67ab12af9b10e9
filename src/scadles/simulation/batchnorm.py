"""BatchNorm's running statistics of all devices that share one model."""

from __future__ import annotations

import torch
from torch import nn

from scadles.exchange.aggregation import BatchNormStatistics
from scadles.exchange.aggregation.batchnorm import LEAST_WEIGHT


class ClusterStatistics:
    """A row of running statistics for each device; the shared model holds those of one device at a time.

    Args:
        model: the shared model.
        devices: how many share it.
    """

    def __init__(self, model: nn.Module, devices: int) -> None:
        self._common = BatchNormStatistics(model)
        self._sizes = [buffer.numel() for buffer in self._common.buffers]
        self._rows = self._common.flat().repeat(devices, 1) if self._common else torch.empty(devices, 0)
        self._weights = torch.zeros(devices, dtype=torch.float64) if self._common else torch.empty(0)
        self._copy = self._rows.clone()
        self._is_here = torch.ones(len(self._weights), dtype=torch.bool)

    def __bool__(self) -> bool:
        return bool(self._common)

    def load(self, device: int) -> None:
        """Let the model hold the statistics of ``device``."""
        for buffer, part in zip(self._common.buffers, torch.split(self._rows[device], self._sizes), strict=True):
            buffer.copy_(part.view_as(buffer))

    def keep(self, device: int, samples: int) -> None:
        """Take over what training of ``device`` on ``samples`` made of the model's statistics."""
        if self._common:
            self._rows[device] = self._common.flat()
            self._weights[device] += samples

    def give(self, source: int, device: int) -> None:
        """Let a device go on with the statistics of another one, without a part in what these come from."""
        if self._common:
            self._rows[device] = self._rows[source]
            self._copy[device] = self._copy[source]
            self._weights[device] = 0
            self._is_here[device] = True

    def forget(self, device: int) -> None:
        """Let a device have no part in means from now on: it is not there."""
        if self._common:
            self._weights[device] = 0
            self._is_here[device] = False

    def remember(self) -> None:
        """Copy the statistics of all devices, as a good state to go back to."""
        self._copy.copy_(self._rows)

    def swap(self) -> None:
        """Let the statistics of all devices change places with those that were copied last."""
        self._rows, self._copy = self._copy, self._rows

    def average(self) -> None:
        """Give all devices, and the model, the mean weighted by samples trained on since the last time.

        Where nobody trained it is the plain mean of those that are there, as between devices with a model each.
        """
        if not self._common:
            return
        finite = torch.isfinite(self._rows).all(dim=1)
        weights = torch.where(finite & self._is_here, self._weights.clamp(min=LEAST_WEIGHT), 0.0)
        if float(weights.sum()) > 0:
            rows = torch.where(finite[:, None], self._rows, 0.0)
            self._common.unpack(torch.cat([weights @ rows, weights.sum()[None]]))
            self._rows[:] = self._common.flat()
        else:
            self.load(0)
        self._weights.zero_()
