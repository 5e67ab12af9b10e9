"""What all formats share whose messages must be read one by one."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from scadles.importing import blame
from scadles.streams.codec.contract import Codec, Decoded
from scadles.streams.codec.sample import SampleType, UnreadableError, convertible, short, too_long
from scadles.streams.codec.target import stack_targets
from scadles.targets import TargetType


class OneByOneCodec(Codec):
    """Messages that are read one by one.

    Args:
        sample: what each must hold.
        max_bytes: longer values are rejected.
        target: what belongs to a sample.
    """

    __slots__ = ("_max_bytes", "_sample", "_target")

    def __init__(self, sample: SampleType, max_bytes: int, target: TargetType) -> None:
        self._sample = sample
        self._max_bytes = max_bytes
        self._target = target

    @abstractmethod
    def _read(self, value: bytes, key: bytes | None) -> tuple[Tensor, int | Tensor]:
        """Return sample and target of a message; raise UnreadableError, or whatever a decoder raises."""

    def decode(self, values: Sequence[bytes | None], keys: Sequence[bytes | None]) -> Decoded:
        samples, kept, rejected = [], [], []
        labels: list[int | Tensor] = []
        for i, (value, key) in enumerate(zip(values, keys, strict=True)):
            found = self._sample_of(value, key)
            if isinstance(found, str):
                rejected.append((i, found))
            else:
                samples.append(found[0])
                labels.append(found[1])
                kept.append(i)
        x = torch.stack(samples) if samples else self._sample.empty()
        return Decoded(x, stack_targets(self._target, labels), np.array(kept, dtype=np.int64), rejected)

    def _sample_of(self, value: bytes | None, key: bytes | None) -> tuple[Tensor, int | Tensor] | str:
        """Return sample and target, or why there are none."""
        reason = too_long(value, self._max_bytes)
        if value is None or reason is not None:
            return str(reason)
        try:
            x, y = self._read(value, key)
            return self._fitting(x), y
        except UnreadableError as error:
            return str(error)
        except Exception as error:  # noqa: BLE001 - decoders raise what they like, and bad bytes must not end a run
            return f"cannot be read: {blame(error, quote=False)}"  # its text may hold the sender's bytes

    def _fitting(self, x: Tensor) -> Tensor:
        expected = self._sample
        if tuple(x.shape) != expected.shape:
            raise UnreadableError(f"shape {list(x.shape)}, expected {list(expected.shape)}")
        if not convertible(x.dtype, expected.dtype):
            raise UnreadableError(f"dtype {short(x.dtype)}, expected {short(expected.dtype)}")
        return x.to(expected.dtype)
