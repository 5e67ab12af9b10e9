"""Gradients of layers as products of two narrow matrices: PowerSGD, for comparison."""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from scadles.errors import CheckpointError
from scadles.exchange.compression import Sparse, dense_bytes, encode_dense, squared_norm
from scadles.exchange.reduction.contract import Collectives, Reduction, SparseReducer, Sums, as_float32
from scadles.exchange.reduction.quantized_dense import All, open_dense
from scadles.exchange.reduction.volumes import Volume
from scadles.seeding import numpy_generator


class Matrix(NamedTuple):
    """A parameter as a matrix, and where it lies in the update."""

    start: int
    rows: int
    columns: int

    def of(self, update: Tensor) -> Tensor:
        """Return its part of an update, ``[rows, columns]``, the same memory."""
        return update[self.start : self.start + self.rows * self.columns].view(self.rows, self.columns)


@dataclass(frozen=True)
class Plan:
    """Which parameters travel as factors and which as they are.

    A parameter of two dimensions or more is a matrix: its first dimension by all others, as in the paper. One that is
    smaller than its factors travels whole, as do those of one dimension.

    Attributes:
        n: values of an update.
        rank: of all factors.
        matrices: that travel as factors.
        whole: the other parts of an update, in its order.

    >>> plan = Plan.of([(10,), (10, 64), (64,), (64, 64)], ratio=0.12)
    >>> plan.rank, plan.left_factor_floats + plan.message_floats, plan.n
    (2, 478, 4810)
    """

    n: int
    rank: int
    matrices: tuple[Matrix, ...]
    whole: tuple[slice, ...]

    @classmethod
    def of(cls, shapes: Sequence[Sequence[int]], ratio: float) -> Plan:
        """Return the plan of the largest rank whose floats are at most ``ratio`` of all, and of rank 1 at least.

        Args:
            shapes: of the parameters, in the order of the update.
            ratio: share of the floats that a device sends.
        """
        sizes = [math.prod(shape) for shape in shapes]
        starts = np.cumsum([0, *sizes]).tolist()
        places = [
            Matrix(start, shape[0], size // max(shape[0], 1)) if len(shape) > 1 else Matrix(start, 1, size)
            for start, shape, size in zip(starts, shapes, sizes, strict=False)
        ]

        def floats(rank: int) -> int:
            return sum(min(rank * (place.rows + place.columns), place.rows * place.columns) for place in places)

        ranks = range(1, 1 + max(min(place.rows, place.columns) for place in places))
        rank = max(1, bisect_right(ranks, ratio * starts[-1], key=floats))
        small = [rank * (place.rows + place.columns) < place.rows * place.columns for place in places]
        return cls(
            starts[-1],
            rank,
            tuple(place for place, factored in zip(places, small, strict=True) if factored),
            tuple(
                slice(place.start, place.start + size)
                for place, size, factored in zip(places, sizes, small, strict=True)
                if not factored
            ),
        )

    @property
    def left_factor_floats(self) -> int:
        """How many floats all left factors have."""
        return self.rank * sum(matrix.rows for matrix in self.matrices)

    @property
    def message_floats(self) -> int:
        """How many floats all right factors and all that travels whole have."""
        return self.rank * sum(matrix.columns for matrix in self.matrices) + sum(self.whole_sizes)

    @property
    def whole_sizes(self) -> list[int]:
        """How many floats each part has that travels whole."""
        return [int(part.stop - part.start) for part in self.whole]


class PowerSgdReducer(SparseReducer):
    """One step of power iteration finds what the matrices of all devices have most in common (Vogels, Karimireddy and
    Jaggi 2019, algorithm 1).

    With M a device's matrix and Q common to all, everybody gets everybody's P = M Q; the columns of their sum, made
    orthonormal, are common as well; then everybody gets everybody's Q = M^T P, and P times the sum of these is the sum
    of what is sent. That sum is where the next step begins, made orthonormal too, which changes no product and keeps
    the columns of P at like scales for rounding. Rounding of P costs a slightly worse choice; of Q, it stays in the
    feedback.

    The paper adds up by all-reduce; here messages are gathered, which for N devices sends ``N / 2`` times as much, and
    lets each be checked and say whose it is. Common factors come out of this machine's linear algebra: devices of
    different processors or with different numbers of threads may differ in the last bit, which the fingerprints of the
    models tell.

    Nothing is picked, and what is left out is known only after half of the messages: this way says nothing of the
    energy that is kept, and has no gate by norm.

    Args:
        fabric: connects the devices, or says only rank and size.
        shapes: of the trained parameters, in the order of the update.
        ratio: share of the floats that is sent at most; the least is rank 1.
        value_type: of the factors' values on the wire.
        seed: of the first factors, the same on all devices.

    Attributes:
        plan: which parameters travel as factors.

    >>> from scadles.fabric import LocalFabric
    >>> [alone] = LocalFabric.create(1)
    >>> reducer = PowerSgdReducer(alone, [(4, 4)], ratio=0.5, value_type="float32")
    >>> product = torch.outer(torch.tensor([1.0, -1.0, 0.0, 2.0]), torch.tensor([1.0, 2.0, 3.0, 4.0]))
    >>> reducer.reduce(product.flatten(), [], step=1, phase="gradients of step 1").total.view(4, 4)[3].round(decimals=4)
    tensor([2., 4., 6., 8.])
    """

    name = "powersgd"
    picks = False

    def __init__(
        self,
        fabric: Collectives,
        shapes: Sequence[Sequence[int]],
        ratio: float,
        value_type: str = "int8",
        seed: int = 0,
    ) -> None:
        self.plan = Plan.of(shapes, ratio)
        super().__init__(fabric, All(self.plan.n), self.plan.n, value_type)
        self.k = self.plan.left_factor_floats + self.plan.message_floats
        self._seed = seed
        # factors lie in rows, so that values of like scale are neighbours on the wire
        self._left_sizes = [self.plan.rank * matrix.rows for matrix in self.plan.matrices]
        self._right_sizes = [self.plan.rank * matrix.columns for matrix in self.plan.matrices]
        self._start = self._next_start([torch.zeros(self._factor(size)) for size in self._right_sizes], 0)
        self._lefts: list[Tensor] = []
        self._update = self._sent = torch.zeros(0)

    def follow(self, scalars: int, step: int, phase: str) -> Sums:
        # the common factors come out of two rounds, which begin the next step as well
        came = self.reduce(torch.zeros(self.n), [0.0] * scalars, step, phase)
        return Sums(came.total, came.scalars)

    def begin(self, v: Tensor, step: int) -> Tensor | None:
        self._update = v.detach().cpu()
        if not self.plan.matrices:
            return None
        rights = self._factors(self._start, self._right_sizes)
        lefts = [right @ matrix.of(self._update).T for right, matrix in zip(rights, self.plan.matrices, strict=True)]
        message = encode_dense(_joined(lefts), value_type=self.value_type, step=step).message
        return message.expand(self._fabric.size, -1)

    def message(self, received: Tensor | None, scalars: Sequence[float], step: int, phase: str) -> Tensor:
        rows = () if received is None else received
        sums = torch.zeros(self.plan.left_factor_floats)
        for sender, row in enumerate(rows):
            sums += open_dense(row, len(sums), sender, step, phase, scalars=0)[1]
        self._lefts = [_orthonormal(left) for left in self._factors(sums, self._left_sizes)]
        rights = [left @ matrix.of(self._update) for left, matrix in zip(self._lefts, self.plan.matrices, strict=True)]
        vector = _joined([*rights, *(self._update[part] for part in self.plan.whole)])
        # orthonormal factors leave norms as they are
        self._kept_sq = squared_norm(vector)
        numbers = as_float32(scalars).tolist()
        encoded = encode_dense(vector, value_type=self.value_type, step=step, scalars=numbers)
        self._sent = encoded.sent.clone()
        return encoded.message

    def add_up(self, messages: Tensor, senders: Sequence[int], step: int, phase: str) -> Sums:
        sums, rows = torch.zeros(self.plan.message_floats), list[tuple[float, ...]]()
        for device, message in enumerate(messages):
            scalars, part = open_dense(message, len(sums), device, step, phase, len(rows[0]) if rows else None)
            sums += part
            rows.append(scalars)
        total = self._multiplied(sums, self._zeros())
        start = self._next_start(self._factors(sums, self._right_sizes), step)
        return Sums(total, np.array(rows, np.float64), start=start)

    def settle(self, sums: Sums) -> Reduction:
        if sums.start is not None:
            self._start = sums.start
        taken = Sparse(torch.arange(self.n), self._multiplied(self._sent, torch.empty(self.n)))
        return Reduction(sums.total, sums.scalars, taken, self._kept_sq)

    def state(self) -> dict[str, Tensor]:
        return {"start": self._start.clone()}

    def load(self, state: dict[str, Tensor]) -> None:
        start = state.get("start")
        if start is None:
            raise CheckpointError("the checkpoint has no factors: it was written without compression by powersgd")
        if start.shape != self._start.shape or not bool(start.isfinite().all()):
            raise CheckpointError(
                f"the checkpoint's factors have {start.numel()} values, these {self._start.numel()}: they are of "
                "another model or rank, or not finite"
            )
        self._start = start.float().clone()

    def volume(self, scalars: int) -> Volume:
        plan = self.plan
        return powersgd_volume(
            plan.left_factor_floats, plan.message_floats, self._fabric.size, self.value_type, scalars
        )

    def _factor(self, size: int) -> tuple[int, int]:
        return self.plan.rank, size // self.plan.rank

    def _factors(self, vector: Tensor, sizes: list[int]) -> list[Tensor]:
        """Return the factors at the beginning of a vector, ``[rank, length]`` each, the same memory."""
        parts = torch.split(vector[: sum(sizes)], sizes) if sizes else ()
        return [part.view(self._factor(len(part))) for part in parts]

    def _multiplied(self, vector: Tensor, update: Tensor) -> Tensor:
        """Write the update that a message's vector stands for."""
        for left, right, matrix in zip(
            self._lefts, self._factors(vector, self._right_sizes), self.plan.matrices, strict=True
        ):
            torch.mm(left.T, right, out=matrix.of(update))
        at = sum(self._right_sizes)
        for place, size in zip(self.plan.whole, self.plan.whole_sizes, strict=True):
            update[place] = vector[at : at + size]
            at += size
        return update

    def _next_start(self, rights: list[Tensor], step: int) -> Tensor:
        """Return orthonormal factors for the next step, drawn anew where nothing was found, or nothing finite."""
        factors = []
        for number, right in enumerate(rights):
            found = right.any(dim=1) & right.isfinite().all(dim=1)
            generator = numpy_generator(self._seed, "powersgd", number, step)
            drawn = torch.from_numpy(generator.standard_normal(tuple(right.shape), dtype=np.float32))
            factors.append(_orthonormal(torch.where(found[:, None], right, drawn)))
        return _joined(factors)


def powersgd_volume(
    left_factor_floats: int, message_floats: int, size: int, value_type: str = "int8", scalars: int = 0
) -> Volume:
    """Return the volume of left factors that go to everybody, and then of right ones.

    >>> powersgd_volume(128, 350, 16, "float16").bytes_sent
    16740
    """
    to_owner = dense_bytes(left_factor_floats, value_type, 0) if left_factor_floats else 0
    to_all = dense_bytes(message_floats, value_type, scalars)
    rounds = min(size - 1, 1) * (2 if to_owner else 1)
    return Volume("powersgd", to_owner, to_all, rounds * (size - 1), (size - 1) * (to_owner + to_all), rounds)


def _orthonormal(rows: Tensor) -> Tensor:
    """Return orthonormal rows that span what these do, and more where these depend on one another."""
    orthonormal: Tensor = torch.linalg.qr(rows.T).Q
    return orthonormal.T.contiguous()


def _joined(parts: Sequence[Tensor]) -> Tensor:
    return torch.cat([part.flatten() for part in parts]) if parts else torch.zeros(0)
