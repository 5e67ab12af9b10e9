"""``json``: ``{"x": [[...], ...], "y": 3}``."""

from __future__ import annotations

import json
from itertools import chain
from typing import Any

import numpy as np
import torch
from torch import Tensor

from scadles.streams.codec.labels import integer_label
from scadles.streams.codec.one_by_one import OneByOneCodec
from scadles.streams.codec.sample import UnreadableError


class JsonCodec(OneByOneCodec):
    """Objects with ``x``, nested lists in the shape of a sample, and ``y``, an integer; other members are ignored.

    Whole numbers may stand for floating ones, not the other way round, and text for neither. Parsed text takes up to
    30 times its own size while it is read.
    """

    __slots__ = ()

    def _read(self, value: bytes, key: bytes | None) -> tuple[Tensor, int]:
        try:
            message = json.loads(value)
        except UnicodeDecodeError:
            raise UnreadableError("no text in UTF-8, UTF-16 or UTF-32") from None
        except json.JSONDecodeError as error:
            raise UnreadableError(f"no JSON: {error.msg}") from None
        if not isinstance(message, dict) or "x" not in message or "y" not in message:
            raise UnreadableError('no object with "x" and "y"')
        return self._numbers(message["x"]), integer_label(message["y"])

    def encode(self, x: Tensor, y: int) -> tuple[bytes | None, bytes]:
        return None, json.dumps({"x": self._sample.check(x).tolist(), "y": y}, separators=(",", ":")).encode()

    def _numbers(self, nested: Any) -> Tensor:
        flat, shape = [nested], self._sample.shape
        for size in shape:
            if not all(type(part) is list and len(part) == size for part in flat):
                raise UnreadableError(f"x is no list in the shape {list(shape)}")
            flat = list(chain.from_iterable(flat))
        expected = self._sample.numpy
        floating = expected.kind == "f"
        if not set(map(type, flat)) <= ({int, float} if floating else {int}):
            raise UnreadableError(f"x holds something else than {'' if floating else 'whole '}numbers")
        try:
            numbers = np.array(flat, np.float64 if floating else np.int64)
        except OverflowError:
            raise UnreadableError("x holds a number that is too large") from None
        if not floating and numbers.size:
            limits = np.iinfo(expected)
            if numbers.min() < limits.min or numbers.max() > limits.max:
                raise UnreadableError(f"x holds a number that does not fit {expected.name}")
        with np.errstate(over="ignore"):
            return torch.from_numpy(numbers.astype(expected.name)).reshape(shape)
