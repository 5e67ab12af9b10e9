"""Running statistics of BatchNorm and InstanceNorm: each device tracks its own, a common model needs common ones."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.instancenorm import _InstanceNorm

_NAMES = ("running_mean", "running_var", "num_batches_tracked")
#: The weight of a device that trained on nothing: lost in a sum with the samples of others, and a power of two, so that
#: the mean of such devices alone is exact.
LEAST_WEIGHT = 2.0**-600


def tracks_statistics(layer: nn.Module, buffer: str) -> bool:
    """Whether a layer's buffer is a running statistic."""
    return isinstance(layer, _BatchNorm | _InstanceNorm) and buffer in _NAMES


class BatchNormStatistics:
    """The running means and variances of a model as one vector, to be averaged over devices.

    Devices average with the weights of their gradients: by the samples each has trained on since the last time. A
    device that trained on nothing simply takes over the others' mean; where nobody has, all take over the plain mean,
    so that they agree afterwards whatever each had before.

    Args:
        model: its BatchNorm and InstanceNorm layers that track statistics are found once, here.

    Attributes:
        buffers: of these layers.
    """

    def __init__(self, model: nn.Module) -> None:
        layers = [m for m in model.modules() if isinstance(m, _BatchNorm | _InstanceNorm)]
        tracked = [(m.running_mean, m.running_var, m.num_batches_tracked) for m in layers]
        self.buffers: list[Tensor] = [buffer for buffers in tracked for buffer in buffers if buffer is not None]
        self._before: list[Tensor] = []
        self._weight = 0

    def __bool__(self) -> bool:
        return bool(self.buffers)

    def flat(self) -> Tensor:
        """Return the statistics as one vector, float64 ``[k]``; there must be some."""
        return torch.cat([buffer.reshape(-1).double() for buffer in self.buffers])

    def remember(self) -> None:
        """Note the statistics as they are before a batch."""
        self._before = [buffer.clone() for buffer in self.buffers]

    def restore(self) -> None:
        """Take back what the batch since :meth:`remember`, which is left out, did to the statistics, if any."""
        if self._before:
            for buffer, before in zip(self.buffers, self._before, strict=True):
                buffer.copy_(before)
            self._before = []

    def forget(self) -> None:
        """Let what the batch since :meth:`remember` did stand: the step is over."""
        self._before = []

    def replaced(self) -> None:
        """Take note that the statistics are another device's now: this one has no part in what they come from."""
        self._before, self._weight = [], 0

    def trained(self, samples: int) -> None:
        """Count samples towards this device's weight."""
        self._weight += samples

    def pack(self) -> Tensor:
        """Return weight * statistics, with the weight as last entry, float64 ``[k + 1]``: ready to be summed.

        Statistics with NaN or infinity get weight 0: they would spread to all devices.
        """
        flat = self.flat()
        if not bool(torch.isfinite(flat).all()):
            return flat.new_zeros(len(flat) + 1)
        weight = self._weight or LEAST_WEIGHT
        return torch.cat([flat * weight, flat.new_tensor([weight])])

    def unpack(self, total: Tensor) -> None:
        """Take over the mean from the sum over all devices."""
        weight = float(total[-1])
        if weight > 0:
            parts = torch.split(total[:-1] / weight, [buffer.numel() for buffer in self.buffers])
            for buffer, part in zip(self.buffers, parts, strict=True):
                mean = part.view_as(buffer)
                buffer.copy_(mean if buffer.is_floating_point() else mean.round())
        self._weight = 0
