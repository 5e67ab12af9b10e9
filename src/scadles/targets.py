"""What a stream says of a sample beside the sample itself: the form of its target."""

from __future__ import annotations

import math
from collections.abc import Mapping
from functools import lru_cache
from typing import Any, NamedTuple

import torch
from torch import Tensor

from scadles.layout import Layout, Part


class TargetType(NamedTuple):
    """Shape and dtype of the target of one sample, and what its values may be.

    Attributes:
        shape: of one target.
        dtype: of its values.
        classes: values are integers from 0 to ``classes - 1``; 0: they are finite numbers.
        parts: name and type of each part, where a target is made of several; it is then a row of bytes
            (:class:`~scadles.layout.Layout`), uint8 ``[bytes]``.

    >>> TargetType.label(10).is_label, TargetType.numbers((3,)).is_label, TargetType.none().is_none
    (True, False, True)
    """

    shape: tuple[int, ...]
    dtype: torch.dtype
    classes: int = 0
    parts: tuple[tuple[str, TargetType], ...] = ()

    @classmethod
    def of_parts(cls, parts: Mapping[str, TargetType]) -> TargetType:
        """Return that of targets of several parts.

        >>> target = TargetType.of_parts({"kind": TargetType.label(3), "box": TargetType.numbers((4,))})
        >>> target.describe()
        'targets of parts kind (class labels 0 to 2), box (float32 targets of shape [4])'
        """
        named = tuple(parts.items())
        return cls((_layout(named).nbytes,), torch.uint8, parts=named)

    @property
    def layout(self) -> Layout:
        """Where the parts are in a row; only of targets that have some."""
        return _layout(self.parts)

    def unpack(self, y: Tensor) -> Any:
        """Return targets ``[n, *shape]`` as a loss is given them: of several parts as a dictionary or a tuple."""
        return self.layout.unpack(y) if self.parts else y

    @classmethod
    def label(cls, classes: int) -> TargetType:
        """Return that of one class label for each sample."""
        return cls((), torch.int64, classes)

    @classmethod
    def numbers(cls, shape: tuple[int, ...], dtype: torch.dtype = torch.float32) -> TargetType:
        """Return that of finite numbers."""
        return cls(shape, dtype)

    @classmethod
    def none(cls) -> TargetType:
        """Return that of samples without a target: tensors ``[n, 0]``."""
        return cls((0,), torch.float32)

    @property
    def is_label(self) -> bool:
        """Whether each sample has one class label."""
        return self.classes > 0 and self.shape == ()

    @property
    def is_none(self) -> bool:
        """Whether samples have no target."""
        return self.shape == (0,)

    @property
    def size(self) -> int:
        """How many values one target has."""
        return math.prod(self.shape)

    @property
    def nbytes(self) -> int:
        """How many bytes they take."""
        return self.size * self.dtype.itemsize

    def describe(self) -> str:
        """Return it in words.

        >>> TargetType.label(3).describe(), TargetType.numbers((2,)).describe(), TargetType.none().describe()
        ('class labels 0 to 2', 'float32 targets of shape [2]', 'no targets')
        """
        if self.parts:
            return "targets of parts " + ", ".join(f"{name} ({part.describe()})" for name, part in self.parts)
        if self.is_none:
            return "no targets"
        if self.is_label:
            return f"class labels 0 to {self.classes - 1}"
        values = f" with values 0 to {self.classes - 1}" if self.classes else ""
        return f"{str(self.dtype).removeprefix('torch.')} targets of shape {list(self.shape)}{values}"

    def misfit(self, shape: tuple[int, ...], dtype: torch.dtype) -> str | None:
        """Return why targets of this shape and dtype are none of this type; None where they are."""
        if tuple(shape) != self.shape:
            return f"target of shape {list(shape)}, expected {list(self.shape)}"
        whole = not dtype.is_floating_point and not dtype.is_complex
        if dtype != self.dtype and (not whole if self.classes else not dtype.is_floating_point):
            return f"target of dtype {str(dtype).removeprefix('torch.')}, expected {self._expected()}"
        return None

    def bad(self, y: Tensor) -> Tensor:
        """Return which of the targets ``[n, *shape]`` have values that cannot be, bool ``[n]``."""
        if self.parts:
            bad = torch.zeros(len(y), dtype=torch.bool)
            for (_, part), values in zip(self.parts, self.layout.values(self.unpack(y)), strict=True):
                bad |= part.bad(values)
            return bad
        if self.classes:
            outside = ~((y >= 0) & (y < self.classes))
            outside = outside | (y != y.floor()) if y.is_floating_point() else outside
            return outside if y.dim() == 1 else outside.flatten(1).any(dim=1)
        if not self.size or not y.is_floating_point() or bool(torch.isfinite(y.sum())):
            return torch.zeros(len(y), dtype=torch.bool)
        return ~torch.isfinite(y)[:, None].flatten(1).all(dim=1)

    def why_bad(self, y: Tensor) -> str:
        """Return why a target that :meth:`bad` has found cannot be."""
        if self.parts:
            return self._why_bad_part(y)
        if self.is_label:
            return f"label {y.item()}, expected 0 to {self.classes - 1}"
        if self.classes:
            return f"a target with values outside 0 to {self.classes - 1}"
        return "a target with NaN or infinite values"

    def _why_bad_part(self, y: Tensor) -> str:
        found = self.layout.values(self.unpack(y[None]))
        reasons = (
            f"part {name}: {part.why_bad(values[0])}"
            for (name, part), values in zip(self.parts, found, strict=True)
            if bool(part.bad(values)[0])
        )
        return next(reasons, "nothing")

    def _expected(self) -> str:
        return "integers" if self.classes else str(self.dtype).removeprefix("torch.")


@lru_cache(maxsize=16)
def _layout(parts: tuple[tuple[str, TargetType], ...]) -> Layout:
    return Layout([Part(name, part.shape, part.dtype) for name, part in parts])
