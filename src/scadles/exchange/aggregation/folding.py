"""A dense message whose gradients somebody looks at one by one, in place of a plain sum."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple, Protocol

from torch import Tensor


class Waitable(Protocol):
    """A reduction on its way."""

    def wait(self) -> None: ...


class Layout(NamedTuple):
    """Where in a dense message what lies: gradients, what buffers have gained, then a report of each device.

    Attributes:
        values: of gradients.
        length: of the message.
        devices: that there may be.
        fields: of each report.
    """

    values: int
    length: int
    devices: int
    fields: int

    @property
    def reports(self) -> int:
        """Where the reports begin."""
        return self.length - self.devices * self.fields

    def slot(self, message: Tensor, device: int) -> Tensor:
        """Return the report of a device, a view of the message ``[fields]``."""
        begin = self.reports + device * self.fields
        return message[begin : begin + self.fields]


class StepFold(Protocol):
    """What makes one message of all devices' by looking at each: see :mod:`scadles.exchange.reduction`."""

    @property
    def found(self) -> Mapping[int, float]: ...

    def start(self, message: Tensor, layout: Layout, phase: str) -> Waitable: ...

    def state(self) -> dict[str, Any]: ...

    def load(self, state: Mapping[str, Any]) -> None: ...
