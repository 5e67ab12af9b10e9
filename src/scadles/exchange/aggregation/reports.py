"""What devices say of themselves inside their gradient messages."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np


class Report(NamedTuple):
    """What a device says of itself inside its gradient message.

    Attributes:
        batch: samples its gradient is the mean of.
        weight: its share in the weighted mean before normalisation; 0 leaves the device out of this step.
        ready_s: stream seconds from the end of the last step until its gradient was ready.
        elapsed_s: stream seconds between this message and the one before it.
        loss: mean loss over its batch; 0 for an empty one. Of a batch whose weight is 0 because loss or gradient is not
            finite it is anything but 0, and of one that shall count for nothing it is 0.
        stop: 1 asks all devices to end the run after this step, 2 because too much of its stream is rejected; -1 says
            that its stream has ended and all of it is in this step or an earlier one.
        redo: 1 asks all devices to send again, because a part had left before the rest proved unusable; from 2 on it
            stands for the parameters that shall be taken up beforehand. Below 0 it asks for nothing, and stands for
            what the optimizer's groups say, where somebody has changed that since the last step.
        norm_sq, kept_sq: squared norms of its update, and of what compression picks of it; with compression only.
        coding_s, transfer_s: seconds that the last step's coding and messages took; with compression only.
        wait_s: of ``ready_s``, how long its batch was waited for; only where the ratio of compression is chosen by it.
    """

    batch: float
    weight: float
    ready_s: float = 0.0
    elapsed_s: float = 0.0
    loss: float = 0.0
    stop: float = 0.0
    redo: float = 0.0
    norm_sq: float = 0.0
    kept_sq: float = 0.0
    coding_s: float = 0.0
    transfer_s: float = 0.0
    wait_s: float = 0.0


REJECTS_TOO_MUCH = 2.0
#: What the loss of a batch is said to be that is not finite.
NOT_FINITE = 1.0
STREAM_ENDED = -1.0

# What is added to a ``redo`` that is whole and at most 0: something happens on its device for the first time.
NEWLY_USED, NEWLY_CHANGED = -0.5, -0.25
WHOLE_REDO = 2**20  # below this float32 has room for both


class Reports(Sequence[Report]):
    """The reports of all devices, also column by column.

    Args:
        rows: of each device, in the order of :class:`Report`, float64 ``[devices, fields]``.

    >>> reports = Reports(np.array([Report(batch=8, weight=8), Report(batch=2, weight=0)]))
    >>> reports[1].batch, reports.weight.tolist()
    (2.0, [8.0, 0.0])
    """

    def __init__(self, rows: np.ndarray) -> None:
        self._rows = rows

    def take(self, said: float) -> bool:
        """Return whether any device says this in its ``redo``, and take it out of there."""
        redo = self._rows[:, Report._fields.index("redo")]
        rest = -redo % 1 if said == NEWLY_USED else -redo % 0.5
        says = (redo <= 0) & (rest >= -said)
        redo[says] -= said
        return bool(says.any())

    def of(self, devices: Sequence[int]) -> Reports:
        """Return the reports of these devices."""
        return self if len(devices) == len(self) else Reports(self._rows[list(devices)])

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, device: Any) -> Any:
        return Report(*self._rows[device].tolist())

    def __getattr__(self, field: str) -> np.ndarray:
        if field not in Report._fields:
            raise AttributeError(field)
        return self._rows[:, Report._fields.index(field)]


def disagreement(wishes: list[float], phase: str) -> str:
    """Return what to say where devices wish to take up different parameters."""
    others = [device for device, wish in enumerate(wishes) if wish != max(wishes, key=wishes.count)]
    return (
        f"{phase}: on devices {others} other parameters require gradients than on the rest: change requires_grad, and "
        "add parameters to the optimizer, after the same step on all devices, best in device.on_step, which is called "
        "where a batch is empty as well"
    )
