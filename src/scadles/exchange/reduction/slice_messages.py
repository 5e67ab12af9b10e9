"""Few entries in few bytes: what goes to the owner of a slice, and what comes from it.

A message's size is agreed beforehand, its receiver knows what it must be about. So its header is a checksum over all
that and the rest of the message, one byte for the version and the width of gaps, and two short numbers:

checksum | version, width | entries | wanted | scalars, float32 | values | gaps | zeros up to the agreed size

Gaps are Rice codes of one width. Messages have one size, so adapting the width to the density within a message would
save nothing; whatever the density, no more is needed than for the same entries spread evenly.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from scadles.exchange.compression import WireError
from scadles.exchange.compression.values import VALUE_CODES, check_finite

Bytes = NDArray[np.uint8]
Floats = NDArray[np.float32]
Indices = NDArray[np.int64]

_VERSION = 1
_MAX_WIDTH = 31
_CHECKSUM = struct.Struct("<I")
# step, sender, receiver, start, stop, value type, scalars, size of the message
_IMPLICIT = struct.Struct("<Q2i2Q2IQ")
_VALUE_TYPES = tuple(VALUE_CODES)


class ImplicitHeader(NamedTuple):
    """What sender and receiver know of a message without sending it; the checksum covers it as well.

    Attributes:
        step: of the run.
        sender: a device.
        receiver: a device, or -1 for all.
        start, stop: the slice.
        value_type: of the values on the wire.
        scalars: how many numbers travel along.
    """

    step: int
    sender: int
    receiver: int
    start: int
    stop: int
    value_type: str
    scalars: int = 0

    @property
    def span(self) -> int:
        """Entries of the slice."""
        return self.stop - self.start

    def checksum(self, message: Bytes) -> int:
        """Return the CRC-32 of this and of all of a message but its checksum."""
        known = (*self[:5], _VALUE_TYPES.index(self.value_type), self.scalars, len(message))
        return zlib.crc32(message[_CHECKSUM.size :].data, zlib.crc32(_IMPLICIT.pack(*known)))


class Opened(NamedTuple):
    """What was in a message.

    Attributes:
        indices: int64, ascending, from the start of the slice.
        values: float32.
        scalars: float32.
        wanted: entries that there would have been without a limit.
    """

    indices: Indices
    values: Floats
    scalars: Floats
    wanted: int


class Packed(NamedTuple):
    """What was put into a message.

    Attributes:
        indices: int64, ascending, from the start of the slice.
        values: float32, as they were given.
        sent: float32, as the receiver will read them.
    """

    indices: Indices
    values: Floats
    sent: Floats


def slice_message_bytes(span: int, count: int, value_type: str, scalars: int = 0) -> int:
    """Return the size of messages that ``count`` of ``span`` entries fit where they lie at random.

    ``count (1 + w + m / 2^w)`` bits are enough for gaps of mean ``m`` wherever they lie; of each, what random gaps
    leave of the last term's rounding is taken off: a little less than half a bit. All in whole numbers, because every
    device must come to the same.

    >>> slice_message_bytes(span=3906, count=39, value_type="int8") * 8 / 39 < 20
    True
    """
    count = min(count, span)
    if count == 0:
        return _header_bytes(0, scalars)
    left_out = span - count
    width = _width_of(left_out, count)
    bits = count * (1 + width) + (left_out >> width) - (2 * count * ((1 << width) - 1) // (5 << width))
    return _header_bytes(count, scalars) + VALUE_CODES[value_type].nbytes(count) + bits // 8 + 1


def pack_slice_message(
    message: Bytes,
    header: ImplicitHeader,
    indices: Indices,
    values: Floats,
    wanted: int,
    scalars: Sequence[float] = (),
    *,
    read: bool = True,
) -> Packed:
    """Fill a message with as many entries as fit, those of largest magnitude.

    Args:
        message: all of it is written, where it will be read.
        header: what it is about.
        indices: int64, ascending, from the start of the slice.
        values: float32.
        wanted: how many entries there would be without a limit.
        scalars: as many as the header says.
        read: whether anybody will read the message; the same fits in otherwise, and nothing needs to be written.

    Raises:
        RunError: a value that is not finite.
    """
    check_finite(values)
    code = VALUE_CODES[header.value_type]
    while True:
        count = len(indices)
        gaps = _gaps(indices)
        width, gap_bits = _best_width(gaps)
        front = _written_header(width, count, wanted, scalars)
        room, needed = len(message) - len(front), code.nbytes(count) + -(-gap_bits // 8)
        if needed <= room or not count:
            break
        # the fewer entries, the more bytes for each: this does not go too far
        kept = _largest(values, min(count * max(room, 0) // needed, count - 1))
        indices, values = indices[kept], values[kept]
    values_at, gaps_at = len(front), len(front) + code.nbytes(count)
    sent = np.empty_like(values)
    if read:
        message[:values_at] = front
        message[values_at:] = 0
    code.write(values, message[values_at:gaps_at], slice(0, count), count, sent)
    if not read:
        return Packed(indices, values, sent)
    gap_bytes = np.packbits(_gap_bits(gaps, width, gap_bits))
    message[gaps_at : gaps_at + len(gap_bytes)] = gap_bytes
    _CHECKSUM.pack_into(message.data, 0, header.checksum(message))
    return Packed(indices, values, sent)


def open_slice_message(message: Bytes, header: ImplicitHeader) -> Opened:
    """Return what is in a message after checking all of it.

    Raises:
        WireError: bytes altered on the way, or a message about something else than the header says.
    """
    torn = len(message) < _header_bytes(0, header.scalars)
    if torn or _CHECKSUM.unpack_from(message.data)[0] != header.checksum(message):
        raise WireError(
            "a message does not match its checksum: bytes were altered on the way, or its sender is at another step, "
            "has another model, or runs another release"
        )
    version, width = divmod(int(message[_CHECKSUM.size]), _MAX_WIDTH + 1)
    if version != _VERSION:
        raise WireError(f"a message of version {version}, this is version {_VERSION}: run the same release everywhere")
    count, at = _read_number(message, _CHECKSUM.size + 1)
    wanted, scalars_at = _read_number(message, at)
    at = scalars_at + 4 * header.scalars
    code = VALUE_CODES[header.value_type]
    # every entry has a bit at least: checked before anything is made of these numbers
    if count > header.span or at + code.nbytes(count) + -(-count * (1 + width) // 8) > len(message):
        raise WireError(f"a message of {len(message)} bytes with {count} of {header.span} entries")
    scalars = message[scalars_at:at].view("<f4").astype(np.float32)
    if count == 0:
        return Opened(np.zeros(0, np.int64), np.zeros(0, np.float32), scalars, wanted)
    end = at + code.nbytes(count)
    with np.errstate(over="ignore", invalid="ignore"):
        values = code.read(message[at:end], slice(0, count), count)
    if not np.isfinite(values).all():
        raise WireError("a message with NaN or infinity, which no sender writes")
    return Opened(_read_gaps(message[end:], count, width, header.span), values, scalars, wanted)


def _header_bytes(count: int, scalars: int) -> int:
    # more may be wanted than there are
    return _CHECKSUM.size + 1 + 2 * len(_number(count)) + 1 + 4 * scalars


def _written_header(width: int, count: int, wanted: int, scalars: Sequence[float]) -> Bytes:
    """Return a header whose checksum is yet missing."""
    front = bytes(_CHECKSUM.size) + bytes([_VERSION * (_MAX_WIDTH + 1) + width]) + _number(count) + _number(wanted)
    return np.frombuffer(front + np.asarray(scalars, "<f4").tobytes(), np.uint8)


def _largest(values: Floats, count: int) -> NDArray[np.intp]:
    """Return the places of the largest magnitudes, ascending."""
    return np.sort(np.argpartition(-np.abs(values), count)[:count])


def _number(number: int) -> bytes:
    """Return a number in bytes of 7 bits, the lowest first; all but the last have their highest bit set."""
    written = bytearray()
    while number > 127:
        written.append(number & 127 | 128)
        number >>= 7
    return bytes([*written, number])


def _read_number(message: Bytes, at: int) -> tuple[int, int]:
    """Return a number, and where it ends."""
    number = 0
    for place, byte in enumerate(message[at : at + 9].tolist()):
        number |= (byte & 127) << (7 * place)
        if byte < 128:
            return number, at + place + 1
    raise WireError("a message with a number that does not end")


def _width_of(left_out: int, count: int) -> int:
    """Return floor(log2(mean gap)), which is as good as any width for random gaps."""
    return min(max((left_out // count).bit_length() - 1, 0), _MAX_WIDTH)


def _gaps(places: NDArray[np.int64]) -> Indices:
    """Return how many are left out before each of these ascending places."""
    gaps: Indices = places.copy()
    gaps[1:] -= places[:-1] + 1
    return gaps


def _best_width(gaps: Indices) -> tuple[int, int]:
    """Return the width that takes fewest bits, and those bits."""
    count = len(gaps)
    if count == 0:
        return 0, 0
    width = _width_of(int(gaps.sum()), count)
    costs = {w: count * (1 + w) + int((gaps >> w).sum()) for w in range(max(width - 2, 0), width + 1)}
    best = min(costs, key=lambda w: (costs[w], w))
    return best, costs[best]


def _gap_bits(gaps: Indices, width: int, total: int) -> NDArray[np.bool_]:
    """Return first the lowest bit of all gaps, then the next one, and last all upper parts in unary."""
    bits = np.zeros(total, bool)
    lower = bits[: width * len(gaps)].reshape(width, len(gaps))
    for place in range(width):
        np.not_equal(gaps & (1 << place), 0, out=lower[place])
    bits[width * len(gaps) + np.cumsum((gaps >> width) + 1) - 1] = True
    return bits


def _read_gaps(section: Bytes, count: int, width: int, span: int) -> Indices:
    """Return the positions that gaps stand for."""
    bits = np.unpackbits(section)
    ones = np.flatnonzero(bits[width * count :])[:count]
    if len(ones) < count:
        raise WireError(f"a message with {len(ones)} positions where {count} were announced")
    gaps = _gaps(ones)
    if int(gaps.max()) > span >> width:
        raise WireError("a message with a position beyond the end of its slice")
    gaps <<= width
    lower = bits[: width * count].reshape(width, count)
    for place in range(width):
        gaps |= lower[place].astype(np.int64) << place
    indices = np.cumsum(gaps + 1) - 1
    if int(indices[-1]) >= span:
        raise WireError("a message with a position beyond the end of its slice")
    return indices
