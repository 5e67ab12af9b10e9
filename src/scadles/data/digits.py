"""The 8x8 digits that come with scikit-learn."""

from __future__ import annotations

import gzip
from importlib.util import find_spec
from pathlib import Path

import numpy as np

from scadles.data.dataset import ArrayDataset
from scadles.errors import DataError

TEST_EVERY = 5


def load_digits(*, normalize: bool = True) -> ArrayDataset:
    """Return scikit-learn's 1,797 handwritten digits: uint8 ``[1, 8, 8]`` of 17 levels (0 to 16), 10 classes.

    Every fifth sample of each class is a test sample, so the split is stratified, 80 to 20, and always the same.

    Raises:
        DataError: scikit-learn is not installed whole.
    """
    table = _table()
    x, y = table[:, :-1].astype(np.uint8).reshape(-1, 1, 8, 8), table[:, -1].astype(np.int64)
    is_test = np.zeros(len(y), dtype=bool)
    for label in range(10):
        is_test[np.flatnonzero(y == label)[TEST_EVERY - 1 :: TEST_EVERY]] = True
    return ArrayDataset("digits", (x[~is_test], y[~is_test]), (x[is_test], y[is_test]), classes=10, normalize=normalize)


def _table() -> np.ndarray:
    """Return pixels and label of all digits, ``[1797, 65]``, from the package's file: importing it takes a second."""
    found = find_spec("sklearn")
    for folder in (found.submodule_search_locations or ()) if found else ():
        path = Path(folder) / "datasets" / "data" / "digits.csv.gz"
        if path.exists():
            with gzip.open(path, "rt", encoding="ascii") as file:
                return np.loadtxt(file, delimiter=",", dtype=np.int64)
    raise DataError("the digits lie in the package scikit-learn, in datasets/data/digits.csv.gz: install scikit-learn")
