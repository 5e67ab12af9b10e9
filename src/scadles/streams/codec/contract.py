"""From the bytes of messages to tensors and back."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from torch import Tensor


class Decoded(NamedTuple):
    """What some messages hold.

    Attributes:
        x: samples ``[m, *shape]``, of one dtype; those of several parts are rows of bytes
            (:class:`~scadles.layout.Layout`), and a codec of the user's may give a dictionary or tuple of tensors.
        y: their labels, int64 ``[m]``, or other targets ``[m, *shape]``; whether their values can be, somebody else
            looks.
        kept: which of the messages these are, int64 ``[m]``, ascending.
        rejected: which of the others cannot be read, and why, ascending.
    """

    x: Tensor
    y: Tensor
    kept: np.ndarray
    rejected: Sequence[tuple[int, str]]


class Codec(ABC):
    """One way to write a sample and its target into a message, which has a value and perhaps a key."""

    __slots__ = ()

    @abstractmethod
    def decode(self, values: Sequence[bytes | None], keys: Sequence[bytes | None]) -> Decoded:
        """Read messages, the ``i``-th of which has ``values[i]`` and ``keys[i]``.

        Whatever bytes they are, this raises nothing: what cannot be read is rejected, with a reason that quotes none of
        them. (Of a codec that
        settings name as ``MODULE:CLASS``, messages with which it raises all the same are rejected.) It takes no more
        memory than a small multiple of the messages' own size and of the samples they should hold.
        """

    @abstractmethod
    def encode(self, x: Tensor, y: int | Tensor) -> tuple[bytes | None, bytes]:
        """Return the key (None: it needs none) and the value of a message that :meth:`decode` reads as ``x`` and ``y``.

        Args:
            x: one sample ``[*shape]``; a codec of the user's is given a dictionary or tuple of several parts.
            y: its label, not negative; or its target where that is no class label, likewise.

        Raises:
            ConfigError: this format cannot hold it.
        """
