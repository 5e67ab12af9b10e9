"""One device's part in data injection: what it sends, and its account of that."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from scadles.device.injection.counts import SentCounts
from scadles.device.injection.history import History
from scadles.device.injection.rule import Injection
from scadles.device.injection.sharing_policy import SharingPolicy
from scadles.records import Records, Span


class Choice(NamedTuple):
    """What a device shares in a step.

    Attributes:
        indices: of these samples in its batch, int64 ascending.
        withheld: how many more were drawn, and are not shared.
    """

    indices: np.ndarray
    withheld: int


class SampleSender:
    """One device that shares samples when its turn comes.

    Args:
        device: its number.
        injection: the rule.
        policy: what it may share.
        history: of what has left it.

    Attributes:
        sent: what it has shared so far.
        latest: what of that in the present step.
    """

    __slots__ = ("device", "history", "injection", "latest", "policy", "sent")

    def __init__(self, device: int, injection: Injection, policy: SharingPolicy, history: History) -> None:
        self.device = device
        self.injection = injection
        self.policy = policy
        self.history = history
        self.sent = SentCounts()
        self.latest = SentCounts()

    def choose(self, step: int, size: int, labels_at: Callable[[np.ndarray], np.ndarray]) -> Choice:
        """Draw what to share of a batch of ``size`` samples, and leave out what must not leave.

        Args:
            step: of the run; this device is one of its senders.
            size: samples in its batch.
            labels_at: indices in the batch to labels, asked only where the policy depends on them.
        """
        drawn = self.injection.indices(self.device, step, size)
        if self.policy.shares(self.device) and not self.policy.depends_on_labels(self.device):
            return Choice(drawn, 0)
        labels = labels_at(drawn) if self.policy.shares(self.device) else np.zeros(len(drawn), dtype=np.int64)
        indices = drawn[self.policy.allowed(self.device, labels)]
        return Choice(indices, len(drawn) - len(indices))

    def book(self, batch: Records | Span, choice: Choice, payload_bytes: int, copies: int) -> np.ndarray:
        """Take note of what leaves in one message, of which so many copies are sent; return its stream offsets."""
        indices = choice.indices
        offsets = batch.first_offset + indices if isinstance(batch, Span) else batch.offsets[indices]
        self.latest = SentCounts(len(indices), choice.withheld, payload_bytes, payload_bytes * copies)
        self.sent.add(self.latest)
        if len(indices):
            self.history.add(offsets, batch.first_offset)
        return offsets

    def describe(self) -> dict[str, int]:
        """Return what has been shared so far, for a summary."""
        return {**self.sent.as_dict(), "distinct_records": self.history.distinct}

    def end_step(self) -> None:
        """Take note that a step has ended."""
        self.latest = SentCounts()

    def state(self) -> dict[str, Any]:
        """Return what a checkpoint needs, as JSON can hold it."""
        return {"given": self.sent.as_dict(), "history": self.history.state()}

    def load(self, state: dict[str, Any]) -> None:
        """Go on from what :meth:`state` returned."""
        self.sent = SentCounts(**state["given"])
        self.history.load(state["history"])
