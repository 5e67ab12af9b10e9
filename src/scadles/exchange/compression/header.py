"""What stands at the front of a message, and the checks that a message must pass before anything is made of it."""

from __future__ import annotations

import struct
import zlib
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from scadles.errors import ConfigError, FabricError
from scadles.exchange.compression.values import VALUE_CODES

MAX_ENTRIES = 2**31 - 1

_MAGIC = b"ScDL"
_VERSION = 1
_KINDS = ("sparse", "dense")
_INDEX_CODES = ("none", "rice")
_VALUE_TYPES = tuple(VALUE_CODES)
# magic, version, kind, value type, index code, step, n, count, scalars, bytes of values, of indices, of all
_FIELDS = struct.Struct("<4s4B8Q")
_CHECKSUM = struct.Struct("<Q")


class WireError(FabricError):
    """A message that is torn, altered, foreign, or of another version."""


class Header(NamedTuple):
    """What a message says of itself.

    Attributes:
        step: of the run.
        kind: ``sparse`` or ``dense``.
        n: length of the vector.
        count: entries in the message.
        value_type: ``float32``, ``bfloat16``, ``float16`` or ``int8``.
        index_code: ``rice``, or ``none`` for a dense message.
        scalars: float64 numbers that travel along: batch size, weight, gate statistics.
    """

    step: int
    kind: str
    n: int
    count: int  # type: ignore[assignment]  # hides a method of tuple that nobody calls
    value_type: str
    index_code: str
    scalars: tuple[float, ...]


class Sections(NamedTuple):
    """The parts of a message that passed all checks: views of it, nothing copied."""

    header: Header
    values: NDArray[np.uint8]
    indices: NDArray[np.uint8]


def header_bytes(scalars: int) -> int:
    """Return the size of a header with that many scalars; a multiple of 8, so that what follows is aligned.

    >>> header_bytes(0), header_bytes(9)
    (80, 152)
    """
    return _FIELDS.size + _CHECKSUM.size + 8 * scalars


def claims(message: NDArray[np.uint8]) -> tuple[int, int]:
    """Return the step and the length of the vector that a message says it is of, before it is checked.

    Raises:
        WireError: it is too short to say anything.
    """
    if len(message) < header_bytes(0):
        raise WireError(f"a message of {len(message)} bytes, a header has {header_bytes(0)}")
    _, _, _, _, _, step, n, *_ = _FIELDS.unpack_from(message.data)
    return step, n


def seal(message: NDArray[np.uint8], header: Header, values_bytes: int, index_bytes: int) -> None:
    """Write the header, and a CRC-32 of all the rest, padding included, into a message whose body is in place."""
    numbers = (header.step, header.n, header.count, len(header.scalars), values_bytes, index_bytes, len(message))
    codes = (_KINDS.index(header.kind), _VALUE_TYPES.index(header.value_type), _INDEX_CODES.index(header.index_code))
    _FIELDS.pack_into(message.data, 0, _MAGIC, _VERSION, *codes, *numbers, 0)
    if header.scalars:
        message[header_bytes(0) : header_bytes(len(header.scalars))].view("<f8")[:] = header.scalars
    _CHECKSUM.pack_into(message.data, _FIELDS.size, _checksum(message))


def unseal(message: NDArray[np.uint8], expect_n: int) -> Sections:
    """Return the parts of a message.

    Raises:
        WireError: not one of ours, another version, not whole, altered, or about a vector of another length.
    """
    if len(message) < header_bytes(0):
        raise WireError(f"a message of {len(message)} bytes is shorter than its header of {header_bytes(0)}")
    magic, version, *rest = _FIELDS.unpack_from(message.data)
    if magic != _MAGIC:
        raise WireError(f"not a compressed gradient: begins with {magic!r}")
    if version != _VERSION:
        raise WireError(f"a message of version {version}, this is version {_VERSION}: run the same release everywhere")
    return _checked(message, expect_n, rest)


def _checked(message: NDArray[np.uint8], expect_n: int, fields: list[int]) -> Sections:
    kind, value_type, index_code, step, n, count, scalars, values_bytes, index_bytes, size, _ = fields
    if size != len(message):
        raise WireError(f"a message of {size} bytes arrived as {len(message)}")
    if _checksum(message) != _CHECKSUM.unpack_from(message.data, _FIELDS.size)[0]:
        raise WireError("a message does not match its checksum: bytes were altered on the way")
    if n != expect_n:
        raise WireError(f"a message about {n} parameters, this model has {expect_n}: run the same model everywhere")
    _check_codes(kind, value_type, index_code)
    values_at = header_bytes(scalars)
    indices_at = values_at + values_bytes
    code = VALUE_CODES[_VALUE_TYPES[value_type]]
    if count > n or (kind == 1 and count != n) or values_bytes != code.nbytes(count) or indices_at + index_bytes > size:
        raise WireError(f"a message whose lengths do not fit: {count} of {n} entries in {size} bytes")
    numbers: Any = message[header_bytes(0) : values_at].view("<f8")
    header = Header(
        step, _KINDS[kind], n, count, _VALUE_TYPES[value_type], _INDEX_CODES[index_code], tuple(numbers.tolist())
    )
    return Sections(header, message[values_at:indices_at], message[indices_at : indices_at + index_bytes])


def _check_codes(kind: int, value_type: int, index_code: int) -> None:
    known = kind < len(_KINDS) and value_type < len(_VALUE_TYPES) and index_code < len(_INDEX_CODES)
    if not known or (kind == 0) != (index_code == 1):
        raise WireError(f"a message of unknown kind: {kind}, {value_type}, {index_code}")


def _checksum(message: NDArray[np.uint8]) -> int:
    return zlib.crc32(message[header_bytes(0) :].data, zlib.crc32(message[: _FIELDS.size].data))


def check_size(n: int) -> None:
    """Refuse a vector that positions of 31 bits cannot address."""
    if not 0 <= n <= MAX_ENTRIES:
        raise ConfigError(f"an update of {n} values cannot be compressed as one: at most {MAX_ENTRIES}; split it")
