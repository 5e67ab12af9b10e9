"""The user's own data set, named as ``MODULE:CALLABLE``: whatever torch can index, or arrays."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor
from torch.utils.data import TensorDataset

from scadles.data.arrays import Arrays, Wanted, dataset_of
from scadles.data.dataset import Dataset
from scadles.errors import DataError
from scadles.importing import blame, call_with, import_callable

_PAIR = 2
_EXPECTED = (
    "a training and a test part, each a torch data set that can be indexed, samples [n, ...], or (samples, targets)"
)


def load_own(
    spec: str, root: Path, seed: int, targets: Wanted, *, built_in: Collection[str], normalize: bool = True
) -> Dataset:
    """Return the data set that a callable of the user's returns: a training and a test part.

    Each part is a torch data set that can be indexed and has a length, whose items are (sample, target) or samples;
    or samples ``[n, ...]`` and targets, as arrays or tensors. Of several parts they are dictionaries or tuples. All of
    it is read once, into memory, and held to the rules of :func:`~scadles.data.arrays.dataset_of`.

    Args:
        spec: names the callable, which is given ``root`` and ``seed`` where it asks for them.
        root: folder of data sets.
        seed: of the run.
        targets: what targets are read as.
        built_in: what could have been named instead.
        normalize: whether samples are normalised over the training part.

    Raises:
        ConfigError: no such callable, or it raises.
        DataError: what it returns is no data set.
    """
    make = import_callable("data.dataset", spec, built_in)
    made = call_with("data.dataset", spec, make, {"root": root, "seed": seed})
    if isinstance(made, Mapping) and {"train", "test"} <= set(made):
        made = (made["train"], made["test"])
    if not isinstance(made, tuple | list) or len(made) != _PAIR:
        raise DataError(f"data.dataset = {spec!r} returned {type(made).__name__}, expected {_EXPECTED}")
    wrong = partial(_wrong, spec)
    train, test = (_part(spec, name, part) for name, part in zip(("train", "test"), made, strict=True))
    return dataset_of(spec, train, test, targets, wrong, normalize=normalize)


def _part(spec: str, name: str, part: Any) -> tuple[Arrays, Arrays | None]:
    """Return samples and targets of a part as arrays."""
    if isinstance(part, TensorDataset):
        part = part.tensors if len(part.tensors) > 1 else part.tensors[0]
    if isinstance(part, Tensor | np.ndarray):
        return _array(part), None
    if isinstance(part, tuple) and len(part) == _PAIR and all(_is_arrays(one) for one in part):
        return _arrays(part[0]), _arrays(part[1])
    if not (hasattr(part, "__getitem__") and hasattr(part, "__len__")) or isinstance(part, Mapping):
        raise DataError(f"data.dataset = {spec!r}: the {name} part is {type(part).__name__}, expected {_EXPECTED}")
    return _items(f"data.dataset = {spec!r}, {name} part", part)


def _is_arrays(part: Any) -> bool:
    if isinstance(part, Mapping | tuple):
        return all(map(_is_arrays, part.values() if isinstance(part, Mapping) else part))
    return isinstance(part, Tensor | np.ndarray)


def _arrays(part: Any) -> Arrays:
    named = _named(part)
    return _array(part) if named is None else {name: _array(one) for name, one in named.items()}


def _array(values: Any) -> np.ndarray:
    return values.detach().cpu().numpy() if isinstance(values, Tensor) else np.asarray(values)


def _named(structure: Any) -> dict[str, Any] | None:
    """Return the parts of a structure by name, those of a tuple by number; None where it has none."""
    if isinstance(structure, Mapping):
        return {str(name): part for name, part in structure.items()}
    return {str(i): part for i, part in enumerate(structure)} if isinstance(structure, tuple) else None


def _items(what: str, part: Any) -> tuple[Arrays, Arrays | None]:
    """Return the items of what can be indexed, put together."""
    try:
        count = len(part)
        pairs = [_pair(part[i]) for i in range(count)]
    except Exception as error:
        raise DataError(f"{what}: its items cannot be read: {blame(error)}") from error
    if not pairs:
        raise DataError(f"{what}: it has no items")
    if len({len(pair) for pair in pairs}) > 1:
        raise DataError(f"{what}: some items are pairs of sample and target, and some are not")
    x, *y = (_together(what, column) for column in zip(*pairs, strict=True))
    return x, y[0] if y else None


def _pair(item: Any) -> tuple[Any, ...]:
    return tuple(item) if isinstance(item, tuple | list) and len(item) == _PAIR else (item,)


def _together(what: str, values: tuple[Any, ...]) -> Arrays:
    """Return all samples, or all targets, as one array, or as one for each of their parts."""
    first = _named(values[0])
    if first is None:
        return _stacked(what, [_array(value) for value in values])
    rows = [_named(value) or {} for value in values]
    if any(row.keys() != first.keys() for row in rows):
        raise DataError(f"{what}: not all items have the parts {', '.join(first)}")
    return {name: _stacked(f"{what}, {name}", [_array(row[name]) for row in rows]) for name in first}


def _stacked(what: str, arrays: list[np.ndarray]) -> np.ndarray:
    first = arrays[0]
    for i, array in enumerate(arrays):
        if array.shape != first.shape:
            raise DataError(
                f"{what}: item {i:,} has shape {list(array.shape)}, and item 0 has {list(first.shape)}: expected one"
            )
    return np.stack(arrays)


def _wrong(spec: str, name: str, found: str, expected: str) -> DataError:
    return DataError(f"data.dataset = {spec!r}: {name}: found {found}, expected {expected}")
