"""Samples and targets of several parts: how they lie in one row of bytes, and the way back to tensors.

Streams, buffers, messages between devices and simulations handle one tensor for each sample. One of several parts is a
row of bytes for them, and its parts are taken out as views just before the model.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from scadles.errors import ConfigError

_ALIGNMENT = 8
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*|\d{1,3}", re.ASCII)


class Part(NamedTuple):
    """One of the tensors that a sample is made of.

    Attributes:
        name: by which a model is given it; those of a sequence are called 0, 1, ...
        shape: of one sample.
        dtype: of its numbers.
        below: values are identifiers from 0 to ``below - 1``; None: any finite numbers.
    """

    name: str
    shape: tuple[int, ...]
    dtype: torch.dtype
    below: int | None = None

    @property
    def nbytes(self) -> int:
        """How many bytes one of them takes."""
        return math.prod(self.shape) * self.dtype.itemsize

    def misfit(self, shape: Sequence[int], dtype: torch.dtype) -> str | None:
        """Return why a tensor of this shape and dtype is none of these; None where it is. Any floating type will do."""
        if tuple(shape) != self.shape:
            return f"shape {list(shape)}, expected {list(self.shape)}"
        if dtype != self.dtype and not (dtype.is_floating_point and self.dtype.is_floating_point):
            return f"dtype {_short(dtype)}, expected {_short(self.dtype)}"
        return None

    def bad(self, x: Tensor) -> Tensor:
        """Return which of ``x`` ``[n, *shape]`` have values that cannot be, bool ``[n]``."""
        if self.below is not None:
            return ~((x >= 0) & (x < self.below))[:, None].flatten(1).all(dim=1)
        # one NaN or infinity makes the sum so too, and a sum is far cheaper than a look at every value
        if not x.is_floating_point() or bool(torch.isfinite(x.sum())):
            return torch.zeros(len(x), dtype=torch.bool)
        return ~torch.isfinite(x)[:, None].flatten(1).all(dim=1)

    def why_bad(self, x: Tensor) -> str:
        """Return why a tensor ``[*shape]`` that :meth:`bad` has found cannot be."""
        if self.below is None:
            return "NaN or infinite values"
        return f"value {int(x[(x < 0) | (x >= self.below)][0])}, expected 0 to {self.below - 1}"


class Layout:
    """Where each part of a sample or target is in its row, which begins each at a multiple of 8 bytes.

    Args:
        parts: in their order; names are identifiers, or 0, 1, ... for a sequence.

    Attributes:
        parts: as given.
        nbytes: length of a row.
        in_order: whether the parts are a sequence, and a model is given them one after the other, not by name.

    Raises:
        ConfigError: no part, or names that are none.

    >>> layout = Layout([Part("picture", (2, 2), torch.uint8), Part("speed", (), torch.float32)])
    >>> rows = layout.pack({"picture": torch.ones(3, 2, 2, dtype=torch.uint8), "speed": torch.tensor([1.0, 2.0, 3.0])})
    >>> rows.shape, layout.unpack(rows)["speed"]
    (torch.Size([3, 16]), tensor([1., 2., 3.]))
    """

    __slots__ = ("_begins", "in_order", "nbytes", "parts")

    def __init__(self, parts: Sequence[Part]) -> None:
        names = [part.name for part in parts]
        self.in_order = names == [str(i) for i in range(len(names))]
        wrong = [n for n in names if not _NAME.fullmatch(n) or (n.isdigit() and not self.in_order)]
        if not names or wrong or len(set(names)) < len(names):
            raise ConfigError(
                f"parts named {', '.join(map(repr, names)) or 'nothing'}: expected different names of letters, digits "
                "and _, or 0, 1, ... for parts in order"
            )
        self.parts = tuple(parts)
        self._begins, self.nbytes = [], 0
        for part in self.parts:
            self._begins.append(self.nbytes)
            self.nbytes += -(-part.nbytes // _ALIGNMENT) * _ALIGNMENT

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Layout) and self.parts == other.parts

    def __hash__(self) -> int:
        return hash(self.parts)

    def __repr__(self) -> str:
        return f"Layout({list(self.parts)})"

    @property
    def names(self) -> tuple[str, ...]:
        """The names of the parts."""
        return tuple(part.name for part in self.parts)

    @property
    def shapes(self) -> Any:
        """The shape of each part, by name or in order."""
        return self.structure([part.shape for part in self.parts])

    def structure(self, values: Sequence[Any]) -> Any:
        """Return a value for each part as a dictionary, or as a tuple where parts are in order."""
        return tuple(values) if self.in_order else dict(zip(self.names, values, strict=True))

    def values(self, structure: Any) -> list[Any]:
        """Return what :meth:`structure` was made of.

        Raises:
            ValueError: it is no such structure, or a part is missing or not expected; the text is a reason.
        """
        if self.in_order and isinstance(structure, list | tuple):
            if len(structure) != len(self.parts):
                raise ValueError(f"{len(structure)} parts, expected {len(self.parts)}")
            return list(structure)
        if not isinstance(structure, Mapping):
            raise ValueError(f"no parts {', '.join(self.names)}")
        for name in self.names:
            if name not in structure:
                raise ValueError(f"part {name} is missing")
        if more := [name for name in structure if name not in self.names]:
            raise ValueError(f"{len(more)} part{'s' * (len(more) > 1)} beyond {', '.join(self.names)}")
        return [structure[name] for name in self.names]

    def pack(self, structure: Any) -> Tensor:
        """Return the rows, uint8 ``[n, nbytes]``, of samples or targets whose parts are tensors ``[n, *shape]``.

        Raises:
            ValueError: they are others; the text is a reason.
        """
        tensors = self.values(structure)
        for part, x in zip(self.parts, tensors, strict=True):
            if reason := part.misfit(x.shape[1:], x.dtype):
                raise ValueError(f"part {part.name}: {reason}")
        rows = torch.zeros((len(tensors[0]), self.nbytes), dtype=torch.uint8)
        if not len(rows):
            return rows
        for part, begin, x in zip(self.parts, self._begins, tensors, strict=True):
            numbers = x.detach().to("cpu", part.dtype).reshape(-1).contiguous().view(torch.uint8)
            rows[:, begin : begin + part.nbytes] = numbers.view(len(x), part.nbytes)
        return rows

    def pack_one(self, structure: Any) -> Tensor:
        """Return the row, uint8 ``[nbytes]``, of one sample or target, whose parts are arrays or numbers.

        Raises:
            ValueError: it is none; the text is a reason that names the part.
        """
        tensors = []
        for part, value in zip(self.parts, self.values(structure), strict=True):
            try:
                x = torch.as_tensor(value)
            except (TypeError, ValueError, RuntimeError):
                raise ValueError(f"part {part.name} is no array of numbers") from None
            if reason := part.misfit(x.shape, x.dtype):
                raise ValueError(f"part {part.name}: {reason}")
            tensors.append(x[None])
        return self.pack(self.structure(tensors))[0]

    def unpack(self, rows: Tensor) -> Any:
        """Return the parts of rows ``[n, nbytes]`` as views ``[n, *shape]``, by name or in order."""
        found = []
        for part, begin in zip(self.parts, self._begins, strict=True):
            numbers = rows[:, begin : begin + part.nbytes]
            # a byte that is neither 0 nor 1 would be a third truth value
            numbers = numbers.ne(0) if part.dtype == torch.bool else numbers.view(part.dtype)
            found.append(numbers.view(len(rows), *part.shape))
        return self.structure(found)

    def bad(self, rows: Tensor) -> Tensor:
        """Return which rows have a part with values that cannot be, bool ``[n]``."""
        bad = torch.zeros(len(rows), dtype=torch.bool)
        for part, x in zip(self.parts, self.values(self.unpack(rows)), strict=True):
            bad |= part.bad(x)
        return bad

    def why_bad(self, row: Tensor) -> str:
        """Return why a row that :meth:`bad` has found cannot be."""
        for part, x in zip(self.parts, self.values(self.unpack(row[None])), strict=True):
            if bool(part.bad(x)[0]):
                return f"part {part.name}: {part.why_bad(x[0])}"
        return "nothing"

    def rows_of(self, packed: np.ndarray) -> Tensor:
        """Return the rows of samples whose parts follow each other without gaps, uint8 ``[n, packed_nbytes]``."""
        rows = torch.zeros((len(packed), self.nbytes), dtype=torch.uint8)
        source, at = torch.from_numpy(packed), 0
        for part, begin in zip(self.parts, self._begins, strict=True):
            rows[:, begin : begin + part.nbytes] = source[:, at : at + part.nbytes]
            at += part.nbytes
        return rows

    def packed_of(self, row: Tensor) -> bytes:
        """Return the parts of one row without the gaps between them: the opposite of :meth:`rows_of`."""
        numbers = row.numpy()
        places = zip(self.parts, self._begins, strict=True)
        return b"".join(numbers[begin : begin + part.nbytes].tobytes() for part, begin in places)

    @property
    def packed_nbytes(self) -> int:
        """How many bytes the parts take without the gaps."""
        return sum(part.nbytes for part in self.parts)


def _short(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
