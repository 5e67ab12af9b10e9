"""``npy``: numpy's file format, one array a message or two, never one that needs pickle."""

from __future__ import annotations

import re
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from scadles.layout import Layout
from scadles.streams.codec.contract import Codec, Decoded
from scadles.streams.codec.labels import Labels
from scadles.streams.codec.raw import RawCodec
from scadles.streams.codec.sample import SampleType, UnreadableError, convertible, too_long
from scadles.targets import TargetType

_MAGIC = b"\x93NUMPY"
_MOST_HEADER = 1024
# A header is a Python literal in numpy's own words. A pattern reads those of plain numbers and evaluates nothing.
_HEADER = re.compile(
    rb"\s*\{\s*'descr':\s*'(?P<type>[<>|=]?[a-z]\d{1,2})',\s*'fortran_order':\s*(?P<fortran>True|False),"
    rb"\s*'shape':\s*\((?P<shape>[\d, ]*)\),?\s*\}\s*"
)


class NpyCodec(Codec):
    """Values that :func:`numpy.save` writes, and with the label before that if it is in the value.

    A target that is no class label is a second array, written behind the first one; parts of samples and targets are
    arrays behind each other, in their order.

    What a header promises is compared with what the configuration expects and with the length of the message before
    anything is made of it. Any byte order, either order of dimensions and, where samples are floating numbers, any
    width of these will do.

    Args:
        sample: what the array must be.
        labels: where the label is.
        max_bytes: longer values are rejected.
        target: what belongs to a sample.
    """

    __slots__ = ("_arrays", "_headers", "_labels", "_max_bytes", "_raw")

    def __init__(self, sample: SampleType, labels: Labels, max_bytes: int, target: TargetType) -> None:
        self._labels = labels
        self._max_bytes = max_bytes
        self._raw = RawCodec(sample, labels, target)
        self._arrays = [*arrays_of(sample.layout, sample)]
        if not target.is_label and not target.is_none:
            whole = SampleType(target.shape, target.dtype)
            self._arrays += arrays_of(target.layout if target.parts else None, whole)
        self._headers = [_header(array) for _, array in self._arrays]

    def decode(self, values: Sequence[bytes | None], keys: Sequence[bytes | None]) -> Decoded:
        reasons: dict[int, str] = {}
        plain: list[bytes | None] = []
        for i, value in enumerate(values):
            try:
                plain.append(self._plain(value))
            except UnreadableError as error:
                plain.append(None)
                reasons[i] = str(error)
        decoded = self._raw.decode(plain, keys)
        return decoded._replace(rejected=[(i, reasons.get(i, reason)) for i, reason in decoded.rejected])

    def encode(self, x: Tensor, y: int | Tensor) -> tuple[bytes | None, bytes]:
        key, value = self._raw.encode(x, y)
        at = self._labels.in_value
        parts = [value[:at]]
        for header, (_, array) in zip(self._headers, self._arrays, strict=True):
            parts += [header, value[at : at + array.nbytes]]
            at += array.nbytes
        return key, b"".join(parts)

    def _plain(self, value: bytes | None) -> bytes:
        """Return a value as it would be in the format ``raw``."""
        reason = too_long(value, self._max_bytes)
        if value is None or reason is not None:
            raise UnreadableError(reason)
        start = self._labels.in_value
        if len(self._arrays) > 1:
            return self._several(value, start)
        header, sample = self._headers[0], self._arrays[0][1]
        if value.startswith(header, start):
            plain = value[:start] + value[start + len(header) :]
            if len(plain) != start + sample.nbytes:
                raise UnreadableError(f"{len(plain) - start:,} bytes of numbers, expected {sample.nbytes:,}")
            return plain
        return value[:start] + self._converted(value[start:], sample)[0]

    def _several(self, value: bytes, start: int) -> bytes:
        plain, rest = [value[:start]], value[start:]
        for place, (name, array) in enumerate(self._arrays):
            if not rest and place:
                raise UnreadableError(f"part {name} is missing" if name else "there is no array of a target")
            try:
                found, rest = self._converted(rest, array, ends=place == len(self._arrays) - 1)
            except UnreadableError as error:
                raise UnreadableError(f"part {name}: {error}" if name else str(error)) from None
            plain.append(found)
        return b"".join(plain)

    @staticmethod
    def _converted(value: bytes, expected: SampleType, *, ends: bool = True) -> tuple[bytes, bytes]:
        """Return the numbers of the array at the start of a value, in the expected type, and what follows it."""
        dtype, shape, fortran, numbers, rest = _parsed(value, ends=ends)
        if shape != expected.shape:
            raise UnreadableError(f"shape {list(shape)}, expected {list(expected.shape)}")
        if not convertible(_torch_type(dtype), expected.dtype):
            raise UnreadableError(f"dtype {dtype.name}, expected {expected.numpy.name}")
        array = np.frombuffer(numbers, dtype).reshape(shape, order="F" if fortran else "C")
        with np.errstate(over="ignore"):
            return array.astype(expected.numpy).tobytes(), rest


def arrays_of(layout: Layout | None, whole: SampleType) -> list[tuple[str, SampleType]]:
    """Return name and type of each array that a sample or target is in a message; one array has no name."""
    if layout is None:
        return [("", whole)]
    return [(part.name, SampleType(part.shape, part.dtype)) for part in layout.parts]


def _header(sample: SampleType) -> bytes:
    """Return what numpy writes before the numbers of such a sample."""
    shape = f"({', '.join(map(str, sample.shape))}{',' if len(sample.shape) == 1 else ''})"
    text = f"{{'descr': '{sample.numpy.str}', 'fortran_order': False, 'shape': {shape}, }}"
    padded = text + " " * (-(len(_MAGIC) + 4 + len(text) + 1) % 64) + "\n"
    return _MAGIC + b"\x01\x00" + len(padded).to_bytes(2, "little") + padded.encode()


def _parsed(value: bytes, *, ends: bool) -> tuple[np.dtype, tuple[int, ...], bool, bytes, bytes]:
    """Return type, shape, whether the first dimension is the innermost, the numbers, and what follows them.

    There are as many numbers as there must be, and nothing follows them where the value ``ends`` with them.
    """
    width = {1: 2, 2: 4, 3: 4}.get(value[len(_MAGIC)] if len(value) > len(_MAGIC) else 0, 0)
    if not (value.startswith(_MAGIC) and width):
        raise UnreadableError("no array in numpy's format")
    start = len(_MAGIC) + 2 + width
    size = int.from_bytes(value[start - width : start], "little")
    found = _HEADER.fullmatch(value[start : start + size]) if size <= _MOST_HEADER else None
    if found is None:
        raise UnreadableError("an array whose header says anything but plain numbers and their shape")
    try:
        dtype = np.dtype(found["type"].decode())
        shape = tuple(int(part) for part in found["shape"].split(b",") if part.strip())
    except (TypeError, ValueError):
        raise UnreadableError("an array of a type or shape that numpy does not have") from None
    numbers = value[start + size :]
    count = 1
    for length in shape:
        count *= length
    behind = numbers[count * dtype.itemsize :]
    if not ends and dtype.kind in "iufb":
        numbers = numbers[: count * dtype.itemsize]
    if dtype.kind not in "iufb" or len(numbers) != count * dtype.itemsize:
        raise UnreadableError(f"{len(numbers):,} bytes of numbers, which is not what the header says")
    return dtype, shape, found["fortran"] == b"True", numbers, behind


def _torch_type(dtype: np.dtype) -> torch.dtype:
    found = getattr(torch, dtype.name, None)
    return found if isinstance(found, torch.dtype) else torch.bool
