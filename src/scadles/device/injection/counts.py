"""What a device has sent to the others."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any


@dataclass(slots=True)
class SentCounts:
    """Running counts of what one device has shared.

    Attributes:
        samples: sent, each counted once however many devices received it.
        withheld: drawn to be sent, and not sent because the device or the label refuses it.
        payload_bytes: of its messages, each counted once.
        sent_bytes: of its messages to all receivers.
    """

    samples: int = 0
    withheld: int = 0
    payload_bytes: int = 0
    sent_bytes: int = 0

    def add(self, other: SentCounts) -> None:
        """Count what was sent in a step."""
        self.samples += other.samples
        self.withheld += other.withheld
        self.payload_bytes += other.payload_bytes
        self.sent_bytes += other.sent_bytes

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)
