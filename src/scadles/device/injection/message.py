"""Samples as bytes: a sender's one message to everybody, and the checks that it must pass.

All numbers are little-endian::

    offset   bytes        what
    0        4            "ScDS"
    4        1            version, 1
    5        1            dtype: 0 uint8, 1 float32, 2 float64, 3 float16, 4 bool, 5 int8, 6 int16, 7 int32, 8 int64
    6        2            sizes in the shape of one sample, d
    8        4            samples, n
    12       4            CRC-32 of everything from byte 16 on
    16       8            stream time at which it was sent, float64
    24       4 d          shape, uint32 each; zeros up to a multiple of 8
    ...      n * sample   samples as they are: uint8 stays uint8
    ...      4 n          labels, int32; or other targets as they are

Nothing is guessed from what arrives: dtype and shape must be those of the run's data set, the length exactly that of as
many samples as it announces, and labels must be classes (other targets what the task reads).
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
from scadles.layout import Layout
from scadles.targets import TargetType

_MAGIC, _VERSION = b"ScDS", 1
_FRONT = struct.Struct("<4sBBHII")
_TIME = struct.Struct("<d")
_DTYPES = (
    *(torch.uint8, torch.float32, torch.float64, torch.float16, torch.bool),
    *(torch.int8, torch.int16, torch.int32, torch.int64),
)
_LABEL_BYTES = 4


class Samples(NamedTuple):
    """Samples of another device.

    Attributes:
        x: raw samples ``[n, *shape]``.
        y: labels, int64 ``[n]``, or other targets ``[n, *shape]``.
        sent_at_s: stream time at which they were sent.
    """

    x: Tensor
    y: Tensor
    sent_at_s: float


class SampleFormat:
    """How the samples of one run travel.

    Args:
        shape: of one sample.
        dtype: of one sample: a real number, an integer or a truth value.
        classes: labels are integers from 0 to ``classes - 1``.
        target: what belongs to a sample where that is no class label.
        layout: where the parts are in samples that have several, and what may be in them.

    Raises:
        ConfigError: another dtype.

    >>> form = SampleFormat((1, 8, 8), torch.uint8, classes=10)
    >>> message = form.pack(torch.zeros(3, 1, 8, 8, dtype=torch.uint8), torch.tensor([1, 0, 9]), sent_at_s=2.5)
    >>> len(message) == form.message_bytes(3) == 40 + 3 * (64 + 4)
    True
    >>> form.unpack(message, sender=0).y
    tensor([1, 0, 9])
    """

    def __init__(
        self,
        shape: tuple[int, ...],
        dtype: torch.dtype,
        classes: int = 0,
        *,
        target: TargetType | None = None,
        layout: Layout | None = None,
    ) -> None:
        if dtype not in _DTYPES:
            names = ", ".join(str(known).removeprefix("torch.") for known in _DTYPES)
            raise ConfigError(f"samples of {dtype} cannot be shared: injection is for {names}")
        self.shape = tuple(shape)
        self.dtype = dtype
        self._layout = layout
        self.target = TargetType.label(classes) if target is None else target
        self._target_bytes = _LABEL_BYTES if self.target.is_label else self.target.nbytes
        self._sizes = struct.pack(f"<{len(shape)}I", *shape)
        fields = _FRONT.size + _TIME.size + len(self._sizes)
        self._padding = bytes(-fields % 8)
        self._head_bytes = fields + len(self._padding)
        self._sample_bytes = math.prod(shape) * dtype.itemsize

    def message_bytes(self, count: int) -> int:
        """Return the length of a message of ``count`` samples."""
        return self._head_bytes + count * (self._sample_bytes + self._target_bytes)

    def pack(self, x: Tensor, y: Tensor, sent_at_s: float) -> Tensor:
        """Return samples ``[n, *shape]`` and their targets ``[n, ...]`` as a message, uint8 ``[message_bytes(n)]``."""
        message = np.empty(self.message_bytes(len(y)), dtype=np.uint8)
        body = _TIME.pack(sent_at_s) + self._sizes + self._padding
        samples_end = self._head_bytes + len(y) * self._sample_bytes
        message[_FRONT.size : self._head_bytes] = np.frombuffer(body, dtype=np.uint8)
        if len(y):
            message[self._head_bytes : samples_end] = _bytes_of(x, self.dtype)
        if self.target.is_label:
            message[samples_end:] = y.cpu().numpy().astype("<i4").view(np.uint8)
        elif y.numel():
            message[samples_end:] = _bytes_of(y, self.target.dtype)
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
        targets_begin = self._head_bytes + count * self._sample_bytes
        y = self._targets(raw[targets_begin:], count, sender)
        x = message[self._head_bytes : targets_begin].view(self.dtype).view(count, *self.shape)
        if x.is_floating_point() and not bool(torch.isfinite(x).all()):
            raise _unreadable(sender, "NaN or infinite values")
        if self._layout is not None and bool((bad := self._layout.bad(x)).any()):
            raise _unreadable(sender, self._layout.why_bad(x[bad][0]))
        return Samples(x, y, float(_TIME.unpack_from(raw.data, _FRONT.size)[0]))

    def _targets(self, raw: np.ndarray, count: int, sender: int) -> Tensor:
        target = self.target
        if target.is_label:
            y = torch.from_numpy(raw.view("<i4").astype(np.int64))
            if count and not 0 <= int(y.min()) <= int(y.max()) < target.classes:
                raise _unreadable(
                    sender, f"labels {int(y.min())} to {int(y.max())}, expected 0 to {target.classes - 1}"
                )
            return y
        if not len(raw):
            return torch.empty((count, *target.shape), dtype=target.dtype)
        y = torch.from_numpy(raw.copy()).view(target.dtype).view(count, *target.shape)
        if bool((bad := target.bad(y)).any()):
            raise _unreadable(sender, target.why_bad(y[bad][0]))
        return y


def _bytes_of(x: Tensor, dtype: torch.dtype) -> np.ndarray:
    return x.detach().cpu().to(dtype).contiguous().view(-1).view(torch.uint8).numpy()


def _unreadable(sender: int, why: str) -> FabricError:
    return FabricError(f"device {sender} shared samples that cannot be used: {why}; do all devices run one version?")
