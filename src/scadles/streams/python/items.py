"""What an iterator may yield, and what becomes of it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from scadles.importing import blame
from scadles.layout import Layout
from scadles.records import Records
from scadles.streams.codec.sample import UnreadableError
from scadles.streams.codec.target import read_target, stack_targets
from scadles.targets import TargetType

_PAIR = 2


class Item(NamedTuple):
    """One record.

    Attributes:
        offset: its place in the stream; None for the next one.
        x: its sample; None where ``reason`` says why there is none.
        y: its target.
        reason: why it cannot be read.
    """

    offset: int | None
    x: Tensor | None
    y: int | Tensor
    reason: str = ""


class Reader:
    """Makes records of what an iterator yields.

    It may be a pair of sample and target, a sample alone where there are no targets, or
    :class:`~scadles.records.Records`, whose offsets say where in the stream they are. Samples and targets are tensors,
    arrays or numbers, by name or in order where they have several parts, and are copied: whoever yields them may use
    the same memory again.

    Args:
        target: what belongs to a sample.
        layout: where the parts are in samples that have several.

    >>> item, = Reader(TargetType.label(3)).read(([0.5, 1.5], 2))
    >>> item.x.tolist(), item.y
    ([0.5, 1.5], 2)
    >>> [item.reason for item in Reader(TargetType.label(3)).read("noise")]
    ['str, expected a sample and its target']
    """

    def __init__(self, target: TargetType, layout: Layout | None = None) -> None:
        self._target = target
        self._layout = layout

    def read(self, yielded: Any) -> Iterator[Item]:
        """Yield the records in what an iterator has yielded; one that cannot be read has a reason."""
        if not isinstance(yielded, Records):
            yield self._one(None, yielded)
            return
        for i, offset in enumerate(yielded.offsets.tolist()):
            yield self._one(offset, (yielded.x[i], yielded.y[i]))

    def together(self, items: list[Item]) -> tuple[Tensor | list[Tensor], Tensor]:
        """Return samples and targets of records that could be read; samples of several forms stay apart."""
        x = [item.x for item in items if item.x is not None]
        y = stack_targets(self._target, [item.y for item in items])
        alike = len({(sample.shape, sample.dtype) for sample in x}) == 1
        return (torch.stack(x) if alike else x), y

    def _one(self, offset: int | None, yielded: Any) -> Item:
        try:
            sample, target = self._taken_apart(yielded)
            return Item(offset, self._sample(sample), read_target(self._target, _plain(target)))
        except UnreadableError as error:
            return Item(offset, None, 0, str(error))
        except Exception as error:  # noqa: BLE001 - what is yielded may raise what it likes when it is looked at
            return Item(offset, None, 0, f"cannot be read: {blame(error, quote=False)}")

    def _sample(self, sample: Any) -> Tensor:
        if self._layout is None:
            return _copied(sample)
        try:
            return self._layout.pack_one(sample)
        except ValueError as error:
            raise UnreadableError(str(error)) from None

    def _taken_apart(self, yielded: Any) -> tuple[Any, Any]:
        if self._target.is_none and self._layout is not None:
            return yielded, None
        if isinstance(yielded, tuple | list) and len(yielded) == _PAIR and not _is_sample(yielded):
            return yielded[0], yielded[1]
        if self._target.is_none:
            return yielded, None
        raise UnreadableError(f"{type(yielded).__name__}, expected a sample and its target")


def _is_sample(yielded: Any) -> bool:
    """Whether a pair is two numbers, and so one sample."""
    return isinstance(yielded, list) and all(isinstance(part, int | float) for part in yielded)


def _copied(sample: Any) -> Tensor:
    if isinstance(sample, Tensor):
        return sample.detach().to("cpu", copy=True)
    array = np.array(sample)
    if array.dtype.kind not in "fiub":
        raise UnreadableError(f"a sample of {type(sample).__name__}, expected an array of numbers")
    return torch.from_numpy(array.astype(array.dtype.newbyteorder("="), copy=False))


def _plain(target: Any) -> Any:
    """Return a target, or its parts, as messages hold it: a label is an integer."""
    if isinstance(target, Mapping):
        return {name: _plain(part) for name, part in target.items()}
    if isinstance(target, tuple):
        return tuple(map(_plain, target))
    if isinstance(target, Tensor):
        target = target.detach().to("cpu", copy=True)
        return target.item() if target.dim() == 0 else target
    if isinstance(target, np.ndarray | np.generic):
        return target.item() if target.ndim == 0 else torch.from_numpy(np.array(target))
    return target
