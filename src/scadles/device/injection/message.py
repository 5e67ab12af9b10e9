"""Samples as bytes: a sender's one message to everybody, and the checks that it must pass.

All numbers are little-endian::

    offset   bytes        what
    0        4            "ScDS"
    4        1            version, 1
    5        1            dtype: 0 uint8, 1 float32, 2 float64
    6        2            sizes in the shape of one sample, d
    8        4            samples, n
    12       4            CRC-32 of everything from byte 16 on
    16       8            stream time at which it was sent, float64
    24       4 d          shape, uint32 each; zeros up to a multiple of 8
    ...      n * sample   samples as they are: uint8 stays uint8
    ...      4 n          labels, int32

Nothing is guessed from what arrives: dtype and shape must be those of the run's data set, the length exactly that of as
many samples as it announces, and labels must be classes.
"""

from __future__ import annotations

import math
import struct
import zlib
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from scadles.errors import ConfigError, FabricError

_MAGIC, _VERSION = b"ScDS", 1
_FRONT = struct.Struct("<4sBBHII")
_TIME = struct.Struct("<d")
_DTYPES = (torch.uint8, torch.float32, torch.float64)
_LABEL_BYTES = 4


class Samples(NamedTuple):
    """Samples of another device.

    Attributes:
        x: raw samples ``[n, *shape]``.
        y: labels, int64 ``[n]``.
        sent_at_s: stream time at which they were sent.
    """

    x: Tensor
    y: Tensor
    sent_at_s: float


class SampleFormat:
    """How the samples of one run travel.

    Args:
        shape: of one sample.
        dtype: of one sample: uint8, float32 or float64.
        classes: labels are integers from 0 to ``classes - 1``.

    Raises:
        ConfigError: another dtype.

    >>> form = SampleFormat((1, 8, 8), torch.uint8, classes=10)
    >>> message = form.pack(torch.zeros(3, 1, 8, 8, dtype=torch.uint8), torch.tensor([1, 0, 9]), sent_at_s=2.5)
    >>> len(message) == form.message_bytes(3) == 40 + 3 * (64 + 4)
    True
    >>> form.unpack(message, sender=0).y
    tensor([1, 0, 9])
    """

    def __init__(self, shape: tuple[int, ...], dtype: torch.dtype, classes: int) -> None:
        if dtype not in _DTYPES:
            raise ConfigError(f"samples of {dtype} cannot be shared: injection is for uint8, float32 and float64")
        self.shape = tuple(shape)
        self.dtype = dtype
        self.classes = classes
        self._sizes = struct.pack(f"<{len(shape)}I", *shape)
        fields = _FRONT.size + _TIME.size + len(self._sizes)
        self._padding = bytes(-fields % 8)
        self._head_bytes = fields + len(self._padding)
        self._sample_bytes = math.prod(shape) * dtype.itemsize

    def message_bytes(self, count: int) -> int:
        """Return the length of a message of ``count`` samples."""
        return self._head_bytes + count * (self._sample_bytes + _LABEL_BYTES)

    def pack(self, x: Tensor, y: Tensor, sent_at_s: float) -> Tensor:
        """Return samples ``[n, *shape]`` and their labels ``[n]`` as a message, uint8 ``[message_bytes(n)]``."""
        message = np.empty(self.message_bytes(len(y)), dtype=np.uint8)
        body = _TIME.pack(sent_at_s) + self._sizes + self._padding
        samples_end = self._head_bytes + len(y) * self._sample_bytes
        message[_FRONT.size : self._head_bytes] = np.frombuffer(body, dtype=np.uint8)
        if len(y):
            raw = x.detach().cpu().to(self.dtype).contiguous().view(-1).view(torch.uint8)
            message[self._head_bytes : samples_end] = raw.numpy()
        message[samples_end:] = y.cpu().numpy().astype("<i4").view(np.uint8)
        checksum = zlib.crc32(message[_FRONT.size :].data)
        front = _FRONT.pack(_MAGIC, _VERSION, _DTYPES.index(self.dtype), len(self.shape), len(y), checksum)
        message[: _FRONT.size] = np.frombuffer(front, dtype=np.uint8)
        return torch.from_numpy(message)

    def unpack(self, message: Tensor, sender: int) -> Samples:
        """Return the samples in a message; ``x`` is a view of it.

        Raises:
            FabricError: the message is torn, altered, foreign, or not of this run's samples.
        """
        raw = message.numpy()
        if len(raw) < self._head_bytes:
            raise _unreadable(sender, f"{len(raw)} bytes are no message")
        magic, version, dtype, dimensions, count, checksum = _FRONT.unpack_from(raw.data)
        if (magic, version) != (_MAGIC, _VERSION):
            raise _unreadable(sender, f"it begins with {magic!r} and version {version}, not {_MAGIC!r} and {_VERSION}")
        if len(raw) != self.message_bytes(count):
            raise _unreadable(sender, f"{len(raw)} bytes, and {count} samples take {self.message_bytes(count)}")
        sizes = raw[_FRONT.size + _TIME.size :][: len(self._sizes)].tobytes()
        if (dtype, dimensions, sizes) != (_DTYPES.index(self.dtype), len(self.shape), self._sizes):
            raise _unreadable(sender, f"its samples are not {self.dtype} of shape {list(self.shape)}")
        if zlib.crc32(raw[_FRONT.size :].data) != checksum:
            raise _unreadable(sender, "its checksum is wrong")
        labels_begin = self._head_bytes + count * self._sample_bytes
        y = torch.from_numpy(raw[labels_begin:].view("<i4").astype(np.int64))
        if count and not 0 <= int(y.min()) <= int(y.max()) < self.classes:
            raise _unreadable(sender, f"labels {int(y.min())} to {int(y.max())}, expected 0 to {self.classes - 1}")
        x = message[self._head_bytes : labels_begin].view(self.dtype).view(count, *self.shape)
        if x.is_floating_point() and not bool(torch.isfinite(x).all()):
            raise _unreadable(sender, "NaN or infinite values")
        return Samples(x, y, float(_TIME.unpack_from(raw.data, _FRONT.size)[0]))


def _unreadable(sender: int, why: str) -> FabricError:
    return FabricError(f"device {sender} shared samples that cannot be used: {why}; do all devices run one version?")
