"""Whole gradients, each of which somebody looks at by itself before they become one."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from struct import Struct, error
from threading import Lock
from typing import NamedTuple, Protocol

import numpy as np
import torch
from torch import Tensor

from scadles.exchange.aggregation import Report
from scadles.exchange.aggregation.bucket import ABSENT, is_absent
from scadles.exchange.aggregation.folding import Layout
from scadles.exchange.aggregation.outliers import MOST_TIMES, Judge
from scadles.exchange.aggregation.robust import RobustMean, robust_mean
from scadles.fabric.hub.collectives import FoldError

_VALUES_AT_ONCE = 1 << 20
_DTYPES = (torch.float32, torch.float64)
_MAGIC = b"ScDW"
_HEADER = Struct("<4sB3xIIQQ")
_WEIGHT, _LOSS = Report._fields.index("weight"), Report._fields.index("loss")

#: Says what is wrong with the report of a device, by seat; empty where nothing is.
CheckReport = Callable[[int, Sequence[float]], str]


class Folded(NamedTuple):
    """What comes of the messages of one step.

    Attributes:
        message: as a plain sum would be laid out, with weight 0 in the report of a device that is set aside.
        found: what is wrong with gradients, by device, as in :class:`.Judgement`.
    """

    message: Tensor
    found: Mapping[int, float]


class DenseFold:
    """Makes one message of those of all devices that take part, each of which is a row.

    Args:
        judge: says whose gradients are set aside or scaled down; None takes all that are finite.
        mean: what takes the place of the weighted mean; None for that one.
    """

    def __init__(self, judge: Judge | None, mean: RobustMean | None) -> None:
        self.judge = judge
        self._mean = mean

    def fold(self, rows: Mapping[int, Tensor], layout: Layout) -> Folded:
        """Return the message for everybody.

        Args:
            rows: of those who take part, on the CPU, floating ``[layout.length]``; they are not changed.
            layout: of every row.
        """
        slots = {one: layout.slot(row, one) for one, row in rows.items()}
        weights = {one: float(slot[_WEIGHT]) for one, slot in slots.items()}
        gradients = {one: row[: layout.values] for one, row in rows.items()}
        factors, found = self._judged(gradients, weights)
        accepted = {one: gradient for one, gradient in gradients.items() if factors.get(one, 1.0)}
        message = torch.full_like(next(iter(rows.values())), ABSENT)
        total = message[: layout.values]
        for one, gradient in accepted.items():
            total += gradient * factors[one] if one in factors else gradient
            message[layout.values : layout.reports] += rows[one][layout.values : layout.reports]
        if self._mean is not None:
            self._replace(total, accepted, {one: weights[one] for one in accepted}, factors)
        for one, slot in slots.items():
            told = layout.slot(message, one)
            told.copy_(slot)
            if one not in accepted:
                told[_WEIGHT] = told[_LOSS] = 0.0
        return Folded(message, found)

    def _judged(
        self, gradients: Mapping[int, Tensor], weights: Mapping[int, float]
    ) -> tuple[Mapping[int, float], Mapping[int, float]]:
        whole = _Whole(gradients)
        if self.judge is not None:
            return self.judge.judge(whole, weights)
        spoilt = [one for one, norm in whole.norms().items() if not np.isfinite(norm)]
        return dict.fromkeys(spoilt, 0.0), dict.fromkeys(spoilt, MOST_TIMES)

    def _replace(
        self,
        total: Tensor,
        gradients: Mapping[int, Tensor],
        weights: Mapping[int, float],
        factors: Mapping[int, float],
    ) -> None:
        """Put the robust mean, times the sum of the weights, where the sum is; what no device has stays absent."""
        counting = [one for one, weight in weights.items() if weight > 0]
        if not counting or self._mean is None:
            return
        of = sum(weights[one] for one in counting)
        rows = [gradients[one] * (factors.get(one, 1.0) / weights[one]) for one in counting]
        absent = is_absent(total)
        total.copy_(robust_mean(rows, [weights[one] for one in counting], self._mean).mul_(of).add_(0.0))
        total.masked_fill_(absent, ABSENT)


def fold_rows(
    fold: DenseFold, gradients: Mapping[int, Tensor], reports: np.ndarray
) -> tuple[Tensor, np.ndarray, Mapping[int, float]]:
    """Fold the gradients of devices that share this process.

    Args:
        fold: makes one of them.
        gradients: weighted, of those who take part, float32 ``[n]``.
        reports: of all devices, float64 ``[devices, fields]``.

    Returns:
        The sum, reports as everybody gets them, and what was found, as in :class:`.Judgement`.
    """
    devices, fields = reports.shape
    values = len(next(iter(gradients.values())))
    layout, told = Layout(values, values + devices * fields, devices, fields), torch.from_numpy(reports).float()
    rows = {}
    for one, gradient in gradients.items():
        rows[one] = torch.cat([gradient, torch.zeros(devices * fields, dtype=gradient.dtype)])
        layout.slot(rows[one], one).copy_(told[one])
    message, found = fold.fold(rows, layout)
    everybody = told.double().numpy()
    for one in gradients:
        everybody[one] = layout.slot(message, one).double().numpy()
    return message[:values], everybody, found


class Owner(Protocol):
    """Makes one message for everybody of all devices', as bytes, by seat."""

    def fold(self, rows: Sequence[bytearray | None]) -> bytes: ...


class DenseOwner:
    """What a hub makes of whole gradients, as bytes: :class:`DenseFold`'s message, and what was found of each seat.

    Args:
        fold: makes it.
        check: says what is wrong with a report.
    """

    def __init__(self, fold: DenseFold, check: CheckReport = lambda seat, report: "") -> None:
        self._fold = fold
        self._check = check
        self._lock = Lock()

    def fold(self, rows: Sequence[bytearray | None]) -> bytes:
        """Return the message for everybody.

        Args:
            rows: messages by seat, made by :func:`pack`; None of who is absent.

        Raises:
            FoldError: a device's message is laid out otherwise than most devices', has a number in it that is not
                finite, or a report that cannot be.
        """
        with self._lock:
            present = {seat: row for seat, row in enumerate(rows) if row is not None}
            headers = {seat: bytes(row[: _HEADER.size]) for seat, row in present.items()}
            usual = Counter(headers.values()).most_common(1)[0][0]
            layout, dtype = _parsed(usual, next(seat for seat in headers if headers[seat] == usual))
            tensors: dict[int, Tensor] = {}
            for seat, row in present.items():
                if headers[seat] != usual or len(row) != _HEADER.size + layout.length * dtype.itemsize:
                    raise FoldError(seat, "a gradient that is laid out otherwise than the others'")
                tensors[seat] = torch.frombuffer(row, dtype=dtype, offset=_HEADER.size)
                self._look_at(seat, tensors[seat], layout)
            folded = self._fold.fold(tensors, layout)
        found = np.zeros(layout.devices)
        found[list(folded.found)] = list(folded.found.values())
        return folded.message.numpy().tobytes() + found.tobytes()

    def _look_at(self, seat: int, row: Tensor, layout: Layout) -> None:
        if not np.isfinite(float(torch.sum(row))) and not bool(torch.isfinite(row).all()):
            raise FoldError(seat, "a gradient with NaN or infinity, which no device sends")
        reports = row[layout.reports :]
        slot = layout.slot(row, seat)
        if int(reports.count_nonzero()) != int(slot.count_nonzero()):
            raise FoldError(seat, "a report in another device's place")
        if why := self._check(seat, slot.tolist()):
            raise FoldError(seat, why)


class EitherOwner:
    """What a hub does where steps send whole gradients or compressed ones: what most devices have sent.

    Args:
        dense: takes whole ones.
        sparse: takes compressed ones; None where there are none.
    """

    def __init__(self, dense: DenseOwner, sparse: Owner | None) -> None:
        self._dense = dense
        self._sparse = sparse

    def fold(self, rows: Sequence[bytearray | None]) -> bytes:
        """Return the message for everybody.

        Args:
            rows: messages by seat; None of who is absent.

        Raises:
            FoldError: a device's message is not what it should be.
        """
        sent = [is_dense(row) for row in rows if row is not None]
        if self._sparse is None or 2 * sum(sent) > len(sent):
            return self._dense.fold(rows)
        return self._sparse.fold(rows)


def is_dense(row: bytearray | bytes) -> bool:
    """Whether a message is one of :func:`pack`."""
    return row[: len(_MAGIC)] == _MAGIC


def pack(message: Tensor, layout: Layout) -> Tensor:
    """Return a message on the CPU with its layout ahead of it, uint8."""
    code = _DTYPES.index(message.dtype)
    header = _HEADER.pack(_MAGIC, code, layout.devices, layout.fields, layout.values, layout.length)
    return torch.frombuffer(bytearray(header) + message.numpy().tobytes(), dtype=torch.uint8)


def packed_bytes(message_bytes: int) -> int:
    """Return how long a message of so many bytes is once it is packed."""
    return _HEADER.size + message_bytes


def answer_bytes(message_bytes: int, devices: int) -> int:
    """Return how long what a hub answers to messages of so many bytes is."""
    return message_bytes + 8 * devices


def unpacked(answer: Tensor, like: Tensor, layout: Layout) -> Folded:
    """Return what a hub has answered to messages of these dtype and layout."""
    split = layout.length * like.dtype.itemsize
    found = answer[split:].numpy().view(np.float64)
    at = np.flatnonzero(found).tolist()
    return Folded(answer[:split].view(like.dtype), {one: float(found[one]) for one in at})


def _parsed(header: bytes, seat: int) -> tuple[Layout, torch.dtype]:
    try:
        magic, code, devices, fields, values, length = _HEADER.unpack(header)
        layout = Layout(values, length, devices, fields)
        if magic != _MAGIC or code >= len(_DTYPES) or layout.reports < values or fields <= _LOSS:
            raise FoldError(seat, "bytes that are no gradient")
    except error:
        raise FoldError(seat, "bytes that are no gradient") from None
    return layout, _DTYPES[code]


class _Whole:
    """Whole gradients, looked at a part at a time in float64."""

    def __init__(self, gradients: Mapping[int, Tensor]) -> None:
        self._gradients = gradients

    def norms(self) -> Mapping[int, float]:
        squares = {one: sum(_product(part, part) for part in _parts(each)) for one, each in self._gradients.items()}
        return {one: float(np.sqrt(square)) for one, square in squares.items()}

    def products(self, among: Collection[int]) -> tuple[Mapping[int, float], float]:
        total = sum((self._gradients[one] for one in among), start=torch.zeros(()))
        sums = _parts(total)
        products = {
            one: sum(_product(*both) for both in zip(_parts(gradient), sums, strict=True))
            for one, gradient in self._gradients.items()
        }
        return products, sum(_product(part, part) for part in sums)


def _parts(values: Tensor) -> Sequence[Tensor]:
    return torch.split(values, _VALUES_AT_ONCE)


def _product(one: Tensor, other: Tensor) -> float:
    return float(torch.dot(one.double(), other.double()))
