"""What a message says of a sample and its target, whole or in parts, whatever its format has numbers in."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from torch import Tensor

from scadles.layout import Layout
from scadles.streams.codec.labels import integer_label
from scadles.streams.codec.sample import SampleType, UnreadableError
from scadles.streams.codec.target import read_target
from scadles.targets import TargetType

#: What numbers are called, what a message has in their place, and their type, to a tensor of that type.
ReadNumbers = Callable[[str, Any, SampleType], Tensor]


def sample_of(sample: SampleType, said: Any, numbers: ReadNumbers) -> Tensor:
    """Return the sample that is said by numbers, or by an object or list of parts.

    Raises:
        UnreadableError: it is none of this type.
    """
    if sample.layout is None:
        return numbers("x", said, sample)
    types = [SampleType(part.shape, part.dtype) for part in sample.layout.parts]
    return sample.read(_parts_of(sample.layout, said, types, numbers))


def target_of(target: TargetType, said: Any, numbers: ReadNumbers) -> int | Tensor:
    """Return the target that is said by a label, numbers, or an object or list of parts.

    Raises:
        UnreadableError: it is none of this type.
    """
    if target.is_label:
        return integer_label(said)
    if target.is_none:
        return read_target(target, None)
    if not target.parts:
        return numbers("y", said, SampleType(target.shape, target.dtype))
    types = [None if part.is_label else SampleType(part.shape, part.dtype) for _, part in target.parts]
    return read_target(target, _parts_of(target.layout, said, types, numbers))


def _parts_of(layout: Layout, said: Any, types: Sequence[SampleType | None], numbers: ReadNumbers) -> Any:
    """Return the parts as tensors; one without a type as it is."""
    try:
        values = layout.values(said)
    except ValueError as error:
        raise UnreadableError(str(error)) from None
    return layout.structure(
        [
            value if kind is None else numbers(f"part {name}", value, kind)
            for name, value, kind in zip(layout.names, values, types, strict=True)
        ]
    )
