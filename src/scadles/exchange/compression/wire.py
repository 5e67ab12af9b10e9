"""One device's update as one message: little-endian, versioned, with a checksum over every byte.

header | scalars, float64 | values | positions | zeros up to the agreed size

A message is checked as a whole before anything is made of it; sizes are compared with what arrived before memory is
taken for them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from scadles.errors import ConfigError, RunError, did_you_mean
from scadles.exchange.compression.blocks import in_threads, slices
from scadles.exchange.compression.header import Header, Sections, WireError, check_size, header_bytes, seal, unseal
from scadles.exchange.compression.rice import CHUNK, IndexReader, most_index_bytes, write_indices
from scadles.exchange.compression.sparse import Sparse
from scadles.exchange.compression.values import VALUE_CODES, ValueCode


class Encoded(NamedTuple):
    """A message of some entries.

    Attributes:
        message: uint8, on the CPU.
        kept: entries in it; fewer than were given when they did not fit the budget.
        sent: those entries as the receiver will decode them: what to subtract from the residual.
        index_bytes: what the positions take.
        values_bytes: what the values take.
    """

    message: Tensor
    kept: int
    sent: Sparse
    index_bytes: int
    values_bytes: int


class EncodedDense(NamedTuple):
    """A message of a whole vector.

    Attributes:
        message: uint8, on the CPU.
        sent: the vector as the receiver will decode it, float32 ``[n]``.
    """

    message: Tensor
    sent: Tensor


def encode(
    sparse: Sparse,
    n: int,
    *,
    value_type: str,
    step: int = 0,
    scalars: Sequence[float] = (),
    budget_bytes: int | None = None,
) -> Encoded:
    """Return a message of some entries of a vector of ``n``.

    Args:
        sparse: the entries, finite, positions ascending.
        n: length of the vector.
        value_type: ``float32``, ``bfloat16``, ``float16`` or ``int8`` (a float32 scale for each 256 values).
        step: of the run.
        scalars: numbers for the header.
        budget_bytes: size of the message, zeros at the end. Where not all entries fit, the smallest magnitudes stay
            out; with the result of :func:`budget_bytes` for this many entries, all fit.

    Raises:
        ConfigError: an unknown value type, a budget too small for the header, an n above 2^31 - 1.
        RunError: a value that is not finite, positions that do not ascend or lie outside.

    >>> sparse = Sparse(torch.tensor([2, 5]), torch.tensor([1.0, -0.5]))
    >>> encoded = encode(sparse, 8, value_type="float32", step=3, scalars=[64.0])
    >>> header, decoded = decode(encoded.message, expect_n=8)
    >>> header.step, header.scalars, decoded.indices.tolist(), decoded.values.tolist()
    (3, (64.0,), [2, 5], [1.0, -0.5])
    """
    check_size(n)
    code = _value_code(value_type)
    if sparse.entries and int(sparse.indices[-1]) >= n:
        raise RunError(f"position {int(sparse.indices[-1])} in an update of {n} values")
    indices, values = sparse.indices.cpu().numpy(), sparse.values.detach().cpu().numpy()
    header = Header(step, "sparse", n, len(values), value_type, "rice", tuple(float(s) for s in scalars))
    encoded = _encode(header, code, indices, values, budget_bytes)
    if encoded is None:
        fitting = _fitting_count(n, value_type, len(scalars), budget_bytes or 0)
        kept = np.sort(np.argpartition(-np.abs(values), fitting)[:fitting])
        indices, values = indices[kept], values[kept]
        encoded = _encode(header._replace(count=fitting), code, indices, values, budget_bytes)
    if encoded is None:
        raise ConfigError(f"budget_bytes = {budget_bytes}: at least {header_bytes(len(scalars))} are needed")
    return encoded


def encode_dense(values: Tensor, *, value_type: str, step: int = 0, scalars: Sequence[float] = ()) -> EncodedDense:
    """Return a message of a whole vector, float32 ``[n]``; its size is :func:`dense_bytes`.

    Raises:
        ConfigError: an unknown value type.
        RunError: a value that is not finite.
    """
    n = values.numel()
    check_size(n)
    code = _value_code(value_type)
    header = Header(step, "dense", n, n, value_type, "none", tuple(float(s) for s in scalars))
    message = np.empty(dense_bytes(n, value_type, len(scalars)), np.uint8)
    sent = _write_values(values.detach().cpu().numpy(), code, message[header_bytes(len(scalars)) :])
    seal(message, header, code.nbytes(n), 0)
    return EncodedDense(torch.from_numpy(message), torch.from_numpy(sent))


def decode(message: Tensor, expect_n: int) -> tuple[Header, Sparse]:
    """Return the header and the entries of a sparse message about a vector of ``expect_n``.

    Raises:
        WireError: not whole, altered, foreign, of another version or another model; a dense message.
    """
    sections = _sections(message, expect_n)
    header = sections.header
    if header.kind != "sparse":
        raise WireError("a dense message where a sparse one was expected")
    reader = IndexReader(sections.indices, header.count, header.n)
    indices, values = np.empty(header.count, np.int64), np.empty(header.count, np.float32)

    def read(number: int) -> None:
        part = reader.parts[number]
        indices[part] = reader.read(number)
        values[part] = _read_values(sections, part)

    in_threads(read, range(len(reader.parts)))
    return header, Sparse(torch.from_numpy(indices), torch.from_numpy(values))


def decode_dense(message: Tensor, expect_n: int) -> tuple[Header, Tensor]:
    """Return the header and the vector of a dense message, float32 ``[expect_n]``.

    Raises:
        WireError: not whole, altered, foreign, of another version or another model; a sparse message.
    """
    sections = _sections(message, expect_n)
    if sections.header.kind != "dense":
        raise WireError("a sparse message where a dense one was expected")
    values = np.empty(expect_n, np.float32)
    _each_dense_part(sections, lambda part, read: values.__setitem__(part, read))
    return sections.header, torch.from_numpy(values)


def add_message(message: Tensor, total: Tensor) -> Header:
    """Add the update of a message of either kind to ``total``, float32 ``[n]`` on the CPU, in place.

    Raises:
        WireError: as :func:`decode`; found before ``total`` is touched, unless bytes that match their checksum stand
            for nothing.
    """
    sections = _sections(message, total.numel())
    header = sections.header
    sums = total.numpy()
    if header.kind == "dense":
        _each_dense_part(sections, lambda part, read: np.add(sums[part], read, out=sums[part]))
        return header
    reader = IndexReader(sections.indices, header.count, header.n)

    def add(number: int) -> None:
        values = _read_values(sections, reader.parts[number])
        # positions are ascending: none is twice in a chunk, and no two chunks share one
        sums[reader.read(number)] += values

    in_threads(add, range(len(reader.parts)))
    return header


def budget_bytes(n: int, k: int, value_type: str, scalars: int = 16) -> int:
    """Return a size that every message of at most ``k`` of ``n`` entries and ``scalars`` numbers fits.

    >>> round(budget_bytes(60_000_000, 6_000_000, "int8") * 8 / 6_000_000, 1)
    13.3
    """
    k = min(k, n)
    # few entries leave room for many gaps, so that the positions of fewer entries never take more
    return header_bytes(scalars) + _value_code(value_type).nbytes(k) + most_index_bytes(n, k)


def dense_bytes(n: int, value_type: str, scalars: int = 16) -> int:
    """Return the exact size of a dense message with ``scalars`` numbers."""
    return header_bytes(scalars) + _value_code(value_type).nbytes(n)


def _value_code(value_type: str) -> ValueCode:
    if value_type not in VALUE_CODES:
        raise ConfigError(f"value_type = {value_type!r}: unknown{did_you_mean(value_type, VALUE_CODES)}")
    return VALUE_CODES[value_type]


def _sections(message: Tensor, expect_n: int) -> Sections:
    return unseal(message.cpu().contiguous().numpy(), expect_n)


def _encode(
    header: Header,
    code: ValueCode,
    indices: NDArray[np.int64],
    values: NDArray[np.float32],
    size: int | None,
) -> Encoded | None:
    """Return the message, or None where it is longer than ``size``."""
    values_at = header_bytes(len(header.scalars))
    indices_at = values_at + code.nbytes(header.count)
    most = indices_at + most_index_bytes(header.n, header.count)
    message = np.empty(max(most, size or 0), np.uint8)
    used = indices_at + write_indices(indices, message[indices_at:])
    if size is not None and used > size:
        return None
    sent = _write_values(values, code, message[values_at:indices_at])
    message = message[: size or used]
    message[used:] = 0
    seal(message, header, indices_at - values_at, used - indices_at)
    entries = Sparse(torch.from_numpy(indices), torch.from_numpy(sent))
    return Encoded(torch.from_numpy(message), header.count, entries, used - indices_at, indices_at - values_at)


def _write_values(values: NDArray[np.float32], code: ValueCode, section: NDArray[np.uint8]) -> NDArray[np.float32]:
    sent = np.empty(len(values), np.float32)

    def write(part: slice) -> None:
        code.write(values[part], section, part, len(values), sent[part])

    in_threads(write, slices(len(values), CHUNK))
    return sent


def _each_dense_part(sections: Sections, take: Callable[[slice, NDArray[np.float32]], object]) -> None:
    in_threads(lambda part: take(part, _read_values(sections, part)), slices(sections.header.n, CHUNK))


def _read_values(sections: Sections, part: slice) -> NDArray[np.float32]:
    with np.errstate(over="ignore", invalid="ignore"):
        values = VALUE_CODES[sections.header.value_type].read(sections.values, part, sections.header.count)
    if not np.isfinite(values).all():
        raise WireError("a message with NaN or infinity, which no sender writes")
    return values


def _fitting_count(n: int, value_type: str, scalars: int, size: int) -> int:
    """Return the largest count for which all positions fit."""
    low, high = 0, n
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if budget_bytes(n, middle, value_type, scalars) <= size else (low, middle - 1)
    return low
