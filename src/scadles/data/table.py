"""Tables: a CSV file, and those that come with scikit-learn."""

from __future__ import annotations

import csv
import gzip
import math
from collections.abc import Iterator, Sequence
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple

import numpy as np

from scadles.data.dataset import ArrayDataset
from scadles.data.digits import TEST_EVERY
from scadles.data.forms import Wrong, read_targets
from scadles.errors import DataError, did_you_mean
from scadles.files import open_file

TABLES = ("breast-cancer", "diabetes", "wine")
_DELIMITERS = ",;\t"
_MISSING = ("", "na", "n/a", "nan", "null", "?")
_SHOWN = 40


class Columns(NamedTuple):
    """What is read from a table.

    Attributes:
        features: names of the columns that make a sample; None: all but the target's.
        target: names of the columns that make a target; empty: there is none.
        window: consecutive rows that make a sample, ``[features, window]``; None: each row is one.
    """

    features: tuple[str, ...] | None = None
    target: tuple[str, ...] = ()
    window: int | None = None


def load_csv(path: Path, columns: Columns, targets: str = "labels", *, normalize: bool = True) -> ArrayDataset:
    """Return the data set in a CSV file, whose first line names the columns, separated by comma, semicolon or tab.

    A row is a sample ``[features]``, and every fifth one (of each label, where there are labels) is for tests. With a
    window, so many consecutive rows are a sample ``[features, window]``, whose target is that of its last row; windows
    of the last fifth of the rows are for tests, and none shares a row with one that is trained on. Labels may be words,
    which are numbered in alphabetical order. A missing number is NaN: such samples are rejected as they arrive, and
    none of them is for tests.

    Args:
        path: the file.
        columns: what is read.
        targets: what those are read as (:func:`~scadles.data.forms.read_targets`).
        normalize: whether samples are normalised over the training part.

    Raises:
        DataError: the file cannot be read, has no such column, a cell is no number, or it has too few rows.
    """
    try:
        with open_file(path) as file:
            lines = (line.decode() for line in file)
            names, cells = _cells(path, lines, columns)
    except OSError as error:
        raise DataError(f"cannot read {path}: {error.strerror or error}; expected a CSV file") from None
    except (UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"{path} is not a CSV file: {' '.join(str(error).split())[:200]}") from None
    features = len(names) - len(columns.target)
    x = np.stack([_numbers(path, names[i], cells[i]) for i in range(features)], axis=1).astype(np.float32)
    y = _target(path, names[features:], cells[features:], targets) if columns.target else None
    wrong = partial(wrong_target, path, columns.target)
    return split_table(f"csv:{path}", x, y, columns.window, targets, wrong, normalize=normalize)


def load_table(name: str, targets: str = "labels", *, normalize: bool = True) -> ArrayDataset:
    """Return a table of scikit-learn by name: ``breast-cancer`` and ``wine`` with labels, ``diabetes`` with numbers.

    Raises:
        DataError: scikit-learn is not installed whole, or its targets are not what is asked for.
    """
    if name == "diabetes":
        x = _shipped("diabetes_data_raw.csv.gz", skip=0, delimiter=None)
        y = _shipped("diabetes_target.csv.gz", skip=0, delimiter=None)
    else:
        rows = _shipped({"wine": "wine_data.csv", "breast-cancer": "breast_cancer.csv"}[name], skip=1, delimiter=",")
        x, y = rows[:, :-1], rows[:, -1].astype(np.int64)
    wrong = partial(wrong_target, Path(name), ())
    return split_table(name, x.astype(np.float32), y, None, targets, wrong, normalize=normalize)


def chosen(path: Path, names: Sequence[str], columns: Columns) -> list[str]:
    """Return the names of the columns that are read, features first.

    Raises:
        DataError: there is no such column.
    """
    features = columns.features
    wanted = [name for name in names if name not in columns.target] if features is None else list(features)
    wanted += columns.target
    for name in wanted:
        if name not in names:
            raise DataError(f"{path} has no column {name!r}{did_you_mean(name, names)}")
    if len(wanted) == len(columns.target):
        raise DataError(f"{path} has no rows, or no column is read")
    return wanted


def numbers_to_targets(columns: Sequence[np.ndarray]) -> np.ndarray:
    """Return the targets ``[n]`` of one column, or ``[n, k]`` of several; as integers where they all are."""
    y = np.stack(columns, axis=1)
    if np.isfinite(y).all() and (y == np.floor(y)).all() and np.abs(y).max() < 2**31:
        y = y.astype(np.int64)
    return y[:, 0] if len(columns) == 1 else y


def words_to_labels(words: Sequence[str]) -> np.ndarray:
    """Return labels ``[n]`` of words: their numbers in alphabetical order."""
    numbers = {word: number for number, word in enumerate(sorted(set(words)))}
    return np.array([numbers[word] for word in words])


def _cells(path: Path, lines: Iterator[str], columns: Columns) -> tuple[list[str], list[list[str]]]:
    """Return the names of features, then targets, and the cells of each of these columns."""
    first = next(lines, "").lstrip("\ufeff").rstrip("\r\n")
    delimiter = max(_DELIMITERS, key=first.count)
    names = [name.strip() for name in next(csv.reader([first], delimiter=delimiter), [])]
    if not any(names) or len(set(names)) < len(names):
        raise DataError(f"{path}: its first line must name the columns, each once; it is {first[:_SHOWN]!r}")
    wanted = chosen(path, names, columns)
    places = [names.index(name) for name in wanted]
    cells: list[list[str]] = [[] for _ in places]
    for number, row in enumerate(csv.reader(lines, delimiter=delimiter), start=2):
        if not row:
            continue
        if len(row) != len(names):
            raise DataError(f"{path}, line {number:,}: {len(row)} cells, and there are {len(names)} columns")
        for column, place in zip(cells, places, strict=True):
            column.append(row[place].strip())
    if not cells[0]:
        raise DataError(f"{path} has no rows, or no column is read")
    return wanted, cells


def _numbers(path: Path, name: str, cells: Sequence[str]) -> np.ndarray:
    numbers = np.empty(len(cells))
    for i, cell in enumerate(cells):
        try:
            numbers[i] = math.nan if cell.lower() in _MISSING else float(cell)
        except ValueError:
            raise DataError(
                f"{path}, row {i + 1:,}, column {name!r}: {cell[:_SHOWN]!r} is no number; leave the column out of "
                "data.features, or make numbers of it"
            ) from None
    return numbers


def _target(path: Path, names: Sequence[str], cells: Sequence[Sequence[str]], targets: str) -> np.ndarray:
    """Return the targets ``[n]``, or ``[n, k]`` of several columns."""
    if targets in ("labels", "any") and len(names) == 1 and not _all_numbers(cells[0]):
        return words_to_labels(cells[0])
    return numbers_to_targets([_numbers(path, *column) for column in zip(names, cells, strict=True)])


def _all_numbers(cells: Sequence[str]) -> bool:
    try:
        for cell in cells:
            float(cell)
    except ValueError:
        return False
    return True


def split_table(
    name: str,
    x: np.ndarray,
    y: np.ndarray | None,
    window: int | None,
    targets: str,
    wrong: Wrong,
    *,
    normalize: bool,
) -> ArrayDataset:
    """Return the data set that the rows of a table make, some of them for tests (:func:`load_csv`).

    Args:
        name: as given in the configuration.
        x: features ``[n, F]``, float32.
        y: targets ``[n]`` or ``[n, k]``; None for none.
        window: rows that make a sample; None: each is one.
        targets: what ``y`` is read as.
        wrong: makes the error that says what is wrong with ``y``.
        normalize: whether samples are normalised over the training part.

    Raises:
        DataError: there are too few rows, or targets that are something else.
    """
    train: np.ndarray | slice
    if window is None:
        train, test = _by_row(x, y)
    else:
        train, test = _by_time(name, x, window)
        x = np.lib.stride_tricks.sliding_window_view(x, window, axis=0)  # each row lies in memory once
        y = None if y is None else y[window - 1 :]
    complete = np.isfinite(x[test]).all(axis=tuple(range(1, x.ndim)))
    if y is not None:
        complete &= np.isfinite(y[test]).all(axis=tuple(range(1, y.ndim)))
    test, train_x = test[complete], x[train]
    if not len(train_x) or not len(test):
        raise DataError(f"{name}: {len(x):,} samples are too few, at least {TEST_EVERY} whole ones are needed")
    found = {"train": None, "test": None} if y is None else {"train": y[train], "test": y[test]}
    form, train_y, test_y = read_targets(targets, found, (len(train_x), len(test)), wrong)
    return ArrayDataset(name, (train_x, train_y), (x[test], test_y), target=form, normalize=normalize)


def _by_row(x: np.ndarray, y: np.ndarray | None) -> tuple[np.ndarray, np.ndarray]:
    """Return which rows are trained on and which are for tests: every fifth, of each label where there are labels."""
    labels = y if y is not None and y.ndim == 1 and y.dtype.kind == "i" else np.zeros(len(x), dtype=np.int64)
    if len(np.unique(labels)) > len(x) / TEST_EVERY:
        labels = np.zeros(len(x), dtype=np.int64)
    is_test = np.zeros(len(x), dtype=bool)
    for label in np.unique(labels).tolist():
        is_test[np.flatnonzero(labels == label)[TEST_EVERY - 1 :: TEST_EVERY]] = True
    return np.flatnonzero(~is_test), np.flatnonzero(is_test)


def _by_time(name: str, x: np.ndarray, window: int) -> tuple[slice, np.ndarray]:
    """Return the first rows of the windows that are trained on, and of those for tests."""
    begin = len(x) - len(x) // TEST_EVERY
    if begin < window or len(x) - begin < window:
        raise DataError(
            f"{name}: {len(x):,} rows make too few windows of data.window = {window}; at least {TEST_EVERY * window:,} "
            "are needed"
        )
    return slice(begin - window + 1), np.arange(begin, len(x) - window + 1)


def _shipped(file: str, *, skip: int, delimiter: str | None) -> np.ndarray:
    """Return a file of scikit-learn's, which is not imported: that takes a second."""
    found = find_spec("sklearn")
    for folder in (found.submodule_search_locations or ()) if found else ():
        path = Path(folder) / "datasets" / "data" / file
        if path.exists():
            with gzip.open(path, "rt") if path.suffix == ".gz" else path.open() as lines:
                return np.loadtxt(lines, skiprows=skip, delimiter=delimiter)
    raise DataError(f"the table lies in the package scikit-learn, in datasets/data/{file}: install scikit-learn")


def wrong_target(path: Path, target: Sequence[str], name: str, found: str, expected: str) -> DataError:
    """Return the error that says what is wrong with a table's target."""
    del name
    return DataError(f"{path}: data.target = {', '.join(target) or 'none'}: found {found}, expected {expected}")
