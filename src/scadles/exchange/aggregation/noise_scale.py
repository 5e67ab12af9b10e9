"""How noisy gradients are, told from those of devices with unequal batches, without a backward pass more."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

#: Places of a sketch; a prime, so that the rows of a layer do not fall on each other.
SKETCH_SIZE = 4093

_TILE_ROWS = 64  # signs are drawn for so many rows, and one more for each row

_HORIZON = 30  # measurements that count
_FEWEST = 4
_SIGMAS = 2.0


def sketch(gradients: Iterable[Tensor | None], seed: int) -> Tensor:
    """Return a random linear picture of a gradient, float32 ``[SKETCH_SIZE]``, on the CPU.

    Scalar products of sketches with the same seed are on average those of what they are of (a count sketch with signs
    by row; Charikar, Chen and Farach-Colton, 2002), with a relative standard deviation of about
    ``sqrt(2 / SKETCH_SIZE)``, 2 %. The sum of sketches is the sketch of the sum.

    Args:
        gradients: of all parameters, in an order that is the same everywhere; None where there is none.
        seed: the same on all devices.

    >>> ones = [torch.ones(300, 100), None]
    >>> abs(float(sketch(ones, seed=3).square().sum()) / 30_000 - 1) < 0.1
    True
    """
    random, total, given = np.random.default_rng((seed, 1)), torch.zeros(SKETCH_SIZE), list(gradients)
    most = max((gradient.numel() for gradient in given if gradient is not None), default=0)
    tile = _tile(seed, min(_TILE_ROWS, _rows(most)))
    for gradient in given:
        shift = int(random.integers(SKETCH_SIZE))
        if gradient is None:
            continue
        flat = gradient.detach().reshape(-1).float()
        signs = _signs(random, _rows(flat.numel())).to(flat.device)
        total += _folded(flat, signs, tile.to(flat.device)).roll(shift).cpu()
    return total


def _folded(flat: Tensor, signs: Tensor, tile: Tensor) -> Tensor:
    """Return the sum of rows of ``SKETCH_SIZE`` values, each with the signs of its row and of its place in a tile."""
    folded = flat.new_zeros(SKETCH_SIZE)
    for first in range(0, len(signs), _TILE_ROWS):
        values = flat[first * SKETCH_SIZE : (first + _TILE_ROWS) * SKETCH_SIZE]
        whole, left = divmod(values.numel(), SKETCH_SIZE)
        rows = values[: whole * SKETCH_SIZE].view(whole, SKETCH_SIZE)
        folded += signs[first : first + whole] @ (rows * tile[:whole])
        if left:
            folded[:left] += signs[first + whole] * tile[whole, :left] * values[-left:]
    return folded


def _rows(values: int) -> int:
    return -(-values // SKETCH_SIZE)


@lru_cache(maxsize=1)
def _tile(seed: int, rows: int) -> Tensor:
    return _signs(np.random.default_rng((seed, 0)), rows, SKETCH_SIZE)


def _signs(random: np.random.Generator, *shape: int) -> Tensor:
    """Return -1 and 1 at random, float32."""
    return torch.from_numpy(random.integers(0, 2, shape, dtype=np.int8).astype(np.float32) * 2 - 1)


class Bounds(NamedTuple):
    """A quantity and how well it is known.

    Attributes:
        value: the best guess.
        low, high: it lies between them in about 19 of 20 cases.
    """

    value: float
    low: float
    high: float


class NoiseScale:
    """The samples that a gradient must be the mean of for its noise to be as large as itself: B_n = tr(S) / |G|^2, with
    S the covariance of single samples' gradients and G their mean (McCandlish et al., 2018, equation 2.8).

    From the mean gradients g_i of N devices over b_i samples each, with B = sum b_i and g = sum b_i g_i / B, the
    one-way analysis of variance gives tr(S) = (sum b_i |g_i|^2 - B |g|^2) / (N - 1) and |G|^2 = |g|^2 - tr(S) / B,
    without bias for any b_i. Both are averaged over the last measurements before they are divided. Where the streams of
    devices are not alike, what differs between devices counts as noise, and the scale comes out too large.

    >>> scale = NoiseScale()
    >>> random = np.random.default_rng(0)
    >>> for _ in range(200):
    ...     batches = random.integers(8, 64, 16)
    ...     means = 0.1 + random.normal(size=(16, 50)) / np.sqrt(batches)[:, None]
    ...     _ = scale.observe(batches, (means**2).sum(1), ((batches @ means / batches.sum()) ** 2).sum())
    >>> 80 < scale.bounds.value < 120  # 50 values of variance 1, and of mean 0.1
    True
    """

    def __init__(self) -> None:
        self._count = 0
        self._mean = np.zeros(2)  # of tr(S) and |G|^2
        self._products = np.zeros((2, 2))

    def observe(self, batches: np.ndarray, squares: np.ndarray, mean_square: float) -> float | None:
        """Take note of one step, where at least two devices had a gradient; return its |G|^2, None where none is told.

        Args:
            batches: samples of each device, ``[N]``; 0 of one that had none.
            squares: squared norms of their mean gradients, ``[N]``.
            mean_square: squared norm of the mean over all samples.
        """
        here = batches > 0
        b, devices = np.asarray(batches, dtype=np.float64)[here], int(here.sum())
        if devices < 2:
            return None
        total = float(b.sum())
        trace = (float(b @ squares[here]) - total * mean_square) / (devices - 1)
        seen = np.array([trace, mean_square - trace / total])
        if not np.isfinite(seen).all():
            return None
        self._count += 1
        share = 1 / min(self._count, _HORIZON)
        self._mean += share * (seen - self._mean)
        self._products += share * (np.outer(seen, seen) - self._products)
        return float(seen[1])

    @property
    def bounds(self) -> Bounds | None:
        """The scale, in samples; None before there is enough to say. Its upper bound may be infinite."""
        if self._count < _FEWEST:
            return None
        spread = np.sqrt(np.maximum(np.diag(self._products) - self._mean**2, 0) / (min(self._count, _HORIZON) - 1))
        (trace, square), (trace_off, square_off) = self._mean.tolist(), (_SIGMAS * spread).tolist()
        low = _ratio(trace - trace_off, square + square_off)
        return Bounds(_ratio(trace, square), low, _ratio(trace + trace_off, square - square_off))

    def state(self) -> dict[str, Any]:
        """Return what a checkpoint holds, as JSON."""
        return {"count": self._count, "mean": self._mean.tolist(), "products": self._products.tolist()}

    def load(self, state: Mapping[str, Any]) -> None:
        """Go on from what :meth:`state` returned.

        Raises:
            ValueError: it is nothing that :meth:`state` returns.
        """
        mean, products = np.array(state["mean"], dtype=float), np.array(state["products"], dtype=float)
        if mean.shape != (2,) or products.shape != (2, 2) or not np.isfinite([*mean, *products.flat]).all():
            raise ValueError(f"a noise scale of {state}")
        self._count, self._mean, self._products = int(state["count"]), mean, products


def _ratio(trace: float, square: float) -> float:
    return max(trace, 0.0) / square if square > 0 else math.inf
