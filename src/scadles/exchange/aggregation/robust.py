"""Means that a few wrong gradients cannot move far: coordinate by coordinate, weighted by batch size.

Trimmed mean and median of gradients are those of Yin, Chen, Kannan and Bartlett 2018, "Byzantine-robust distributed
learning: towards optimal statistical rates". With weights, a share is one of the weight and not of the devices, as
Portnoy, Tirosh and Hendler 2022 have it ("Towards federated learning with Byzantine-robust client weighting"); with
equal weights both are the same. They are biased where devices' data differ: of an entry in which most devices have
nothing to say, nothing is left.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor

RobustMean = Literal["trimmed", "median"]
#: Share of the weight that the trimmed mean leaves out at either end.
TRIMMED_SHARE = 0.2
_VALUES_AT_ONCE = 1 << 20
_ROUNDING = 1e-9


def robust_mean(rows: Sequence[Tensor], weights: Sequence[float], kind: RobustMean) -> Tensor:
    """Return the trimmed mean or the median of each coordinate.

    Args:
        rows: gradients per sample, each floating ``[n]``, at least one.
        weights: of each, above 0.
        kind: ``trimmed`` leaves out a fifth of the weight at either end.

    >>> rows = [torch.tensor([value]) for value in (1.0, 2.0, 3.0, 4.0, 1000.0)]
    >>> float(robust_mean(rows, [1, 1, 1, 1, 1], "trimmed")), float(robust_mean(rows, [1, 1, 1, 1, 9], "median"))
    (3.0, 1000.0)
    """
    shares = torch.tensor(weights, dtype=torch.float64)
    shares /= shares.sum()
    mean = torch.empty_like(rows[0])
    at_once = max(1, _VALUES_AT_ONCE // len(rows))
    for start in range(0, len(mean), at_once):
        part = slice(start, start + at_once)
        values, order = torch.stack([row[part] for row in rows]).double().sort(dim=0)
        until = shares[order]
        for one, before in zip(until[1:], until, strict=False):  # one after the other, to the same bits on all devices
            one += before
        mean[part] = _trimmed(values, until) if kind == "trimmed" else _median(values, until)
    return mean


def _trimmed(values: Tensor, until: Tensor) -> Tensor:
    """Return the mean of ascending values, of whose weight the shares up to each are given, between both ends."""
    ends = until.clamp(TRIMMED_SHARE, 1 - TRIMMED_SHARE)
    counted = torch.diff(ends, dim=0, prepend=torch.full_like(ends[:1], TRIMMED_SHARE))
    mean = torch.zeros_like(values[0])
    for share, row in zip(counted, values, strict=True):
        mean += share * row
    return mean / (1 - 2 * TRIMMED_SHARE)


def _median(values: Tensor, until: Tensor) -> Tensor:
    """Return the value at half the weight, or the mean of the two on either side of it."""
    lower, upper = ((until < 0.5 + offset).sum(dim=0).clamp(max=len(values) - 1) for offset in (-_ROUNDING, _ROUNDING))
    return (values.gather(0, lower[None]) + values.gather(0, upper[None]))[0] / 2
