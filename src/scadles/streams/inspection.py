"""What has arrived, looked at before it is trained on."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from scadles.layout import Layout
from scadles.streams.contract import Records, Rejected
from scadles.targets import TargetType


class Inspector:
    """Leaves out the records that cannot be trained on, and says why.

    Args:
        shape: of one sample.
        dtype: of one sample. For a floating one any floating sample will do, and is converted; for another one, such
            as uint8, exactly that.
        classes: labels are integers from 0 to ``classes - 1``.
        target: what belongs to a sample where that is no class label.
        below: integer samples have values from 0 to ``below - 1``; None leaves them as they are.
        layout: where the parts are in samples that have several, and what may be in them.

    >>> inspector = Inspector((2,), torch.float32, classes=3)
    >>> x = torch.tensor([[0.0, 1.0], [float("nan"), 1.0], [2.0, 3.0]])
    >>> records = Records(np.arange(3), np.zeros(3), x, torch.tensor([0, 1, 3]))
    >>> good, rejected = inspector.split(records)
    >>> good.offsets.tolist(), [reason for _, reason in rejected]
    ([0], ['NaN or infinite values', 'label 3, expected 0 to 2'])
    """

    def __init__(
        self,
        shape: tuple[int, ...],
        dtype: torch.dtype,
        classes: int = 0,
        *,
        target: TargetType | None = None,
        below: int | None = None,
        layout: Layout | None = None,
    ) -> None:
        self._shape = tuple(shape)
        self._dtype = dtype
        self._target = TargetType.label(classes) if target is None else target
        self._below = below
        self._layout = layout

    def split(self, records: Records) -> tuple[Records, tuple[Rejected, ...]]:
        """Return what can be trained on, as one tensor ``[m, *shape]``, and what cannot, by offset.

        The second part includes what the source itself rejected; the first part then has no ``rejected`` any more.
        """
        reasons: dict[int, str] = {}
        x = self._fitting(records.x, reasons)
        kept = np.delete(np.arange(len(records)), list(reasons))
        y = records.y if len(kept) == len(records) else records.y[torch.from_numpy(kept)]
        if not self._target.is_label and len(kept) and (misfit := self._target.misfit(y.shape[1:], y.dtype)):
            reasons.update(dict.fromkeys(kept.tolist(), misfit))
            x, kept = x[:0], kept[:0]
        if not len(kept):
            y = torch.empty((0, *self._target.shape), dtype=self._target.dtype)
        bad_x, bad_y = self._bad_values(x), self._target.bad(y)
        for i in torch.nonzero(bad_y).flatten().tolist():
            reasons[int(kept[i])] = self._target.why_bad(y[i])
        for i in torch.nonzero(bad_x).flatten().tolist():
            reasons[int(kept[i])] = self._why_bad(x[i])
        if bool((bad := bad_x | bad_y).any()):
            x, y, kept = x[~bad], y[~bad], kept[(~bad).numpy()]
        offsets = records.offsets
        rejected = (*records.rejected, *(Rejected(int(offsets[i]), reason) for i, reason in reasons.items()))
        good = Records(offsets[kept], records.times[kept], x, y.to(self._target.dtype))
        return good, tuple(sorted(rejected, key=lambda record: record.offset))

    def _fitting(self, x: Tensor | Sequence[Tensor], reasons: dict[int, str]) -> Tensor:
        """Return the samples of the right shape and dtype as one tensor; note why the others are not among them."""
        if isinstance(x, Tensor):
            misfit = self._misfit(x.shape[1:], x.dtype)
            if misfit is None:
                return x.to(self._dtype)
            reasons.update(dict.fromkeys(range(len(x)), misfit))
            x = ()
        fitting = []
        for i, sample in enumerate(x):
            misfit = self._misfit(sample.shape, sample.dtype)
            if misfit is None:
                fitting.append(sample.to(self._dtype))
            else:
                reasons[i] = misfit
        return torch.stack(fitting) if fitting else torch.empty((0, *self._shape), dtype=self._dtype)

    def _misfit(self, shape: torch.Size, dtype: torch.dtype) -> str | None:
        if tuple(shape) != self._shape:
            return f"shape {list(shape)}, expected {list(self._shape)}"
        if dtype != self._dtype and not (dtype.is_floating_point and self._dtype.is_floating_point):
            return f"dtype {_short(dtype)}, expected {_short(self._dtype)}"
        return None

    def _bad_values(self, x: Tensor) -> Tensor:
        if self._layout is not None:
            return self._layout.bad(x)
        if self._below is not None:
            return ~((x >= 0) & (x < self._below))[:, None].flatten(1).all(dim=1)
        # One NaN or infinity makes the sum so too, and a sum is far cheaper than a look at every value.
        if not x.is_floating_point() or bool(torch.isfinite(x.sum())):
            return torch.zeros(len(x), dtype=torch.bool)
        return ~torch.isfinite(x)[:, None].flatten(1).all(dim=1)

    def _why_bad(self, x: Tensor) -> str:
        if self._layout is not None:
            return self._layout.why_bad(x)
        if self._below is None:
            return "NaN or infinite values"
        return f"value {int(x[(x < 0) | (x >= self._below)][0])}, expected 0 to {self._below - 1}"


def _short(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
