"""What travels between a device and its hub: a header of fixed length, then at most one piece of a message.

A header says which message the piece is of, where in it the piece lies, and how long the message is, so that a reader
knows all sizes before it takes memory. Long messages travel in pieces: what is slow can then be told from what hangs,
and a hub adds up the first pieces of a gradient while the last ones are still on their way.
"""

from __future__ import annotations

import struct
import zlib
from enum import IntEnum
from typing import NamedTuple

import numpy as np
import torch

from scadles.errors import FabricError

#: Of this protocol; both ends must have the same.
VERSION = 2
#: The longest piece.
PIECE_BYTES = 1 << 20
#: The longest message.
MOST_BYTES = 1 << 36
#: The longest message of text.
MOST_TEXT_BYTES = 1 << 18

_MAGIC = b"ScaD"
_TLS = b"\x16\x03"
_SPEAKS_TLS = "it speaks TLS, and this hub does not: start the hub with --secure, or the device with --insecure"
_HEADER = struct.Struct("!4sBBBBHIIQQI")
_CHECK = struct.Struct("!I")
HEADER_BYTES = _HEADER.size + _CHECK.size


class FrameError(FabricError):
    """Bytes that are no frame of this protocol, or one that does not fit those before it."""


class FalseFrameError(FrameError):
    """A frame that has come as it was sent, and says what no end of this protocol says."""


class Kind(IntEnum):
    """What a frame is about."""

    HELLO = 1
    WELCOME = 2
    REFUSAL = 3
    READY = 4
    VIEW = 5
    PULSE = 6
    NOTE = 7
    GOODBYE = 8
    REDUCE = 16
    GATHER = 17
    SWAP = 18
    RELAY = 19
    FOLD = 20
    STATE = 21
    STEP = 22


#: Frames that carry a piece of a collective.
COLLECTIVES = frozenset({Kind.REDUCE, Kind.STEP, Kind.GATHER, Kind.SWAP, Kind.RELAY, Kind.FOLD})
#: Those that are added up; a step's ends with what devices say of themselves.
SUMS = frozenset({Kind.REDUCE, Kind.STEP})
_IN_PIECES = COLLECTIVES | {Kind.STATE}  # those of all other kinds are whole messages of text

DTYPES = (torch.float32, torch.float64, torch.int64, torch.int32, torch.uint8, torch.bool)
_NUMPY = (np.float32, np.float64, np.int64, np.int32, np.uint8, np.bool_)


class Frame(NamedTuple):
    """A header.

    Attributes:
        kind: what it is about.
        dtype: index into :data:`DTYPES` of what a reduction adds up; 0 elsewhere.
        seat: whose message it is.
        view: the membership that it belongs to.
        sequence: which collective of this view it is of.
        offset: where in the message the piece begins, in bytes.
        total: bytes of the whole message.
        length: bytes of the piece that follows.
        last: whether the view ends with this collective.
    """

    kind: Kind
    dtype: int = 0
    seat: int = 0
    view: int = 0
    sequence: int = 0
    offset: int = 0
    total: int = 0
    length: int = 0
    last: bool = False

    def pack(self) -> bytes:
        """Return the header's bytes."""
        kind, dtype, seat, view, sequence, offset, total, length, last = self
        packed = _HEADER.pack(_MAGIC, VERSION, kind, dtype, last, seat, view, sequence, offset, total, length)
        return packed + _CHECK.pack(zlib.crc32(packed))

    @property
    def numpy_dtype(self) -> type[np.generic]:
        """What a reduction adds up."""
        return _NUMPY[self.dtype]


def parse(data: bytes | bytearray | memoryview) -> Frame:
    """Return the frame whose header this is.

    Args:
        data: :data:`HEADER_BYTES` bytes.

    Raises:
        FrameError: they are no header, or one that promises what does not fit.
    """
    magic, version, kind, dtype, last, seat, view, sequence, offset, total, length = _HEADER.unpack_from(data)
    if magic != _MAGIC:
        raise FrameError(_SPEAKS_TLS if magic[:2] == _TLS else "these are not bytes of this protocol")
    if version != VERSION:
        raise FrameError(
            f"it speaks version {version} of the protocol, and this is version {VERSION}: install the same"
        )
    if _CHECK.unpack_from(data, _HEADER.size)[0] != zlib.crc32(bytes(data[: _HEADER.size])):
        raise FrameError("a header whose checksum is wrong")
    try:
        kind = Kind(kind)
    except ValueError:
        raise FalseFrameError(f"a frame of unknown kind {kind}") from None
    most = MOST_BYTES if kind in _IN_PIECES else MOST_TEXT_BYTES
    if total > most or length > PIECE_BYTES or offset + length > total:
        raise FalseFrameError(f"{kind.name}: {length} bytes at {offset} of {total}, at most {most} are agreed")
    if kind not in _IN_PIECES and length != total:
        raise FalseFrameError(f"{kind.name}: {length} bytes of {total}, and it travels in one piece")
    if length < min(PIECE_BYTES, total - offset):
        raise FalseFrameError(f"{kind.name}: {length} bytes at {offset} of {total}, and only a last piece may be short")
    if offset % PIECE_BYTES:
        raise FalseFrameError(f"{kind.name}: a piece at {offset}, which is no multiple of {PIECE_BYTES}")
    if dtype >= len(DTYPES) or (kind in SUMS and (dtype == len(DTYPES) - 1 or total % DTYPES[dtype].itemsize)):
        raise FalseFrameError(f"{kind.name}: {total} bytes of unknown numbers ({dtype})")
    return Frame(kind, dtype, seat, view, sequence, offset, total, length, bool(last))


def pieces(total: int) -> range:
    """Return where the pieces of a message begin; a message of no bytes is one piece."""
    return range(0, max(total, 1), PIECE_BYTES)
