"""Data injection among simulated devices: the rule and the account of real ones, and what it takes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import torch

from scadles.device.buffer import Chunk
from scadles.device.device import Device
from scadles.device.injection import Injection, SampleFormat, SampleSender
from scadles.records import Records
from scadles.simulation.costs import Costs
from scadles.simulation.injected import SampleMessage, SampleMessages

Labels = Callable[[int, np.ndarray], np.ndarray]


class Shared(NamedTuple):
    """What a step's sharing came to.

    Attributes:
        messages: what was shared.
        arrived_s: the stream time at which everything is there that a device gets, float64 ``[N]``.
        bytes_sent: that left all devices for it, and the hub of a star.
    """

    messages: SampleMessages
    arrived_s: np.ndarray
    bytes_sent: int


class Sharing:
    """Lets the senders of a step share.

    Args:
        injection: who shares how much.
        form: how samples travel.
        labels: (device, stream offsets) to labels, asked where the sharing policy depends on them.
        costs: of the devices and links.
    """

    def __init__(self, injection: Injection, form: SampleFormat, labels: Labels, costs: Costs) -> None:
        self._injection = injection
        self._form = form
        self._labels = labels
        self._costs = costs

    def share(self, members: Sequence[Device], gathered_s: np.ndarray, began_s: float, step: int) -> Shared:
        """Let the senders among these devices share of what they have taken.

        Args:
            members: that are on when the step begins, ascending.
            gathered_s: when each has its batch, float64 ``[N]``; who goes off before that shares nothing.
            began_s: when the step began.
            step: of the run.
        """
        availability = self._costs.availability
        by_number = {device.number: device for device in members}
        turn = [by_number[number] for number in self._injection.senders(step) if number in by_number]
        turn = [d for d in turn if availability.next_change(d.number, began_s) > gathered_s[d.number]]
        copies = self._costs.copies(len(members))
        if not turn or not copies:
            return Shared(SampleMessages([]), np.zeros(len(gathered_s)), 0)
        messages = [self._give(d.sender, d.taken, step, copies) for d in turn if d.sender is not None]
        sizes = np.array([self._form.message_bytes(len(message.indices)) for message in messages])
        numbers, senders = np.array(list(by_number)), np.array([message.number for message in messages])
        arrivals = self._costs.share(numbers, senders, sizes, gathered_s[senders], step, began_s)
        arrived_s = np.zeros(len(gathered_s))
        arrived_s[numbers] = arrivals.at_s
        return Shared(SampleMessages(messages), arrived_s, arrivals.bytes_sent)

    def _give(self, sender: SampleSender, taken: Chunk, step: int, copies: int) -> SampleMessage:
        def labels_at(places: np.ndarray) -> np.ndarray:
            if isinstance(taken, Records):
                return taken.y[torch.from_numpy(places)].numpy()
            return self._labels(sender.device, taken.first_offset + places)

        choice = sender.choose(step, len(taken), labels_at)
        offsets = sender.book(taken, choice, self._form.message_bytes(len(choice.indices)), copies)
        return SampleMessage(sender.device, taken, choice.indices, offsets)
