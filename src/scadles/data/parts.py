"""A data set in memory whose samples or targets have several parts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from scadles.data.dataset import ArrayDataset, Dataset, scale_of
from scadles.data.forms import Targets
from scadles.data.preparation import Scale
from scadles.layout import Layout, Part
from scadles.targets import TargetType


class PartsDataset(Dataset):
    """Samples or targets of several parts, each of which is prepared as if it were alone.

    Raw samples and targets of several parts are rows of bytes (:class:`~scadles.layout.Layout`); prepared samples are
    tensors by name, or in order where parts are called 0, 1, ...

    Args:
        name: as given in the configuration.
        samples: all samples, without targets; by the name of the part, or of one part.
        targets: all targets, by the name of the part, or of one part.
        normalize: whether targets that are numbers are told less their mean and divided by their deviation.

    Raises:
        ConfigError: a part has no name that can be.
    """

    classes = 0

    def __init__(
        self,
        name: str,
        samples: Mapping[str, ArrayDataset] | ArrayDataset,
        targets: Mapping[str, Targets] | Targets,
        *,
        normalize: bool = True,
    ) -> None:
        self.name = name
        self._samples = samples
        self._targets = targets
        self._normalize = normalize
        self._layout: Layout | None = None
        if isinstance(samples, ArrayDataset):
            self.shape, self.dtype, self.train_size = samples.shape, samples.dtype, samples.train_size
        else:
            self._layout = Layout([Part(n, part.shape, part.dtype, part.vocabulary) for n, part in samples.items()])
            self.shape, self.dtype = (self._layout.nbytes,), torch.uint8
            self.train_size = next(iter(samples.values())).train_size
        self._target = (
            targets.type
            if isinstance(targets, Targets)
            else TargetType.of_parts({n: part.type for n, part in targets.items()})
        )
        self.classes = self._target.classes

    @property
    def layout(self) -> Layout | None:
        return self._layout

    @property
    def target(self) -> TargetType:
        return self._target

    @property
    def target_scale(self) -> Any:
        if not self._normalize:
            return None
        if isinstance(self._targets, Targets):
            return scale_of(self._targets.type, self._targets.train)
        return {name: scale_of(part.type, part.train) for name, part in self._targets.items()}

    @property
    def preparation(self) -> Scale | Mapping[str, Scale]:
        if isinstance(self._samples, ArrayDataset):
            return self._samples.preparation
        return {name: part.preparation for name, part in self._samples.items()}

    @property
    def vocabulary(self) -> int | None:
        return self._samples.vocabulary if isinstance(self._samples, ArrayDataset) else None

    def samples(self, indices: np.ndarray) -> tuple[Tensor, Tensor]:
        if isinstance(self._samples, ArrayDataset):
            x = self._samples.samples(indices)[0]
        else:
            x = self._packed([part.samples(indices)[0] for part in self._samples.values()])
        return x, self._targets_of(lambda part: part.train[indices])

    def labels(self, indices: np.ndarray) -> np.ndarray:
        if not isinstance(self._targets, Targets):
            raise TypeError("targets of several parts are no labels")
        return np.asarray(self._targets.train[indices], dtype=np.int64)

    def test(self) -> tuple[Tensor, Tensor]:
        if isinstance(self._samples, ArrayDataset):
            x = self._samples.test()[0]
        else:
            x = self._packed([part.test()[0] for part in self._samples.values()])
        return x, self._targets_of(lambda part: part.test)

    def prepare(self, x: Tensor) -> Any:
        if isinstance(self._samples, ArrayDataset):
            return self._samples.prepare(x)
        layout = self._layout_of()
        raw = layout.values(layout.unpack(x))
        parts = zip(self._samples.values(), raw, strict=True)
        return layout.structure([part.prepare(values).contiguous() for part, values in parts])

    def _packed(self, parts: Sequence[Tensor]) -> Tensor:
        layout = self._layout_of()
        return layout.pack(layout.structure(parts))

    def _layout_of(self) -> Layout:
        if self._layout is None:
            raise TypeError("samples of one part have no layout")
        return self._layout

    def _targets_of(self, rows: Any) -> Tensor:
        def typed(part: Targets) -> Tensor:
            return torch.from_numpy(np.array(rows(part))).to(part.type.dtype)

        if isinstance(self._targets, Targets):
            return typed(self._targets)
        layout = self._target.layout
        return layout.pack(layout.structure([typed(part) for part in self._targets.values()]))
