"""``safetensors``: two named tensors a message, ``x`` and ``y``."""

from __future__ import annotations

from typing import Any

import torch
from safetensors.torch import load, save
from torch import Tensor

from scadles.layout import Layout
from scadles.streams.codec.one_by_one import OneByOneCodec
from scadles.streams.codec.sample import UnreadableError
from scadles.streams.codec.target import check_target, read_target


class SafetensorsCodec(OneByOneCodec):
    """Values that :func:`safetensors.torch.save` writes: ``x``, one sample, and ``y``, one integer or other target,
    where there are targets. Parts of samples and targets are called ``x.NAME`` and ``y.NAME``.

    The library checks sizes against the length of the message before it takes memory; other tensors are ignored.
    """

    __slots__ = ()

    def _read(self, value: bytes, key: bytes | None) -> tuple[Tensor, int | Tensor]:
        tensors = load(value)
        x = _found(tensors, "x", self._sample.layout)
        y = _found(tensors, "y", self._target.layout if self._target.parts else None)
        wanted = {"x": x} if self._target.is_none else {"x": x, "y": y}
        if missing := [name for name, found in wanted.items() if found is None]:
            raise UnreadableError(f"there is no tensor {' or '.join(missing)}")
        return self._sample.read(x), read_target(self._target, y)

    def encode(self, x: Tensor, y: int | Tensor) -> tuple[bytes | None, bytes]:
        tensors = _named("x", self._sample.check(x), self._sample.layout)
        if self._target.is_label:
            tensors["y"] = torch.tensor(y)
        elif not self._target.is_none:
            layout = self._target.layout if self._target.parts else None
            tensors |= _named("y", check_target(self._target, y), layout)
        return None, save(tensors)


def _found(tensors: dict[str, Tensor], name: str, layout: Layout | None) -> Any:
    """Return a tensor, or those of its parts by their names; None where there is none."""
    if layout is None:
        return tensors.get(name)
    return {found.removeprefix(f"{name}."): x for found, x in tensors.items() if found.startswith(f"{name}.")}


def _named(name: str, whole: Tensor, layout: Layout | None) -> dict[str, Tensor]:
    """Return a tensor under its name, or its parts under theirs."""
    if layout is None:
        return {name: whole}
    parts = layout.values(layout.unpack(whole[None]))
    return {f"{name}.{part}": x[0].contiguous() for part, x in zip(layout.names, parts, strict=True)}
