"""A data set in one file of NumPy arrays."""

from __future__ import annotations

import math
import os
import struct
import tokenize
import zipfile
import zlib
from pathlib import Path
from threading import Lock
from typing import IO

import numpy as np

from scadles.data.dataset import ArrayDataset
from scadles.errors import DataError
from scadles.files import open_file

# Python 3.11 cannot parse a header in several threads at once: "AST constructor recursion depth mismatch"
_PARSING = Lock()
ARRAYS = ("train_x", "train_y", "test_x", "test_y")
_SINGLE = b"\x93NUMPY"
_ENCRYPTED = 1
_MOST_NAMES, _LONGEST_NAME, _LONGEST = 8, 60, 200
# What numpy and zipfile raise at bytes that are not what they should be.
_BROKEN = (
    *(ValueError, EOFError, zipfile.BadZipFile, zlib.error, struct.error, tokenize.TokenError, RuntimeError),
    *(SyntaxError, TypeError, KeyError, IndexError, OverflowError, AttributeError),
)


def load_npz(path: Path) -> ArrayDataset:
    """Return the data set in ``path``, written by ``np.savez(path, train_x=..., train_y=..., test_x=..., test_y=...)``.

    Samples are uint8 or floating, ``[n, C, H, W]`` or ``[n, H, W]`` (one channel); floating ones become float32.
    Labels are integers from 0. Training samples may hold NaN (they are rejected as they arrive), test samples may not.

    Raises:
        DataError: the file is missing or no such file, or an array is missing, of another form, or larger than memory.
    """
    arrays = _read(path)
    parts = {}
    for part in ("train", "test"):
        x = _samples(path, f"{part}_x", arrays[f"{part}_x"])
        parts[part] = (x, _labels(path, f"{part}_y", arrays[f"{part}_y"], len(x)))
    (train_x, train_y), (test_x, test_y) = parts["train"], parts["test"]
    if test_x.shape[1:] != train_x.shape[1:] or test_x.dtype != train_x.dtype:
        raise _wrong(path, "test_x", _form(test_x), f"the form of train_x, {_form(train_x)}")
    if not np.isfinite(test_x).all():
        raise _wrong(path, "test_x", "NaN or infinite values", "finite values only: remove those samples")
    classes = int(max(train_y.max(), test_y.max())) + 1
    if not 2 <= classes <= len(train_y):
        raise _wrong(
            path,
            "train_y" if train_y.max() >= test_y.max() else "test_y",
            f"labels up to {classes - 1} with {len(train_y)} training samples",
            "labels 0, 1, 2, ... without gaps, and no more classes than training samples",
        )
    return ArrayDataset(f"npz:{path}", (train_x, train_y), (test_x, test_y), classes)


def _read(path: Path) -> dict[str, np.ndarray]:
    try:
        with open_file(path) as file:
            if file.read(len(_SINGLE)) == _SINGLE:
                raise DataError(f"{path} holds a single array, expected the arrays {', '.join(ARRAYS)} (np.savez)")
            with zipfile.ZipFile(file) as archive:
                return _members(path, archive)
    except OSError as error:
        raise DataError(f"cannot read {path}: {error.strerror or error}; expected a file made with np.savez") from None
    except _BROKEN as error:
        raise DataError(f"{path} is not a file of arrays ({_brief(error)}); expected one made with np.savez") from None


def _members(path: Path, archive: zipfile.ZipFile) -> dict[str, np.ndarray]:
    found = [info.filename.removesuffix(".npy") for info in archive.infolist() if info.filename.endswith(".npy")]
    missing = [name for name in ARRAYS if name not in found]
    if missing:
        some = [name if len(name) <= _LONGEST_NAME else f"{name[:_LONGEST_NAME]}..." for name in found[:_MOST_NAMES]]
        more = f" and {len(found) - _MOST_NAMES:,} more" if len(found) > _MOST_NAMES else ""
        raise DataError(
            f"{path} has no array {', '.join(missing)}; found {', '.join(some) or 'none'}{more}, "
            f"expected {', '.join(ARRAYS)}"
        )
    for name in ARRAYS:
        if found.count(name) > 1:
            raise _wrong(path, name, f"{found.count(name)} arrays of this name", "one")
    size = sum(archive.getinfo(f"{name}.npy").file_size for name in ARRAYS)
    if size > (most := _memory_bytes()):
        raise DataError(
            f"{path}: its arrays are said to take {size:,} bytes, and this machine has {most:,}: expected arrays that "
            "fit its memory"
        )
    return {name: _member(path, archive, name) for name in ARRAYS}


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


def _samples(path: Path, name: str, x: np.ndarray) -> np.ndarray:
    expected = "uint8 or floating samples [n, channels, height, width] or [n, height, width], n at least 1"
    if (x.dtype != np.uint8 and x.dtype.kind != "f") or x.ndim not in (3, 4) or x.size == 0:
        raise _wrong(path, name, _form(x), expected)
    if x.ndim == 3:
        x = x[:, None]
    elif x.shape[3] in (1, 3) and min(x.shape[1:3]) >= 8:
        raise _wrong(path, name, f"{_form(x)}, channels last", "channels first: x.transpose(0, 3, 1, 2)")
    if x.dtype == np.uint8:
        return x
    # Samples beyond float32 become infinite here and are rejected as they arrive.
    with np.errstate(over="ignore"):
        return x.astype(np.float32)


def _labels(path: Path, name: str, y: np.ndarray, count: int) -> np.ndarray:
    expected = f"integer labels [{count}] from 0"
    if y.dtype.kind not in "iu" or y.shape != (count,):
        raise _wrong(path, name, _form(y), expected)
    if y.min() < 0:
        raise _wrong(path, name, f"label {y.min()}", expected)
    if y.max() > np.iinfo(np.int32).max:
        raise _wrong(path, name, f"label {y.max()}", expected)
    return y.astype(np.int64)


def _form(array: np.ndarray) -> str:
    return f"{array.dtype} {list(array.shape)}"


def _wrong(path: Path, name: str, found: str, expected: str) -> DataError:
    return DataError(f"{path}: {name}: found {found}, expected {expected}")
