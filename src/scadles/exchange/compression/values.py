"""Values of kept entries as bytes: float32, bfloat16, float16, or int8 with a scale per group."""

from __future__ import annotations

from abc import ABC, abstractmethod

import numpy as np
from numpy.typing import NDArray

from scadles.errors import RunError

GROUP = 256

Bytes = NDArray[np.uint8]
Floats = NDArray[np.float32]

_SMALLEST_NORMAL = np.finfo(np.float32).tiny
# 127 times it is still finite
_LARGEST_SCALE = np.nextafter(np.finfo(np.float32).max / np.float32(127), np.float32(0))
_LARGEST_BFLOAT16 = float(np.array([0x7F7F0000], dtype="<u4").view("<f4")[0])


class ValueCode(ABC):
    """How values of one section of a message are written; parts of a section are coded independently.

    A part begins at a multiple of the group size. What is too large for a type becomes its largest number: the residual
    keeps the rest.
    """

    @abstractmethod
    def nbytes(self, count: int) -> int:
        """Return the bytes of a section of ``count`` values."""

    @abstractmethod
    def write(self, values: Floats, section: Bytes, part: slice, count: int, sent: Floats) -> None:
        """Write the values of a part; into ``sent``, as long, go those values as they will be read.

        Raises:
            RunError: a value that is not finite.
        """

    @abstractmethod
    def read(self, section: Bytes, part: slice, count: int) -> Floats:
        """Return the values of a part."""


class _Float(ValueCode):
    """Each value by itself in a little-endian number."""

    def __init__(self, dtype: str) -> None:
        self._dtype = np.dtype(dtype)

    def nbytes(self, count: int) -> int:
        return count * int(self._dtype.itemsize)

    def write(self, values: Floats, section: Bytes, part: slice, count: int, sent: Floats) -> None:
        check_finite(values)
        words = self._narrow(values)
        section.view(self._dtype)[part] = words
        sent[:] = self._widen(words)

    def read(self, section: Bytes, part: slice, count: int) -> Floats:
        return self._widen(section.view(self._dtype)[part])

    def _narrow(self, values: Floats) -> NDArray[np.generic]:
        return values

    def _widen(self, words: NDArray[np.generic]) -> Floats:
        return words.astype(np.float32)


class _Float16(_Float):
    def _narrow(self, values: Floats) -> NDArray[np.generic]:
        return np.clip(values, -65504.0, 65504.0).astype("<f2")


class _Bfloat16(_Float):
    """The upper half of a float32, rounded to nearest, ties to even."""

    def _narrow(self, values: Floats) -> NDArray[np.generic]:
        bits = np.clip(values, -_LARGEST_BFLOAT16, _LARGEST_BFLOAT16).view(np.uint32)
        return ((bits + (((bits >> 16) & 1) + 0x7FFF)) >> 16).astype("<u2")

    def _widen(self, words: NDArray[np.generic]) -> Floats:
        return (words.astype(np.uint32) << 16).view(np.float32)


class _Int8(ValueCode):
    """Symmetric: ``v ~ s q`` with ``s = max |v| / 127`` over a group and ``q`` rounded to nearest; first all scales."""

    def nbytes(self, count: int) -> int:
        return 4 * _groups(count) + count

    def write(self, values: Floats, section: Bytes, part: slice, count: int, sent: Floats) -> None:
        scales, numbers = _int8_parts(section, part, count)
        full = len(values) - len(values) % GROUP
        for rows, groups in ((slice(full), slice(full // GROUP)), (slice(full, None), slice(full // GROUP, None))):
            shape = (len(scales[groups]), -1)
            if shape[0]:
                _write_rows(
                    values[rows].reshape(shape), numbers[rows].reshape(shape), sent[rows].reshape(shape), scales[groups]
                )

    def read(self, section: Bytes, part: slice, count: int) -> Floats:
        scales, numbers = _int8_parts(section, part, count)
        rows = _in_rows(numbers.astype(np.float32))
        rows *= scales[:, None]
        return rows.ravel()[: len(numbers)]


VALUE_CODES: dict[str, ValueCode] = {
    "float32": _Float("<f4"),
    "bfloat16": _Bfloat16("<u2"),
    "float16": _Float16("<f2"),
    "int8": _Int8(),
}


def check_finite(values: Floats) -> None:
    """Refuse values with NaN or infinity.

    Raises:
        RunError: there are some.
    """
    if not np.isfinite(values).all():
        raise RunError("an update with NaN or infinity cannot be compressed: leave it out of this step")


def _write_rows(rows: Floats, numbers: NDArray[np.int8], sent: Floats, scales: Floats) -> None:
    """Write one group a row; all passes after the first are over memory that the cache holds."""
    scale = np.abs(rows, out=sent).max(axis=1)
    check_finite(scale)  # not a number where one of its group is not
    scale /= np.float32(127)
    # zeros, and numbers too small for a scale that divides them exactly
    scale[scale < _SMALLEST_NORMAL] = 0
    np.minimum(scale, _LARGEST_SCALE, out=scale)
    scales[:] = scale
    scale[scale == 0] = np.inf
    np.divide(rows, scale[:, None], out=sent)
    np.rint(sent, out=sent)
    sent += 0  # a receiver reads no negative zero
    np.copyto(numbers, sent, casting="unsafe")
    sent *= scales[:, None]


def _groups(count: int) -> int:
    return -(-count // GROUP)


def _int8_parts(section: Bytes, part: slice, count: int) -> tuple[Floats, NDArray[np.int8]]:
    ends = 4 * _groups(count)
    scales = section[:ends].view("<f4")[part.start // GROUP : _groups(part.stop)]
    return scales, section[ends:].view(np.int8)[part]


def _in_rows(values: Floats) -> Floats:
    missing = -len(values) % GROUP
    padded = np.concatenate([values, np.zeros(missing, np.float32)]) if missing else values
    return padded.reshape(-1, GROUP)
