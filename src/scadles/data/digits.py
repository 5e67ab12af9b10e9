"""The 8x8 digits that come with scikit-learn."""

from __future__ import annotations

import numpy as np

from scadles.data.dataset import ArrayDataset

TEST_EVERY = 5


def load_digits() -> ArrayDataset:
    """Return scikit-learn's 1,797 handwritten digits: uint8 ``[1, 8, 8]`` of 17 levels (0 to 16), 10 classes.

    Every fifth sample of each class is a test sample, so the split is stratified, 80 to 20, and always the same.
    """
    from sklearn.datasets import load_digits as sklearn_digits

    bunch = sklearn_digits()
    x, y = bunch.images.astype(np.uint8)[:, None], bunch.target.astype(np.int64)
    is_test = np.zeros(len(y), dtype=bool)
    for label in range(10):
        is_test[np.flatnonzero(y == label)[TEST_EVERY - 1 :: TEST_EVERY]] = True
    return ArrayDataset("digits", (x[~is_test], y[~is_test]), (x[is_test], y[is_test]), classes=10)
