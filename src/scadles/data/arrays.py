"""From arrays in memory to a data set, whatever its samples and targets are."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from scadles.data.dataset import ArrayDataset, Dataset
from scadles.data.forms import Targets, Wrong, form, read_samples, read_targets
from scadles.data.parts import PartsDataset

Arrays = np.ndarray | Mapping[str, np.ndarray]
Wanted = str | Mapping[str, str]


def dataset_of(
    name: str,
    train: tuple[Arrays, Arrays | None],
    test: tuple[Arrays, Arrays | None] | None,
    targets: Wanted,
    wrong: Wrong,
    *,
    normalize: bool = True,
) -> Dataset:
    """Return a data set of samples and targets, each an array ``[n, ...]`` or, of several parts, one by name.

    Parts that are called 0, 1, ... are a sequence: a model is given them in order.

    Args:
        name: as given in the configuration.
        train: samples and targets of the training part; None for no targets.
        test: the same of the test part; None for none, which is then an empty one.
        targets: what targets are read as (:func:`~scadles.data.forms.read_targets`), for each part where they have
            several; ``any`` takes them as they are.
        wrong: makes the error that says what is wrong; arrays are called ``train_x``, ``test_y.box`` and so on.
        normalize: whether samples, and targets that are numbers, are normalised over the training part.

    Raises:
        DataError: they are no such arrays.
        ConfigError: a part has no name that can be.
    """
    has_tests = test is not None
    test = (_finite(train[0]), _finite(train[1])) if test is None else test
    _check_same_parts(train[0], test[0], "x", wrong)
    samples = {part: _samples(part, _part(train[0], part), _part(test[0], part), wrong) for part in _names(train[0])}
    counts = _counts(samples, wrong)
    found = _targets(train[1], test[1], targets, counts, wrong)
    if not has_tests:
        samples = {part: (x, like[:0]) for part, (x, like) in samples.items()}
        found = _untested(found) if isinstance(found, Targets) else {part: _untested(y) for part, y in found.items()}
    if isinstance(found, Targets) and list(samples) == [""]:
        (x, test_x) = samples[""]
        return ArrayDataset(name, (x, found.train), (test_x, found.test), target=found.type, normalize=normalize)
    made = {part: _without_targets(name, *arrays, normalize=normalize) for part, arrays in samples.items()}
    return PartsDataset(name, made.get("", made), found, normalize=normalize)


def _finite(arrays: Any) -> Any:
    """Return arrays of the same form without NaN and infinite values, which stand for those of a test part."""
    if isinstance(arrays, Mapping):
        return {part: _finite(array) for part, array in arrays.items()}
    return np.nan_to_num(arrays, posinf=0, neginf=0) if arrays is not None and arrays.dtype.kind == "f" else arrays


def _untested(targets: Targets) -> Targets:
    return targets._replace(test=targets.test[:0])


def _without_targets(name: str, train: np.ndarray, test: np.ndarray, *, normalize: bool) -> ArrayDataset:
    none = read_targets("any", {"train_y": None, "test_y": None}, (len(train), len(test)), _never)
    return ArrayDataset(name, (train, none.train), (test, none.test), target=none.type, normalize=normalize)


def _never(*said: str) -> Any:
    return AssertionError(said)


def _names(arrays: Arrays) -> list[str]:
    """Return the names of the parts; one without a name where there is one array."""
    return list(arrays) if isinstance(arrays, Mapping) else [""]


def _part(arrays: Arrays, part: str) -> np.ndarray:
    return arrays[part] if isinstance(arrays, Mapping) else arrays


def _called(array: str, part: str) -> str:
    return f"{array}.{part}" if part else array


def _check_same_parts(train: Arrays | None, test: Arrays | None, which: str, wrong: Wrong) -> None:
    names = [None if arrays is None else sorted(_names(arrays)) for arrays in (train, test)]
    if names[0] != names[1] and None not in names:
        raise wrong(f"test_{which}", *(_parts_in_words(arrays or {}) for arrays in (test, train)))


def _parts_in_words(arrays: Arrays) -> str:
    return f"parts {', '.join(arrays)}" if isinstance(arrays, Mapping) else "one array"


def _samples(part: str, train: np.ndarray, test: np.ndarray, wrong: Wrong) -> tuple[np.ndarray, np.ndarray]:
    names = _called("train_x", part), _called("test_x", part)
    train, test = read_samples(names[0], train, wrong), read_samples(names[1], test, wrong)
    if test.shape[1:] != train.shape[1:] or test.dtype != train.dtype:
        raise wrong(names[1], form(test), f"the form of {names[0]}, {form(train)}")
    if test.dtype.kind == "f" and not np.isfinite(test).all():
        raise wrong(names[1], "NaN or infinite values", "finite values only: remove those samples")
    return train, test


def _counts(samples: Mapping[str, tuple[np.ndarray, np.ndarray]], wrong: Wrong) -> tuple[int, int]:
    first, *others = samples
    counts = len(samples[first][0]), len(samples[first][1])
    for part in others:
        for array, found, expected in zip(("train_x", "test_x"), samples[part], counts, strict=True):
            if len(found) != expected:
                raise wrong(_called(array, part), f"{len(found)} samples", f"{expected}, as {_called(array, first)}")
    return counts


def _targets(
    train: Arrays | None, test: Arrays | None, wanted: Wanted, counts: tuple[int, int], wrong: Wrong
) -> Targets | dict[str, Targets]:
    if train is not None and test is not None:
        _check_same_parts(train, test, "y", wrong)
    has_parts = isinstance(train, Mapping)
    if isinstance(wanted, str) and wanted != "any" and isinstance(train, Mapping):
        raise wrong("train_y", _parts_in_words(train), "one array, as the task reads; name the parts in task.parts")
    if isinstance(wanted, Mapping) and (not isinstance(train, Mapping) or set(train) != set(wanted)):
        found = "nothing" if train is None else _parts_in_words(train)
        arrays = ", ".join(f"train_y.{part}" for part in wanted)
        raise wrong("train_y", found, f"{arrays}, as task.parts names them")
    if not has_parts:
        given = {"train_y": train, "test_y": test}
        return read_targets(str(wanted), given, counts, wrong)  # type: ignore[arg-type]
    return {
        part: read_targets(
            wanted if isinstance(wanted, str) else wanted[part],
            {_called("train_y", part): _of(train, part), _called("test_y", part): _of(test, part)},
            counts,
            wrong,
        )
        for part in _names(train or {})
    }


def _of(arrays: Arrays | None, part: str) -> np.ndarray | None:
    return arrays.get(part) if isinstance(arrays, Mapping) else arrays
