"""A data set in one file of NumPy arrays."""

from __future__ import annotations

import zipfile
import zlib
from pathlib import Path

import numpy as np

from scadles.data.dataset import ArrayDataset
from scadles.errors import DataError

ARRAYS = ("train_x", "train_y", "test_x", "test_y")


def load_npz(path: Path) -> ArrayDataset:
    """Return the data set in ``path``, written by ``np.savez(path, train_x=..., train_y=..., test_x=..., test_y=...)``.

    Samples are uint8 or floating, ``[n, C, H, W]`` or ``[n, H, W]`` (one channel); floating ones become float32.
    Labels are integers from 0. Training samples may hold NaN (they are rejected as they arrive), test samples may not.

    Raises:
        DataError: the file is missing or no such file, or an array is missing or of another form.
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
        with path.open("rb") as file:
            archive = np.load(file, allow_pickle=False)
            if not isinstance(archive, np.lib.npyio.NpzFile):
                raise DataError(f"{path} holds a single array, expected the arrays {', '.join(ARRAYS)} (np.savez)")
            with archive:
                return _members(path, archive)
    except OSError as error:
        raise DataError(f"cannot read {path}: {error.strerror or error}; expected a file made with np.savez") from None
    except (ValueError, EOFError, zipfile.BadZipFile) as error:
        raise DataError(f"{path} is not a file of arrays ({error}); expected one made with np.savez") from None


def _members(path: Path, archive: np.lib.npyio.NpzFile) -> dict[str, np.ndarray]:
    missing = [name for name in ARRAYS if name not in archive.files]
    if missing:
        raise DataError(
            f"{path} has no array {', '.join(missing)}; found {', '.join(archive.files) or 'none'}, "
            f"expected {', '.join(ARRAYS)}"
        )
    return {name: _member(path, archive, name) for name in ARRAYS}


def _member(path: Path, archive: np.lib.npyio.NpzFile, name: str) -> np.ndarray:
    try:
        return np.asarray(archive[name])
    except (ValueError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        raise _wrong(path, name, f"an array that cannot be read ({error})", "plain numbers, written whole") from None


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
