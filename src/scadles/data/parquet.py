"""A table in a Parquet file."""

from __future__ import annotations

import math
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from scadles.data.dataset import ArrayDataset
from scadles.data.table import Columns, chosen, numbers_to_targets, split_table, words_to_labels, wrong_target
from scadles.errors import DataError, MissingExtraError
from scadles.files import open_file


def load_parquet(path: Path, columns: Columns, targets: str = "labels", *, normalize: bool = True) -> ArrayDataset:
    """Return the data set in a Parquet file, by the rules of :func:`~scadles.data.table.load_csv`.

    Columns are numbers or truth values, those that make a label may be text as well; null is NaN.

    Args:
        path: the file.
        columns: what is read; nothing else is.
        targets: what the target's columns are read as.
        normalize: whether samples are normalised over the training part.

    Raises:
        MissingExtraError: pyarrow is not installed.
        DataError: the file cannot be read, has no such column, a column is no number, or it has too few rows.
    """
    arrow, parquet = _import_pyarrow()
    try:
        with open_file(path) as file:
            table = parquet.ParquetFile(file)
            names = chosen(path, list(table.schema_arrow.names), columns)
            read = table.read(columns=names)
    except (arrow.ArrowException, ValueError) as error:
        raise DataError(f"{path} is not a Parquet file: {' '.join(str(error).split())[:200]}") from None
    except OSError as error:
        why = error.strerror or " ".join(str(error).split())[:200]
        raise DataError(f"cannot read {path}: {why}; expected a Parquet file") from None
    features = names[: len(names) - len(columns.target)]
    if not read.num_rows:
        raise DataError(f"{path} has no rows, or no column is read")
    x = np.stack([_numbers(arrow, path, name, read.column(name)) for name in features], axis=1).astype(np.float32)
    y = _target(arrow, path, [(name, read.column(name)) for name in columns.target], targets)
    wrong = partial(wrong_target, path, columns.target)
    return split_table(f"parquet:{path}", x, y, columns.window, targets, wrong, normalize=normalize)


def _import_pyarrow() -> tuple[Any, ModuleType]:
    try:
        import pyarrow
        import pyarrow.parquet
    except ModuleNotFoundError:
        raise MissingExtraError("parquet:PATH", "parquet") from None
    return pyarrow, pyarrow.parquet


def _numbers(arrow: Any, path: Path, name: str, column: Any) -> np.ndarray:
    """Return a column as float64 ``[n]``."""
    kind = column.type
    if not (arrow.types.is_integer(kind) or arrow.types.is_floating(kind) or arrow.types.is_boolean(kind)):
        raise DataError(
            f"{path}, column {name!r}: {kind} is no number; leave the column out of data.features, or make numbers of "
            "it"
        )
    found = column.cast(arrow.int8()) if arrow.types.is_boolean(kind) else column
    numbers: np.ndarray = found.cast(arrow.float64(), safe=False).fill_null(math.nan).to_numpy()
    return numbers


def _target(arrow: Any, path: Path, columns: list[tuple[str, Any]], targets: str) -> np.ndarray | None:
    if not columns:
        return None
    kind = columns[0][1].type
    words = arrow.types.is_string(kind) or arrow.types.is_large_string(kind) or arrow.types.is_dictionary(kind)
    if words and len(columns) == 1 and targets in ("labels", "any"):
        return words_to_labels(columns[0][1].cast(arrow.string()).fill_null("").to_pylist())
    return numbers_to_targets([_numbers(arrow, path, *column) for column in columns])
