"""``json``: ``{"x": [[...], ...], "y": 3}``."""

from __future__ import annotations

import json
from itertools import chain
from typing import Any

import numpy as np
import torch
from torch import Tensor

from scadles.layout import Layout
from scadles.streams.codec.one_by_one import OneByOneCodec
from scadles.streams.codec.parts import sample_of, target_of
from scadles.streams.codec.sample import SampleType, UnreadableError
from scadles.streams.codec.target import check_target
from scadles.structures import map_tensors
from scadles.targets import TargetType


class JsonCodec(OneByOneCodec):
    """Objects with ``x``, nested lists in the shape of a sample, and ``y``, an integer, or nested lists in the shape of
    a target; without targets ``x`` alone. Samples and targets of several parts are objects of these by name, or lists
    of them in order. Other members are ignored.

    Whole numbers may stand for floating ones, not the other way round, and text for neither. Parsed text takes up to
    30 times its own size while it is read.
    """

    __slots__ = ()

    def _read(self, value: bytes, key: bytes | None) -> tuple[Tensor, int | Tensor]:
        try:
            message = json.loads(value)
        except UnicodeDecodeError:
            raise UnreadableError("no text in UTF-8, UTF-16 or UTF-32") from None
        except json.JSONDecodeError as error:
            raise UnreadableError(f"no JSON: {error.msg}") from None
        without = self._target.is_none
        if not isinstance(message, dict) or "x" not in message or not ("y" in message or without):
            raise UnreadableError('no object with "x": {"x": [...]}' if without else 'no object with "x" and "y"')
        x = sample_of(self._sample, message["x"], _numbers)
        return x, target_from_json(self._target, message.get("y"))

    def encode(self, x: Tensor, y: int | Tensor) -> tuple[bytes | None, bytes]:
        message: dict[str, Any] = {"x": _lists(self._sample.check(x), self._sample.layout)}
        if not self._target.is_none:
            message["y"] = target_as_json(self._target, y)
        return None, json.dumps(message, separators=(",", ":")).encode()


def target_from_json(target: TargetType, said: Any) -> int | Tensor:
    """Return the target that is said by a number, nested lists, or an object or list of parts.

    Raises:
        UnreadableError: it is none of this type.
    """
    return target_of(target, said, _numbers)


def target_as_json(target: TargetType, y: int | Tensor) -> Any:
    """Return what says a target, ready for JSON."""
    layout = target.layout if target.parts else None
    return y if target.is_label else _lists(check_target(target, y), layout)


def _lists(whole: Tensor, layout: Layout | None) -> Any:
    return whole.tolist() if layout is None else map_tensors(lambda x: x[0].tolist(), layout.unpack(whole[None]))


def _numbers(name: str, nested: Any, sample: SampleType) -> Tensor:
    """Return nested lists as a tensor of this shape and dtype."""
    flat, shape = [nested], sample.shape
    for size in shape:
        if not all(type(part) is list and len(part) == size for part in flat):
            raise UnreadableError(f"{name} is no list in the shape {list(shape)}")
        flat = list(chain.from_iterable(flat))
    expected = sample.numpy
    floating = expected.kind == "f"
    known: dict[str, tuple[set[type], str]] = {"f": ({int, float}, "numbers"), "b": ({bool}, "true and false")}
    allowed, what = known.get(expected.kind, ({int}, "whole numbers"))
    if not set(map(type, flat)) <= allowed:
        raise UnreadableError(f"{name} holds something else than {what}")
    try:
        numbers = np.array(flat, np.float64 if floating else np.int64)
    except OverflowError:
        raise UnreadableError(f"{name} holds a number that is too large") from None
    if expected.kind in "iu" and numbers.size:
        limits = np.iinfo(expected)
        if numbers.min() < limits.min or numbers.max() > limits.max:
            raise UnreadableError(f"{name} holds a number that does not fit {expected.name}")
    with np.errstate(over="ignore"):
        return torch.from_numpy(numbers.astype(expected.name)).reshape(shape)
