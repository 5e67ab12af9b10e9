"""``safetensors``: two named tensors a message, ``x`` and ``y``."""

from __future__ import annotations

import torch
from safetensors.torch import load, save
from torch import Tensor

from scadles.streams.codec.one_by_one import OneByOneCodec
from scadles.streams.codec.sample import UnreadableError
from scadles.streams.codec.target import check_target, read_target


class SafetensorsCodec(OneByOneCodec):
    """Values that :func:`safetensors.torch.save` writes: ``x``, one sample, and ``y``, one integer or other target,
    where there are targets.

    The library checks sizes against the length of the message before it takes memory; other tensors are ignored.
    """

    __slots__ = ()

    def _read(self, value: bytes, key: bytes | None) -> tuple[Tensor, int | Tensor]:
        tensors = load(value)
        if missing := ({"x"} if self._target.is_none else {"x", "y"}) - set(tensors):
            raise UnreadableError(f"there is no tensor {' or '.join(sorted(missing))}")
        return tensors["x"], read_target(self._target, tensors.get("y"))

    def encode(self, x: Tensor, y: int | Tensor) -> tuple[bytes | None, bytes]:
        tensors = {"x": self._sample.check(x)}
        if not self._target.is_none:
            tensors["y"] = torch.tensor(y) if self._target.is_label else check_target(self._target, y)
        return None, save(tensors)
