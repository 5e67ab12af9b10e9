"""What is known of the samples of a live stream without a data set: their form."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from scadles.data.dataset import EndlessDataset
from scadles.errors import ConfigError
from scadles.targets import TargetType


class NoDataset(EndlessDataset):
    """The form of samples that only a live stream brings.

    :meth:`samples` returns zeros, to try a model with; nothing is normalised.

    Args:
        shape: of one sample.
        dtype: of its numbers.
        classes: how many labels, or values of tokens, there are; None where nobody has said it.
        targets: what those of the task are (:func:`~scadles.data.forms.read_targets`).
        target_shape: of targets that are numbers.

    >>> data = NoDataset((9, 128), torch.float32, 6, "labels")
    >>> data.target.describe(), data.samples(np.arange(2))[0].shape
    ('class labels 0 to 5', torch.Size([2, 9, 128]))
    """

    name = "none"

    def __init__(
        self,
        shape: tuple[int, ...],
        dtype: torch.dtype,
        classes: int | None,
        targets: str,
        target_shape: tuple[int, ...] = (),
    ) -> None:
        self.shape = shape
        self.dtype = dtype
        self._classes = classes
        self._target = self._target_of(targets, target_shape)
        self.classes = self._target.classes

    @property
    def target(self) -> TargetType:
        return self._target

    @property
    def vocabulary(self) -> int | None:
        measures = self.dtype.is_floating_point or self.dtype in (torch.uint8, torch.bool)
        return None if measures else self._said_classes()

    def samples(self, indices: np.ndarray) -> tuple[Tensor, Tensor]:
        count = len(indices)
        target = self._target
        return torch.zeros(count, *self.shape, dtype=self.dtype), torch.zeros(count, *target.shape, dtype=target.dtype)

    def labels(self, indices: np.ndarray) -> np.ndarray:
        raise _nothing("nobody knows which labels will come")

    def numbered(self, labels: np.ndarray, numbers: np.ndarray) -> np.ndarray:
        raise _nothing("nobody knows which labels will come")

    def test(self) -> tuple[Tensor, Tensor]:
        raise _nothing("test on samples of the stream, with evaluation.on: holdout or stream")

    def prepare(self, x: Tensor) -> Tensor:
        return x.to(torch.int64 if self.vocabulary is not None else torch.float32)

    def _target_of(self, targets: str, shape: tuple[int, ...]) -> TargetType:
        if targets == "labels":
            return TargetType.label(self._said_classes())
        if targets == "multi-hot":
            return TargetType((self._said_classes(),), torch.uint8, 2)
        if targets == "label-map":
            return TargetType(self.shape[1:], torch.uint8, self._said_classes())
        return TargetType.numbers(shape) if targets == "numbers" or shape else TargetType.none()

    def _said_classes(self) -> int:
        if self._classes is None:
            raise ConfigError("data.dataset = none: nobody knows how many labels or tokens there are; set data.classes")
        return self._classes


def _nothing(why: str) -> ConfigError:
    return ConfigError(f"data.dataset = none: there are no samples but those of the stream; {why}")
