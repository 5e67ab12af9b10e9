"""How unequal devices are: their shares in each label, and the sizes of their parts."""

from __future__ import annotations

import math

import numpy as np

from scadles.errors import ConfigError
from scadles.seeding import numpy_generator


def label_shares(per_device: int, devices: int, present: np.ndarray, seed: int) -> np.ndarray:
    """Return which devices hold which labels, float64 ``[N, classes]`` of 0 and 1.

    Every device holds ``per_device`` labels, and every label is held by equally many devices to within one. In turn,
    each device takes the labels that were taken least often so far; among equals the draw decides.

    Args:
        per_device: labels that each device holds.
        devices: at least 1.
        present: whether there are samples of each label, bool ``[classes]``.
        seed: of the run.

    Raises:
        ConfigError: more labels for a device than there are, or labels that nobody would hold.

    >>> label_shares(1, 3, np.ones(3, dtype=bool), seed=0).sum(axis=0).tolist()
    [1.0, 1.0, 1.0]
    """
    labels = np.flatnonzero(present)
    _check_all_are_held(per_device, devices, len(labels))
    generator = numpy_generator(seed, "labels")
    taken = np.zeros(len(labels))
    shares = np.zeros((devices, len(present)))
    for device in range(devices):
        chosen = np.argsort(taken + generator.random(len(labels)))[:per_device]
        taken[chosen] += 1
        shares[device, labels[chosen]] = 1.0
    return shares


def dirichlet_shares(alpha: float, devices: int, classes: int, seed: int) -> np.ndarray:
    """Return each device's share in each label, float64 ``[N, classes]``, columns adding up to 1.

    The shares in a label are drawn from a symmetric Dirichlet distribution over the devices (Li et al., Federated
    Learning on Non-IID Data Silos, ICDE 2022; the idea is that of Hsu et al., 2019): a large ``alpha`` makes all
    devices alike, a small one gives a label to one or two of them.
    """
    generator = numpy_generator(seed, "dirichlet")
    return np.asarray(generator.dirichlet(np.full(devices, alpha), size=classes).T)


def mixtures(shares: np.ndarray) -> np.ndarray:
    """Return how often each label comes in each device's stream, float64 ``[N, classes]``, rows adding up to 1.

    These are the mixtures that the devices would have if a data set with equally many samples of each label were dealt
    by ``shares``. A device whose shares are all 0, to the precision of a float, brings one label.

    >>> mixtures(np.array([[0.5, 0.5], [0.25, 0.75], [0.0, 0.0]])).round(9).tolist()
    [[0.5, 0.5], [0.25, 0.75], [1.0, 0.0]]
    """
    empty = np.flatnonzero(shares.max(axis=1) == 0)
    shares = shares.copy()
    shares[empty, empty % shares.shape[1]] = 1.0
    shares /= shares.max(axis=1, keepdims=True)  # before they are added up: they may be tiny
    return np.asarray(shares / shares.sum(axis=1, keepdims=True))


def size_weights(spread: float, devices: int, seed: int) -> np.ndarray:
    """Return in what proportion devices' sizes stand to each other: log-normal with this spread, float64 ``[N]``."""
    return np.asarray(np.exp(spread * numpy_generator(seed, "sizes").standard_normal(devices)))


def _check_all_are_held(per_device: int, devices: int, labels: int) -> None:
    if per_device > labels:
        raise ConfigError(f"data.labels_per_device = {per_device}: the data set has {labels} labels; give no more")
    if devices * per_device < labels:
        raise ConfigError(
            f"data.labels_per_device = {per_device}: {devices} devices would hold {devices * per_device} of {labels} "
            f"labels, and nobody the others; set it to at least {math.ceil(labels / devices)}, or use at least "
            f"{math.ceil(labels / per_device)} devices"
        )
