"""What every part of the tree of settings is, and how to find the parts in it."""

from __future__ import annotations

import typing
from collections.abc import Iterable, Iterator, Mapping
from itertools import pairwise
from typing import Any

from pydantic import BaseModel, ConfigDict


class Section(BaseModel):
    """A frozen part of the tree that refuses unknown keys."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


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
