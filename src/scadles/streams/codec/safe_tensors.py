"""``safetensors``: two named tensors a message, ``x`` and ``y``."""

from __future__ import annotations

import torch
from safetensors.torch import load, save
from torch import Tensor

from scadles.streams.codec.labels import integer_label
from scadles.streams.codec.one_by_one import OneByOneCodec
from scadles.streams.codec.sample import UnreadableError


class SafetensorsCodec(OneByOneCodec):
    """Values that :func:`safetensors.torch.save` writes: ``x``, one sample, and ``y``, one integer.

    The library checks sizes against the length of the message before it takes memory; other tensors are ignored.
    """

    __slots__ = ()

    def _read(self, value: bytes, key: bytes | None) -> tuple[Tensor, int]:
        tensors = load(value)
        if missing := {"x", "y"} - set(tensors):
            raise UnreadableError(f"there is no tensor {' or '.join(sorted(missing))}")
        return tensors["x"], integer_label(tensors["y"])

    def encode(self, x: Tensor, y: int) -> tuple[bytes | None, bytes]:
        return None, save({"x": self._sample.check(x), "y": torch.tensor(y)})
