"""What every part of the tree of settings is, and how to find the parts in it."""

from __future__ import annotations

import typing
from collections.abc import Iterable, Iterator, Mapping
from itertools import pairwise
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationInfo, field_validator

from scadles.config.addresses import shown

#: Beyond this no number means anything, and the next computation may not end.
MOST = 10**15
#: A seed is whatever fits 63 bits, the time in nanoseconds for example.
_LARGE = {"seed": 2**63 - 1}


class Section(BaseModel):
    """A frozen part of the tree that refuses unknown keys, and numbers above :data:`MOST`."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    @field_validator("*", mode="after")
    @classmethod
    def _of_this_world(cls, value: Any, about: ValidationInfo) -> Any:
        most = _LARGE.get(about.field_name or "", MOST)
        for number in value if isinstance(value, tuple) else (value,):
            if isinstance(number, int | float) and not -most <= number <= most:
                raise ValueError(f"{shown(number)} is too large: a number is at most {most:,}")
        return value


def what_is_said(tree: Mapping[str, Any]) -> dict[str, Any]:
    """Return settings before validation, where ready sections stand for what was given of them."""
    return {k: v.model_dump(exclude_unset=True) if isinstance(v, Section) else v for k, v in tree.items()}


def ascending(values: Iterable[float]) -> bool:
    """Whether each number is above the one before it."""
    return all(before < after for before, after in pairwise(values))


def sections_in(annotation: Any) -> Iterator[type[BaseModel]]:
    """Yield the sections that a field of this type may hold: alone, beside other types, or one for each device."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for inner in typing.get_args(annotation):
        yield from sections_in(inner)
