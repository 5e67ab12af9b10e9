"""What one sample is: its shape and the type of its numbers."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from scadles.errors import ConfigError
from scadles.layout import Layout


class UnreadableError(Exception):
    """A message that holds no sample; the text is the reason. Raised and caught within the codecs."""


class SampleType(NamedTuple):
    """Shape and dtype of one sample; of one of several parts, those of its row of bytes.

    Attributes:
        shape: of its numbers.
        dtype: of them.
        layout: where the parts are in the row of a sample that has several; in a message they follow each other.

    >>> SampleType((3, 2), torch.float32).nbytes
    24
    """

    shape: tuple[int, ...]
    dtype: torch.dtype
    layout: Layout | None = None

    @property
    def nbytes(self) -> int:
        """How many bytes a sample's numbers take in a message."""
        if self.layout is not None:
            return self.layout.packed_nbytes
        return math.prod(self.shape) * self.dtype.itemsize

    @property
    def numpy(self) -> np.dtype:
        """The type of the numbers as numpy has it, little-endian."""
        little_endian: np.dtype = np.dtype(short(self.dtype)).newbyteorder("<")
        return little_endian

    def check(self, x: Tensor) -> Tensor:
        """Return a sample that is to be sent, contiguous and in this type; floating numbers are converted.

        Raises:
            ConfigError: it has another shape, or its numbers are of another kind.
        """
        if tuple(x.shape) != self.shape or not convertible(x.dtype, self.dtype):
            raise ConfigError(
                f"a sample of shape {list(x.shape)} and dtype {short(x.dtype)} does not fit stream.codec, which has "
                f"shape {list(self.shape)} and dtype {short(self.dtype)}"
            )
        return x.detach().to("cpu", self.dtype).contiguous()

    def bytes_of(self, x: Tensor) -> bytes:
        """Return a sample's numbers, little-endian, the parts of one that has several one after the other."""
        checked = self.check(x)
        if self.layout is not None:
            return self.layout.packed_of(checked)
        return checked.numpy().astype(self.numpy, copy=False).tobytes()

    def read(self, found: object) -> Tensor:
        """Return what a message holds as a sample: an array, or several by name or in order, as a tensor."""
        if self.layout is None:
            return torch.as_tensor(found)
        try:
            return self.layout.pack_one(found)
        except ValueError as error:
            raise UnreadableError(str(error)) from None

    def view(self, rows: np.ndarray) -> Tensor:
        """Return samples ``[n, *shape]`` from their bytes, uint8 ``[n, nbytes]``, little-endian."""
        if self.layout is not None:
            return self.layout.rows_of(rows)
        x = torch.from_numpy(rows.reshape(-1))
        if self.dtype == torch.bool:  # a byte that is neither 0 nor 1 would be a third truth value
            return x.ne(0).view(len(rows), *self.shape)
        return x.view(self.dtype).view(len(rows), *self.shape)

    def empty(self) -> Tensor:
        """Return no samples."""
        return torch.empty((0, *self.shape), dtype=self.dtype)


def convertible(one: torch.dtype, other: torch.dtype) -> bool:
    """Whether numbers of one type may stand for those of the other: the same, or both floating."""
    return one == other or (one.is_floating_point and other.is_floating_point)


def short(dtype: torch.dtype) -> str:
    """Return a dtype's name as users write it."""
    return str(dtype).removeprefix("torch.")


def too_long(value: bytes | None, max_bytes: int) -> str | None:
    """Return why a value is not even looked at; None where it is."""
    if value is None:
        return "no value"
    if len(value) > max_bytes:
        return f"{len(value):,} bytes, at most {max_bytes:,} are allowed"
    return None
