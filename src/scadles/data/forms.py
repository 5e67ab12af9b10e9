"""What samples and targets in a file of arrays may be, and what becomes of them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import numpy as np
import torch

from scadles.errors import DataError
from scadles.targets import TargetType

#: Says of an array: its name, what was found, what was expected.
Wrong = Callable[[str, str, str], DataError]
_MOST_LABEL = np.iinfo(np.int32).max
_CHANNELS = (1, 3)
_PICTURE = 8
# torch can index and compare these; it has no arithmetic for the unsigned ones
_WIDER = {"uint16": np.int32, "uint32": np.int64, "uint64": np.int64}


class Targets(NamedTuple):
    """The targets of a data set.

    Attributes:
        type: of all of them.
        train: ``[n, *shape]``.
        test: the same of the test part.
    """

    type: TargetType
    train: np.ndarray
    test: np.ndarray


def read_samples(name: str, x: np.ndarray, wrong: Wrong) -> np.ndarray:
    """Return samples ``[n, *shape]`` in a type that torch can compute with.

    Floating ones become float32. Pictures of uint8 ``[n, height, width]`` get their one channel.

    Raises:
        DataError: there are none, or they are no numbers.
    """
    expected = "numbers [n, ...], n at least 1: tables [n, features], windows [n, channels, time], pictures "
    expected += "[n, channels, height, width], token ids [n, time]"
    if x.dtype.kind not in "fiub" or x.ndim == 0 or x.size == 0:
        hint = "; a complex number is two channels: np.stack([x.real, x.imag], 1)" if x.dtype.kind == "c" else ""
        raise wrong(name, form(x), expected + hint)
    if x.dtype == np.uint8 and x.ndim == 3:
        return x[:, None]
    if x.ndim == 4 and x.dtype.kind in "fu" and x.shape[3] in _CHANNELS and min(x.shape[1:3]) >= _PICTURE:
        raise wrong(name, f"{form(x)}, channels last", "channels first: x.transpose(0, 3, 1, 2)")
    if x.dtype.kind == "f":
        # Samples beyond float32 become infinite here and are rejected as they arrive.
        with np.errstate(over="ignore"):
            return x.astype(np.float32)
    if (wider := _WIDER.get(x.dtype.name)) is not None:
        if int(x.max()) > np.iinfo(wider).max:
            raise wrong(name, f"the number {x.max()}", f"numbers that fit {np.dtype(wider)}")
        return x.astype(wider)
    return x.astype(x.dtype.newbyteorder("="), copy=False)


def read_targets(targets: str, found: Mapping[str, np.ndarray | None], counts: Sequence[int], wrong: Wrong) -> Targets:
    """Return targets as a task wants them.

    Args:
        targets: ``labels``, integers ``[n]`` from 0; ``numbers``, any ``[n, ...]``; ``multi-hot``, 0 and 1 ``[n, k]``;
            ``label-map``, integers from 0 ``[n, ...]``; or ``any``: labels, numbers or none, as they are.
        found: by name those of the training and of the test part, ``[n, ...]``; None for nothing.
        counts: samples in the two parts.
        wrong: makes the error that says what is wrong.

    Raises:
        DataError: they are something else.
    """
    names = list(found)
    if all(y is None for y in found.values()) and targets == "any":
        train, test = (np.empty((count, 0), dtype=np.float32) for count in counts)
        return Targets(TargetType.none(), train, test)
    train, test = (
        _checked(name, y, count, wrong, targets) for (name, y), count in zip(found.items(), counts, strict=True)
    )
    if test.shape[1:] != train.shape[1:]:
        raise wrong(names[1], form(test), f"the form of {names[0]}, {form(train)}")
    if targets == "any":
        targets = "labels" if train.ndim == 1 and train.dtype.kind in "iu" and train.min() >= 0 else "numbers"
    if targets == "numbers":
        return _numbers(names, train, test, wrong)
    if targets == "multi-hot":
        return _multi_hot(names, train, test, wrong)
    return _labels(names, train, test, wrong)


def _checked(name: str, y: np.ndarray | None, count: int, wrong: Wrong, targets: str) -> np.ndarray:
    expected = {
        "labels": f"integer labels [{count}] from 0",
        "multi-hot": f"0 and 1 for each label, [{count}, labels]",
        "label-map": f"integer labels from 0, [{count}, ...]",
    }.get(targets, f"numbers [{count}, ...]")
    if y is None:
        raise wrong(name, "nothing", expected)
    whole = y.dtype.kind in "iub" if targets == "multi-hot" else y.dtype.kind in "iu"
    dimensions = {"labels": y.ndim == 1, "multi-hot": y.ndim == 2}.get(targets, y.ndim >= 1)
    allowed = whole if targets in ("labels", "multi-hot", "label-map") else y.dtype.kind in "fiub"
    if not allowed or not dimensions or len(y) != count or y.size == 0:
        raise wrong(name, form(y), expected)
    if targets in ("labels", "label-map"):
        if y.min() < 0:
            raise wrong(name, f"label {y.min()}", expected)
        if y.max() > _MOST_LABEL:
            raise wrong(name, f"label {y.max()}", expected)
    return y


def _labels(names: Sequence[str], train: np.ndarray, test: np.ndarray, wrong: Wrong) -> Targets:
    classes = int(max(train.max(), test.max())) + 1
    if not 2 <= classes <= train.size:
        raise wrong(
            names[0] if train.max() >= test.max() else names[1],
            f"labels up to {classes - 1} with {train.size} training samples",
            "labels 0, 1, 2, ... without gaps, and no more classes than training samples",
        )
    if train.ndim == 1:
        return Targets(TargetType.label(classes), train, test)
    small = classes <= np.iinfo(np.uint8).max + 1
    return Targets(TargetType(train.shape[1:], torch.uint8 if small else torch.int64, classes), train, test)


def _multi_hot(names: Sequence[str], train: np.ndarray, test: np.ndarray, wrong: Wrong) -> Targets:
    for name, y in zip(names, (train, test), strict=True):
        if y.min() < 0 or y.max() > 1:
            raise wrong(name, f"values {y.min()} to {y.max()}", "0 and 1 for each label")
    return Targets(TargetType(train.shape[1:], torch.uint8, classes=2), train, test)


def _numbers(names: Sequence[str], train: np.ndarray, test: np.ndarray, wrong: Wrong) -> Targets:
    with np.errstate(over="ignore"):
        train, test = train.astype(np.float32), test.astype(np.float32)
    if not np.isfinite(test).all():
        raise wrong(names[1], "NaN or infinite values", "finite values only: remove those samples")
    return Targets(TargetType.numbers(train.shape[1:]), train, test)


def form(array: np.ndarray) -> str:
    """Return dtype and shape, for messages."""
    return f"{array.dtype} {list(array.shape)}"
