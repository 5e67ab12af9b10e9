"""A data set in one file of NumPy arrays."""

from __future__ import annotations

import math
import os
import struct
import tokenize
import zipfile
import zlib
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from threading import Lock
from typing import IO

import numpy as np

from scadles.data.arrays import Arrays, Wanted, dataset_of
from scadles.data.dataset import Dataset
from scadles.data.forms import Wrong
from scadles.errors import DataError
from scadles.files import open_file

# Python 3.11 cannot parse a header in several threads at once: "AST constructor recursion depth mismatch"
_PARSING = Lock()
ARRAYS = ("train_x", "train_y", "test_x", "test_y")
SAMPLES = ("train_x", "test_x")
_SINGLE = b"\x93NUMPY"
_ENCRYPTED = 1
_WITHOUT_TESTS = "; without samples for tests set evaluation.on to holdout or stream"
_MOST_NAMES, _LONGEST_NAME, _LONGEST = 8, 60, 200
# What numpy and zipfile raise at bytes that are not what they should be.
_BROKEN = (
    *(ValueError, EOFError, zipfile.BadZipFile, zlib.error, struct.error, tokenize.TokenError, RuntimeError),
    *(SyntaxError, TypeError, KeyError, IndexError, OverflowError, AttributeError),
)


def load_npz(path: Path, targets: Wanted = "labels", *, normalize: bool = True, tests: bool = True) -> Dataset:
    """Return the data set in ``path``, written by ``np.savez(path, train_x=..., train_y=..., test_x=..., test_y=...)``.

    Samples are numbers ``[n, ...]`` (:func:`~scadles.data.forms.read_samples`); those of several parts are arrays
    ``train_x.NAME`` and ``test_x.NAME``, targets of several parts ``train_y.NAME`` and ``test_y.NAME``; parts that are
    called 0, 1, ... are in order. Training samples and targets may hold NaN (they are rejected as they arrive), those
    of the test part may not.

    Args:
        path: the file.
        targets: what train_y and test_y are read as (:func:`~scadles.data.forms.read_targets`), by part where they have
            several.
        normalize: whether samples are normalised over the training part.
        tests: whether there must be a test part; without it a file that has none has an empty one.

    Raises:
        DataError: the file is missing or no such file, or an array is missing, of another form, or larger than memory.
    """
    needed = SAMPLES if targets == "any" else ARRAYS
    arrays = _read(path, needed if tests else [name for name in needed if name.startswith("train")])
    wrong = partial(_wrong, path)
    found = {name: _with_parts(name, arrays, wrong) for name in ARRAYS}
    (train_x, test_x), (train_y, test_y) = ([found[f"{part}_{which}"] for part in ("train", "test")] for which in "xy")
    if train_x is None or (test_x is None and tests):
        raise _wrong(path, "train_x" if train_x is None else "test_x", "nothing", "samples")
    test = None if test_x is None else (test_x, test_y)
    return dataset_of(f"npz:{path}", (train_x, train_y), test, targets, wrong, normalize=normalize)


def _with_parts(name: str, arrays: dict[str, np.ndarray], wrong: Wrong) -> Arrays | None:
    """Return an array, or those of its parts by name; None where there are none."""
    parts = {_part_of(found): array for found, array in arrays.items() if found.startswith(f"{name}.")}
    if parts and name in arrays:
        raise wrong(name, f"an array of this name and parts {', '.join(parts)}", "one of the two")
    return parts or arrays.get(name)


def _array_of(name: str) -> str:
    return name.partition(".")[0]


def _part_of(name: str) -> str:
    return name.partition(".")[2]


def _read(path: Path, needed: Sequence[str]) -> dict[str, np.ndarray]:
    try:
        with open_file(path) as file:
            if file.read(len(_SINGLE)) == _SINGLE:
                raise DataError(f"{path} holds a single array, expected the arrays {', '.join(ARRAYS)} (np.savez)")
            with zipfile.ZipFile(file) as archive:
                return _members(path, archive, needed)
    except OSError as error:
        raise DataError(f"cannot read {path}: {error.strerror or error}; expected a file made with np.savez") from None
    except _BROKEN as error:
        raise DataError(f"{path} is not a file of arrays ({_brief(error)}); expected one made with np.savez") from None


def _members(path: Path, archive: zipfile.ZipFile, needed: Sequence[str]) -> dict[str, np.ndarray]:
    found = [info.filename.removesuffix(".npy") for info in archive.infolist() if info.filename.endswith(".npy")]
    missing = [name for name in needed if name not in map(_array_of, found)]
    if missing:
        some = [name if len(name) <= _LONGEST_NAME else f"{name[:_LONGEST_NAME]}..." for name in found[:_MOST_NAMES]]
        more = f" and {len(found) - _MOST_NAMES:,} more" if len(found) > _MOST_NAMES else ""
        without_tests = all(name.startswith("test") for name in missing)
        raise DataError(
            f"{path} has no array {', '.join(missing)}; found {', '.join(some) or 'none'}{more}, "
            f"expected {', '.join(needed)}{_WITHOUT_TESTS * without_tests}"
        )
    names = [name for name in dict.fromkeys(found) if _array_of(name) in ARRAYS]
    for name in names:
        if found.count(name) > 1:
            raise _wrong(path, name, f"{found.count(name)} arrays of this name", "one")
    size = sum(archive.getinfo(f"{name}.npy").file_size for name in names)
    if size > (most := _memory_bytes()):
        raise DataError(
            f"{path}: its arrays are said to take {size:,} bytes, and this machine has {most:,}: expected arrays that "
            "fit its memory"
        )
    return {name: _member(path, archive, name) for name in names}


def _member(path: Path, archive: zipfile.ZipFile, name: str) -> np.ndarray:
    """Return one array, whose header is held against the size of what follows it before memory is taken."""
    info = archive.getinfo(f"{name}.npy")
    try:
        if info.flag_bits & _ENCRYPTED:
            raise ValueError("it is encrypted")
        if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
            raise ValueError("it is compressed in a way that numpy does not write")
        with _PARSING, archive.open(info) as file:
            _check_header(file, info.file_size)
        with _PARSING, archive.open(info) as file:
            return np.asarray(np.lib.format.read_array(file, allow_pickle=False))
    except _BROKEN as error:
        found = f"an array that cannot be read ({_brief(error)})"
        raise _wrong(path, name, found, "plain numbers, written whole") from None


def _check_header(file: IO[bytes], size: int) -> None:
    version = np.lib.format.read_magic(file)
    readers = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
    if version not in readers:
        raise ValueError(f"format version {version[0]}.{version[1]}")
    shape, _, dtype = readers[version](file)
    if dtype.hasobject:
        raise ValueError("Object arrays cannot be loaded")
    if any(length < 0 for length in shape) or math.prod(shape) * dtype.itemsize != size - file.tell():
        raise ValueError(f"its header says {dtype} {_brief(list(shape))}, and {size - file.tell():,} bytes follow")


def _memory_bytes() -> int:
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def _brief(said: object) -> str:
    """Return in one line what a reader complains of; it may quote what it read."""
    text = " ".join(str(said).split())
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]}..."


def _wrong(path: Path, name: str, found: str, expected: str) -> DataError:
    return DataError(f"{path}: {name}: found {found}, expected {expected}")
