"""What a device may say in its report, and where: checked at a hub, before anything of it counts for others."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from scadles.exchange.aggregation.reports import REJECTS_TOO_MUCH, STREAM_ENDED, Report

_ROUNDING = 1e-6
_STOPS = (STREAM_ENDED, 0.0, 1.0, REJECTS_TOO_MUCH)


@dataclass(frozen=True)
class ReportCheck:
    """What a report may say.

    Attributes:
        batch: samples of a batch at most, as the batch rule allows and others may add to it.
        weight: of a gradient at most.
    """

    batch: float
    weight: float

    def problem(self, seat: int, report: Sequence[float]) -> str:
        """Return what is wrong with a device's report; empty where nothing is.

        Args:
            seat: of the device.
            report: in the order of :class:`.Report`; NaN stands for what is not known.
        """
        for name, value, most in zip(("batch", "weight"), report, (self.batch, self.weight), strict=False):
            if value < 0 or value > most * (1 + _ROUNDING):
                return (
                    f"its report says {name} {value:g}, and the settings allow 0 to {most:g} (batch.max, batch.size, "
                    "aggregation.max_weight)"
                )
        said = dict(zip(Report._fields, report, strict=False))
        if any(math.isinf(value) for value in report[: Report._fields.index("norm_sq")]):
            return "its report has infinity in it"
        if not math.isnan(said.get("stop", math.nan)) and said["stop"] not in _STOPS:
            return f"its report says stop {said['stop']:g}, which means nothing"
        return ""


class TailCheck:
    """Looks at the end of gradient messages as they come to a hub, piece by piece.

    Args:
        check: of each report.
        devices: how many reports there are.
        fields: of each.
    """

    def __init__(self, check: ReportCheck, devices: int, fields: int) -> None:
        self._check = check
        self._devices = devices
        self._fields = fields

    def problem(self, seat: int, values: np.ndarray, left: int) -> str:
        """Return what is wrong with a piece of a device's message; empty where nothing is.

        Args:
            seat: of the device.
            values: of the piece, floating ``[k]``, finite.
            left: how many values of the message come after it.
        """
        size = self._devices * self._fields
        begin = max(0, len(values) + left - size)  # where in the piece the reports begin
        tail = values[begin:] if begin < len(values) else values[:0]
        first = size - left - len(tail)  # where in the reports this begins
        if len(tail) == 0:
            return ""
        own = slice(seat * self._fields - first, (seat + 1) * self._fields - first)
        here = slice(min(max(own.start, 0), len(tail)), min(max(own.stop, 0), len(tail)))
        if tail[: here.start].any() or tail[here.stop :].any():
            return "a report in another device's place"
        report = np.full(self._fields, np.nan)
        report[here.start - own.start : here.stop - own.start] = tail[here]
        return self._check.problem(seat, report.tolist())
