"""What devices do not want to share, and what they may share."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

Labels = Sequence[int] | Mapping[int, Sequence[int]]


class SharingPolicy:
    """Which samples may leave which device. What is not allowed, or is refused, is never sent.

    Args:
        allow_devices: who may share; None for all.
        refuse_devices: who shares nothing.
        allow_labels: labels that may be shared, on all devices or by device; None, and a device that is not named,
            for all.
        refuse_labels: labels that are not shared, on all devices or by device.

    >>> policy = SharingPolicy(refuse_devices=(2,), refuse_labels={0: [7]})
    >>> policy.allowed(0, np.array([1, 7])), policy.allowed(1, np.array([1, 7])), policy.allowed(2, np.array([1]))
    (array([ True, False]), array([ True,  True]), array([False]))
    """

    def __init__(
        self,
        allow_devices: Sequence[int] | None = None,
        refuse_devices: Sequence[int] = (),
        allow_labels: Labels | None = None,
        refuse_labels: Labels = (),
    ) -> None:
        self._allow_devices = None if allow_devices is None else frozenset(allow_devices)
        self._refuse_devices = frozenset(refuse_devices)
        self._allow_labels = allow_labels
        self._refuse_labels = refuse_labels

    def shares(self, device: int) -> bool:
        """Whether a device shares anything."""
        return device not in self._refuse_devices and (self._allow_devices is None or device in self._allow_devices)

    def depends_on_labels(self, device: int) -> bool:
        """Whether some labels may leave a device and others may not."""
        return self._allowed_labels(device) is not None or bool(self._refused_labels(device))

    def allowed(self, device: int, labels: np.ndarray) -> np.ndarray:
        """Return which samples of these labels may leave a device, bool ``[n]``."""
        if not self.shares(device):
            return np.zeros(len(labels), dtype=bool)
        willing = ~np.isin(labels, self._refused_labels(device))
        allowed = self._allowed_labels(device)
        return willing if allowed is None else willing & np.isin(labels, allowed)

    def _allowed_labels(self, device: int) -> list[int] | None:
        given = self._allow_labels
        if isinstance(given, Mapping):
            return list(given[device]) if device in given else None
        return None if given is None else list(given)

    def _refused_labels(self, device: int) -> list[int]:
        given = self._refuse_labels
        return list(given.get(device, ()) if isinstance(given, Mapping) else given)
