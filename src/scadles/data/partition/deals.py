"""Dealing a training set: parts that are disjoint and complete, alike or skewed by size or label."""

from __future__ import annotations

import numpy as np

from scadles.errors import DataError
from scadles.seeding import numpy_generator


def deal_evenly(train_size: int, devices: int, seed: int) -> list[np.ndarray]:
    """Return parts drawn at random, equal in size to within one sample.

    Args:
        train_size: number of training samples.
        devices: at least 1.
        seed: of the run.

    Raises:
        DataError: fewer samples than devices.

    >>> first, second = deal_evenly(6, devices=2, seed=0)
    >>> sorted([*first.tolist(), *second.tolist()])
    [0, 1, 2, 3, 4, 5]
    """
    _check_enough(train_size, devices)
    order = numpy_generator(seed, "shards").permutation(train_size)
    return [order[device::devices] for device in range(devices)]


def deal_in_sizes(train_size: int, weights: np.ndarray, seed: int) -> list[np.ndarray]:
    """Return parts drawn at random whose sizes are in proportion to ``weights``, float64 ``[N]``, and at least 1.

    Raises:
        DataError: fewer samples than devices.
    """
    _check_enough(train_size, len(weights))
    order = numpy_generator(seed, "shards").permutation(train_size)
    return np.split(order, np.cumsum(apportion(train_size, weights, least=1))[:-1])


def deal_by_label(labels: np.ndarray, shares: np.ndarray, seed: int, *, least: int) -> list[np.ndarray]:
    """Return parts that hold each label's samples in the proportion of ``shares``, drawn at random among its samples.

    A device for which nothing is left over gets one sample of the device that has most.

    Args:
        labels: of all training samples, int64 ``[n]``.
        shares: of each device in each label, float64 ``[N, classes]``; those of a label need not add up to 1.
        seed: of the run.
        least: samples of a label that go to every device with a share in it: 0 or 1.

    Raises:
        DataError: fewer samples than devices, or than devices that ought to have one.
    """
    devices = len(shares)
    _check_enough(len(labels), devices)
    counts = np.zeros(shares.shape, dtype=np.int64)
    for label in np.unique(labels).tolist():
        members, holders = int((labels == label).sum()), int((shares[:, label] > 0).sum())
        if least and members < holders:
            raise DataError(
                f"label {label} has {members} training samples and {holders} devices are to hold it: use fewer "
                "devices, a larger data set, or data.partition = shared, where every device draws from all samples"
            )
        counts[:, label] = apportion(members, shares[:, label], least=least)
    pieces: list[list[np.ndarray]] = [[] for _ in range(devices)]
    for label in range(shares.shape[1]):
        order = numpy_generator(seed, "shards", label).permutation(np.flatnonzero(labels == label))
        for piece, part in zip(pieces, np.split(order, np.cumsum(counts[:, label])[:-1]), strict=True):
            piece.append(part)
    parts = [np.concatenate(piece) for piece in pieces]
    for device in np.flatnonzero(counts.sum(axis=1) == 0).tolist():
        richest = max(range(devices), key=lambda other: len(parts[other]))
        parts[device], parts[richest] = parts[richest][-1:], parts[richest][:-1]
    return parts


def apportion(total: int, weights: np.ndarray, *, least: int = 0) -> np.ndarray:
    """Return whole numbers in proportion to ``weights`` that add up to ``total``, by largest remainders, int64 ``[n]``.

    Args:
        total: what is shared out.
        weights: at least 0, one of them above.
        least: 0 or 1; what every weight above 0 gets at least, as far as there is enough for that.

    >>> apportion(10, np.array([1, 1, 1])).tolist(), apportion(10, np.array([0, 0.001, 1]), least=1).tolist()
    ([4, 3, 3], [0, 1, 9])
    """
    exact = total * (weights / weights.sum())
    counts = np.floor(exact).astype(np.int64)
    by_remainder = np.argsort(counts - exact, kind="stable")
    counts[by_remainder[: total - int(counts.sum())]] += 1
    for place in np.flatnonzero((weights > 0) & (counts < least)).tolist():
        largest = int(counts.argmax())
        if counts[largest] > least:
            counts[largest] -= 1
            counts[place] += 1
    return np.asarray(counts)


def _check_enough(train_size: int, devices: int) -> None:
    if train_size < devices:
        raise DataError(
            f"{train_size} training samples cannot be dealt to {devices} devices: use fewer devices, a larger "
            "data set, or data.partition = shared, where every device draws from all samples"
        )
