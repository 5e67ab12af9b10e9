"""One device's part in data injection: what it gives, and its account of that."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from scadles.device.injection.account import Given
from scadles.device.injection.consent import Consent
from scadles.device.injection.history import History
from scadles.device.injection.rule import Injection
from scadles.records import Records, Span


class Choice(NamedTuple):
    """What a device shares in a step.

    Attributes:
        places: of these samples in its batch, int64 ascending.
        withheld: how many more were drawn, and are not shared.
    """

    places: np.ndarray
    withheld: int


class Sharer:
    """One device that shares samples when its turn comes.

    Args:
        device: its number.
        injection: the rule.
        consent: what it may share.
        history: of what has left it.

    Attributes:
        given: what it has shared so far.
        latest: what of that in the present step.
    """

    __slots__ = ("consent", "device", "given", "history", "injection", "latest")

    def __init__(self, device: int, injection: Injection, consent: Consent, history: History) -> None:
        self.device = device
        self.injection = injection
        self.consent = consent
        self.history = history
        self.given = Given()
        self.latest = Given()

    def choose(self, step: int, size: int, labels_at: Callable[[np.ndarray], np.ndarray]) -> Choice:
        """Draw what to share of a batch of ``size`` samples, and leave out what must not leave.

        Args:
            step: of the run; this device is one of its senders.
            size: samples in its batch.
            labels_at: places in the batch to labels, asked only where consent depends on them.
        """
        drawn = self.injection.places(self.device, step, size)
        if self.consent.shares(self.device) and not self.consent.depends_on_labels(self.device):
            return Choice(drawn, 0)
        labels = labels_at(drawn) if self.consent.shares(self.device) else np.zeros(len(drawn), dtype=np.int64)
        places = drawn[self.consent.allowed(self.device, labels)]
        return Choice(places, len(drawn) - len(places))

    def book(self, batch: Records | Span, choice: Choice, payload_bytes: int, copies: int) -> np.ndarray:
        """Take note of what leaves in one message, of which so many copies are sent; return its stream offsets."""
        places = choice.places
        offsets = batch.first_offset + places if isinstance(batch, Span) else batch.offsets[places]
        self.latest = Given(len(places), choice.withheld, payload_bytes, payload_bytes * copies)
        self.given.add(self.latest)
        if len(places):
            self.history.add(offsets, batch.first_offset)
        return offsets

    def describe(self) -> dict[str, int]:
        """Return what has been shared so far, for a summary."""
        return {**self.given.as_dict(), "distinct_records": self.history.distinct}

    def end_step(self) -> None:
        """Take note that a step has ended."""
        self.latest = Given()

    def state(self) -> dict[str, Any]:
        """Return what a checkpoint needs, as JSON can hold it."""
        return {"given": self.given.as_dict(), "history": self.history.state()}

    def load(self, state: dict[str, Any]) -> None:
        """Go on from what :meth:`state` returned."""
        self.given = Given(**state["given"])
        self.history.load(state["history"])
