"""Tests of a model on what it is trained on next: test, then train."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence

import torch
from torch import Tensor


class SlidingSums:
    """The sums that metrics are computed from, over the last intervals between tests (prequential evaluation).

    Source: Gama, Sebastião and Rodrigues, "On evaluating stream learning algorithms", Machine Learning 90 (2013): a
    sliding window in place of all that ever was, so that what a model once could not do is forgotten.

    Args:
        intervals: how many intervals are kept, the present one included.

    >>> sums = SlidingSums(intervals=2)
    >>> for hits in (1.0, 2.0, 4.0):
    ...     sums.note(torch.tensor([hits, 5.0]))
    ...     sums.settle(trained=True)
    ...     total = sums.total
    ...     sums.next_interval()
    >>> total.tolist()
    [6.0, 10.0]
    """

    __slots__ = ("_intervals", "_pending")

    def __init__(self, intervals: int) -> None:
        self._intervals: deque[Tensor | None] = deque([None], maxlen=intervals)
        self._pending: Tensor | None = None

    @property
    def total(self) -> Tensor | None:
        """The sums over all intervals, float64 ``[sums]``; None where there are none."""
        known = [sums for sums in self._intervals if sums is not None]
        return torch.stack(known).sum(dim=0) if known else None

    def note(self, sums: Tensor) -> None:
        """Take the sums of the present batch, float64 ``[sums]``; :meth:`settle` must say what became of it."""
        self._pending = sums

    def settle(self, *, trained: bool) -> None:
        """Count the present batch, or leave it out, because it was not trained on and may come again."""
        pending, self._pending = self._pending, None
        if trained and pending is not None:
            present = self._intervals[-1]
            self._intervals[-1] = pending if present is None else present + pending

    def next_interval(self) -> None:
        """Begin another interval; the oldest is forgotten for it."""
        self._intervals.append(None)

    def clear(self) -> None:
        """Forget all."""
        self._intervals.clear()
        self._intervals.append(None)
        self._pending = None

    def state(self) -> list[list[float] | None]:
        """Return what a checkpoint needs, ready for JSON."""
        return [None if sums is None else sums.tolist() for sums in self._intervals]

    def load(self, state: Sequence[Sequence[float] | None] | None) -> None:
        """Go on from what :meth:`state` returned; None begins anew."""
        self.clear()
        for sums in state or ():
            self._intervals.append(None if sums is None else torch.tensor(sums, dtype=torch.float64))
