"""One device's end of data injection: its samples out, those of the others in."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from scadles.device.injection.message import SampleFormat, Samples
from scadles.device.injection.sender import SampleSender
from scadles.records import Records

Share = Callable[[Tensor | None, Sequence[int], int, str], dict[int, Tensor]]


class SampleExchange:
    """The samples that a device shares in a step, and those that the other senders of the step send it.

    Args:
        sender: of this device.
        form: how samples travel.
        share: brings a message of each sender to everybody (:meth:`scadles.fabric.Fabric.share`).
        most: samples that one message holds at most.
    """

    def __init__(self, sender: SampleSender, form: SampleFormat, share: Share, most: int) -> None:
        self.sender = sender
        self._form = form
        self._share = share
        self._most_bytes = form.message_bytes(most)

    def take_part(self, step: int, batch: Records, now_s: float) -> list[Samples]:
        """Share a part of ``batch``, if it is this device's turn, and return what others share, by sender.

        Args:
            step: of the run.
            batch: what this device has taken, which may be nothing.
            now_s: stream time.

        Raises:
            PeerLostError: a sender did not answer within the deadline.
            FabricError: what it sent cannot be used.
        """
        senders = self.sender.injection.senders(step)
        message = self._message(step, batch, now_s) if self.sender.device in senders else None
        received = self._share(message, senders, self._most_bytes, f"samples of step {step}")
        return [self._form.unpack(theirs, sender) for sender, theirs in received.items()]

    def _message(self, step: int, batch: Records, now_s: float) -> Tensor:
        choice = self.sender.choose(step, len(batch), lambda drawn: batch.y[torch.from_numpy(drawn)].numpy())
        chosen = torch.from_numpy(choice.indices)
        message = self._form.pack(torch.as_tensor(batch.x)[chosen], batch.y[chosen], now_s)
        self.sender.book(batch, choice, len(message), self.sender.injection.devices - 1)
        return message
