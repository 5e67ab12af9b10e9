"""What records hold, whatever their format: numbers in arrays or bytes, by the name of a part."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from scadles.layout import Layout
from scadles.streams.codec.parts import sample_of, target_of
from scadles.streams.codec.sample import SampleType, UnreadableError, short
from scadles.targets import TargetType


def field_name(layout: Layout, part: str) -> str:
    """Return what a part is called in a record, where no name begins with a digit: parts in order are p0, p1, ..."""
    return f"p{part}" if layout.in_order else part


def sample_in(sample: SampleType, found: Any) -> Tensor:
    """Return the sample in a record's field: numbers, or those of each part by name."""
    return sample_of(sample, _by_part(sample.layout, found), numbers_in)


def target_in(target: TargetType, found: Any) -> int | Tensor:
    """Return the target in a record's field, an integer where targets are class labels."""
    return target_of(target, _by_part(target.layout if target.parts else None, found), numbers_in)


def _by_part(layout: Layout | None, found: Any) -> Any:
    """Return a field with its parts called as in the layout, not as :func:`field_name` does."""
    if layout is None or not layout.in_order or not isinstance(found, Mapping):
        return found
    return {name.removeprefix("p"): value for name, value in found.items()}


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
