"""What records hold, whatever their format: numbers in arrays or bytes, by the name of a part."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from scadles.layout import Layout
from scadles.streams.codec.labels import integer_label
from scadles.streams.codec.sample import SampleType, UnreadableError, short
from scadles.streams.codec.target import read_target
from scadles.targets import TargetType


def field_name(layout: Layout, part: str) -> str:
    """Return what a part is called in a record, where no name begins with a digit: parts in order are p0, p1, ..."""
    return f"p{part}" if layout.in_order else part


def sample_in(sample: SampleType, found: Any) -> Tensor:
    """Return the sample in a record's field: numbers, or those of each part by name."""
    layout = sample.layout
    if layout is None:
        return numbers_in("x", found, sample)
    types = [SampleType(part.shape, part.dtype) for part in layout.parts]
    return sample.read(_parts_in(layout, found, types))


def target_in(target: TargetType, found: Any) -> int | Tensor:
    """Return the target in a record's field, an integer where targets are class labels."""
    if target.is_label:
        return integer_label(found)
    if target.is_none:
        return read_target(target, None)
    if not target.parts:
        return numbers_in("y", found, SampleType(target.shape, target.dtype))
    types = [None if part.is_label else SampleType(part.shape, part.dtype) for _, part in target.parts]
    return read_target(target, _parts_in(target.layout, found, types))


def _parts_in(layout: Layout, found: Any, types: Sequence[SampleType | None]) -> Any:
    """Return the parts in a record as tensors; one without a type as it is."""
    if layout.in_order and isinstance(found, Mapping):
        found = {name.removeprefix("p"): value for name, value in found.items()}
    try:
        values = layout.values(found)
    except ValueError as error:
        raise UnreadableError(str(error)) from None
    return layout.structure(
        [
            value if kind is None else numbers_in(f"part {name}", value, kind)
            for name, value, kind in zip(layout.names, values, types, strict=True)
        ]
    )


def numbers_in(name: str, found: Any, expected: SampleType) -> Tensor:
    """Return an array of a record in the expected shape and dtype."""
    size = math.prod(expected.shape)
    if isinstance(found, bytes):
        if len(found) != expected.nbytes:
            raise UnreadableError(f"{name}: {len(found):,} bytes, expected {expected.nbytes:,}")
        return expected.view(np.frombuffer(found, np.uint8).copy()[None])[0]
    try:
        numbers = np.asarray(found)
    except (ValueError, OverflowError):
        raise UnreadableError(f"{name} is no array of numbers") from None
    if numbers.shape not in (expected.shape, (size,)):
        raise UnreadableError(f"{name}: shape {list(numbers.shape)}, expected {list(expected.shape)}")
    kinds = {"f": "fiu", "b": "b"}.get(expected.numpy.kind, "iu")
    if numbers.size and numbers.dtype.kind not in kinds:
        raise UnreadableError(f"{name}: dtype {numbers.dtype}, expected {short(expected.dtype)}")
    if numbers.size and expected.numpy.kind in "iu":
        limits = np.iinfo(expected.numpy)
        if numbers.min() < limits.min or numbers.max() > limits.max:
            raise UnreadableError(f"{name} holds a number that does not fit {short(expected.dtype)}")
    with np.errstate(over="ignore"):
        return torch.from_numpy(numbers.astype(expected.numpy)).reshape(expected.shape)
