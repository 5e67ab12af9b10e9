"""One owner of the whole vector: it adds up what all devices send, and keeps back what it does not send to them."""

from __future__ import annotations

import math
import secrets
from collections.abc import Sequence
from threading import Lock

import numpy as np
import torch
from torch import Tensor

from scadles.errors import ConfigError
from scadles.exchange.aggregation import Report
from scadles.exchange.compression import SampledTopK, Sparse, WireError, add_message, budget_bytes, encode, squared_norm
from scadles.exchange.compression.header import Header, check_size, claims
from scadles.fabric.hub.collectives import FoldError

#: Numbers ahead of all devices' scalars: the owner's identity, and the norm of its residual, rounding left out.
OWN_SCALARS = 2
_WEIGHT = Report._fields.index("weight")
_IDENTITY_BITS = 52  # a float64 holds it


class VectorOwner:
    """What a hub makes of the sparse messages of one step: one sparse message with the largest sums, for everybody.

    What it does not send, rounding included, it adds to the sums of the next step, so that over any steps what devices
    have sent is what they got plus this residual. A step may be repeated, when devices come or go before all of it has
    been taken: nothing of a step is final before a message of a later one. A step in which no device has any weight
    changes nothing. Where devices go back to an earlier step, the residual is of a past that is no more, and is let go.

    The message has the size of the largest budget of any device's, and the scalars of all devices, so that its length
    does not depend on how many there are but for those.

    Args:
        weight: which scalar is a device's weight; None where every step counts.

    Attributes:
        identity: changes where a residual was lost.
    """

    def __init__(self, weight: int | None = _WEIGHT) -> None:
        self.identity = float(secrets.randbits(_IDENTITY_BITS))
        self._weight = weight
        self._lock = Lock()
        self._residual, self._after = torch.zeros(0), torch.zeros(0)
        self._step = -1
        self._is_open = False
        self._selector: SampledTopK | None = None

    def fold(self, rows: Sequence[bytearray | None]) -> bytes:
        """Return the message for everybody.

        Args:
            rows: messages by seat; None of who is absent.

        Raises:
            FoldError: a device's message is damaged, or about something else than the others'.
        """
        with self._lock:
            return self._fold(
                {seat: torch.frombuffer(row, dtype=torch.uint8) for seat, row in enumerate(rows) if row}, len(rows)
            )

    def residual(self) -> Tensor:
        """Return what is kept back after the last step, float32 ``[n]``, to be read only."""
        return self._after if self._is_open else self._residual

    def _fold(self, messages: dict[int, Tensor], seats: int) -> bytes:
        if not messages:
            raise FoldError(0, "a message of no bytes")
        first = min(messages)
        try:
            step, n = claims(messages[first].numpy())
            self._begin(step, n)
        except (WireError, ConfigError) as error:
            raise FoldError(first, str(error)) from None
        headers = {seat: self._add(seat, message, step) for seat, message in messages.items()}
        scalars = np.zeros((seats, len(headers[first].scalars)))
        for seat, header in headers.items():
            if len(header.scalars) != scalars.shape[1]:
                raise FoldError(seat, f"a message with {len(header.scalars)} scalars, others have {scalars.shape[1]}")
            scalars[seat] = header.scalars
        message = self._pack(step, headers[first].value_type, max(h.count for h in headers.values()), scalars)
        self._is_open = self._weight is None or bool(scalars[:, self._weight].sum() > 0)
        return message

    def _begin(self, step: int, n: int) -> None:
        """Make room for a step, and settle what became of the one before."""
        if not len(self._residual):
            check_size(n)
            self._residual, self._after = torch.zeros(n), torch.zeros(n)
        if step > self._step and self._is_open:
            self._residual, self._after = self._after, self._residual
        elif step < self._step:
            self._residual.zero_()
            self.identity = float(secrets.randbits(_IDENTITY_BITS))
        self._step, self._is_open = step, False
        self._after.copy_(self._residual)

    def _add(self, seat: int, message: Tensor, step: int) -> Header:
        try:
            header = add_message(message, self._after)
        except WireError as error:
            raise FoldError(seat, str(error)) from None
        if header.step != step:
            raise FoldError(seat, f"a message of step {header.step}, others are at step {step}")
        return header

    def _pack(self, step: int, value_type: str, k: int, scalars: np.ndarray) -> bytes:
        """Return a message with the largest sums, and keep the rest."""
        n = len(self._after)
        picked = Sparse(torch.zeros(0, dtype=torch.int64), torch.zeros(0))
        if k:
            if self._selector is None or self._selector.k != k:
                self._selector = SampledTopK(k, 0, 0)
            picked = self._selector.pick(self._after, step)
        own = [self.identity, math.sqrt(max(squared_norm(self._after) - squared_norm(picked.values), 0.0))]
        said = [*own, *scalars.ravel().tolist()]
        size = budget_bytes(n, k, value_type, len(said))
        encoded = encode(picked, n, value_type=value_type, step=step, budget_bytes=size, scalars=said)
        self._after.index_add_(0, encoded.sent.indices, encoded.sent.values, alpha=-1)
        return encoded.message.numpy().tobytes()
