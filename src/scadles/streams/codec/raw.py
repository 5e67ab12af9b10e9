"""``raw``: a sample's numbers and nothing else, little-endian, row after row, part after part; then those of a target
that is no label.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from scadles.streams.codec.contract import Codec, Decoded
from scadles.streams.codec.labels import Labels
from scadles.streams.codec.sample import SampleType
from scadles.streams.codec.target import target_bytes, target_nbytes, view_targets
from scadles.targets import TargetType


class RawCodec(Codec):
    """Messages that are joined once and seen as one tensor.

    Args:
        sample: shape and dtype; every value has exactly these bytes, and the label's before them.
        labels: where the label is.
        target: where it is no class label, its bytes follow those of the sample.

    >>> codec = RawCodec(SampleType((2,), torch.float32), Labels(0, classes=10))
    >>> key, value = codec.encode(torch.tensor([1.0, 2.0]), 7)
    >>> decoded = codec.decode([value, b"short"], [key, b"1"])
    >>> decoded.x.tolist(), decoded.y.tolist(), list(decoded.rejected)
    ([[1.0, 2.0]], [7], [(1, '5 bytes, expected 8')])
    """

    __slots__ = ("_labels", "_sample", "_size", "_target")

    def __init__(self, sample: SampleType, labels: Labels, target: TargetType | None = None) -> None:
        self._sample = sample
        self._labels = labels
        self._target = None if target is None or target.is_label else target
        self._size = labels.in_value + sample.nbytes + (target_nbytes(self._target) if self._target else 0)

    def decode(self, values: Sequence[bytes | None], keys: Sequence[bytes | None]) -> Decoded:
        reasons = self._misfits(values)
        if not self._labels.in_value and self._target is None:
            y, unlabelled = self._labels.of_keys(keys)
            reasons |= {i: reason for i, reason in unlabelled.items() if i not in reasons}
        kept = np.delete(np.arange(len(values)), list(reasons)) if reasons else np.arange(len(values))
        fitting = values if not reasons else [values[i] for i in kept.tolist()]
        joined = bytearray().join(fitting)  # type: ignore[arg-type]
        rows = np.frombuffer(joined, np.uint8).reshape(len(kept), self._size)
        if self._target is not None:
            size = self._sample.nbytes
            targets = view_targets(self._target, rows[:, size:])
            return Decoded(self._sample.view(rows[:, :size].copy()), targets, kept, sorted(reasons.items()))
        if self._labels.in_value:
            labels, rows = self._labels.of_rows(rows), rows[:, self._labels.in_value :].copy()
        else:
            labels = y[kept]
        return Decoded(self._sample.view(rows), torch.from_numpy(labels), kept, sorted(reasons.items()))

    def encode(self, x: Tensor, y: int | Tensor) -> tuple[bytes | None, bytes]:
        numbers = self._sample.bytes_of(x)
        if self._target is not None:
            return None, numbers + target_bytes(self._target, y)
        key, start = self._labels.write(int(y))
        return key, start + numbers

    def _misfits(self, values: Sequence[bytes | None]) -> dict[int, str]:
        """Return which values have not the size of a sample, and what is wrong with them."""
        if None not in values and set(map(len, values)) <= {self._size}:  # type: ignore[arg-type]
            return {}
        return {
            i: "no value" if value is None else f"{len(value):,} bytes, expected {self._size:,}"
            for i, value in enumerate(values)
            if value is None or len(value) != self._size
        }
