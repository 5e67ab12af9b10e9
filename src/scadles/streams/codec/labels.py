"""Where a message's label is: in its key, or in the first bytes of its value."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from torch import Tensor

from scadles.errors import ConfigError
from scadles.streams.codec.sample import UnreadableError

_COMMON = 65_536
_MOST_DIGITS = 18


class Labels:
    """Reads and writes labels.

    Args:
        in_value: how many bytes at the start of a value hold the label, little-endian and unsigned; 0: it is the key,
            in decimal digits.
        classes: labels are usually below this.
    """

    __slots__ = ("_known", "in_value")

    def __init__(self, in_value: int, classes: int) -> None:
        self.in_value = in_value
        self._known: dict[bytes | None, int] = {str(label).encode(): label for label in range(min(classes, _COMMON))}

    def of_keys(self, keys: Sequence[bytes | None]) -> tuple[np.ndarray, dict[int, str]]:
        """Return the labels that keys name, int64 ``[n]``, and why some name none (their labels are 0)."""
        found = [self._known.get(key, -1) for key in keys]
        reasons: dict[int, str] = {}
        if -1 in found:
            for i, label in enumerate(found):
                if label == -1:
                    try:
                        found[i] = of_key(keys[i])
                    except UnreadableError as error:
                        found[i], reasons[i] = 0, str(error)
        return np.array(found, dtype=np.int64), reasons

    def of_rows(self, rows: np.ndarray) -> np.ndarray:
        """Return the labels in the first columns of uint8 ``[n, bytes]``, int64 ``[n]``."""
        columns: np.ndarray = rows[:, : self.in_value].copy()
        return columns.view(f"<u{self.in_value}").reshape(-1).astype(np.int64)

    def of_message(self, value: bytes, key: bytes | None) -> int:
        """Return one message's label."""
        if not self.in_value:
            return of_key(key)
        if len(value) < self.in_value:
            raise UnreadableError(f"{len(value)} bytes, too few for a label of {self.in_value}")
        return int(np.frombuffer(value, f"<u{self.in_value}", count=1).astype(np.int64)[0])

    def write(self, label: int) -> tuple[bytes | None, bytes]:
        """Return the key, and what a value begins with.

        Raises:
            ConfigError: the label does not fit.
        """
        if label < 0 or (self.in_value and label >= 256**self.in_value):
            room = f"stream.codec.label_bytes = {self.in_value}" if self.in_value else "a key"
            raise ConfigError(f"the label {label} does not fit {room}")
        if not self.in_value:
            return str(label).encode(), b""
        return None, label.to_bytes(self.in_value, "little")


def of_key(key: bytes | None) -> int:
    """Return the label in a key.

    >>> of_key(b"12")
    12
    """
    if key is None:
        raise UnreadableError("no key, which should be the label")
    if not (key.isdigit() and len(key) <= _MOST_DIGITS):
        raise UnreadableError("the key is no label in decimal digits")
    return int(key)


def integer_label(label: object) -> int:
    """Return a label that a message holds as a number of its own."""
    if isinstance(label, Tensor | np.generic | np.ndarray):
        label = label.item() if (label.numel() if isinstance(label, Tensor) else label.size) == 1 else None
    if isinstance(label, bool) or not isinstance(label, int) or not -(2**63) <= label < 2**63:
        raise UnreadableError("the label is no integer")
    return label
