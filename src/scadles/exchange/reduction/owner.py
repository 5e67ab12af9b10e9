"""One owner of the whole vector: it adds up what all devices send, and keeps back what it does not send to them."""

from __future__ import annotations

import math
import secrets
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from threading import Lock

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from scadles.exchange.aggregation.outliers import Judge
from scadles.exchange.compression import (
    SampledTopK,
    Sparse,
    WireError,
    add_message,
    budget_bytes,
    decode,
    encode,
    squared_norm,
)
from scadles.exchange.compression.header import Header, claims, unseal
from scadles.exchange.reduction.judged_sparse import WEIGHT, add_judged
from scadles.fabric.hub.collectives import FoldError

#: Numbers ahead of all devices' scalars: the owner's identity, and the norm of its residual, rounding left out.
OWN_SCALARS = 2
_IDENTITY_BITS = 52  # a float64 holds it


def reply_bytes(n: int, k: int, seats: int, value_type: str, scalars: int, *, judged: bool = False) -> int:
    """Return the bytes of an owner's message, where devices send ``k`` of ``n`` entries and so many scalars each."""
    return budget_bytes(n, k, value_type, OWN_SCALARS + seats * (scalars + judged))


class VectorOwner:
    """What a hub makes of the sparse messages of one step: one sparse message with the largest sums, for everybody.

    What it does not send, rounding included, it adds to the sums of the next step, so that over any steps what devices
    have sent is what they got plus this residual. A step may come to nothing, when devices come or go before all of it
    is done, or nobody has a gradient: what it left counts once a device confirms, in the last scalar of a later
    message, that it has taken the step. Where no device confirms as much as some have before, they have gone back to an
    earlier step: the residual is of a past that is no more, and is let go.

    The message has the size of the largest budget of any device's, and the scalars of all devices, so that its length
    does not depend on how many there are but for those.

    Args:
        least_share: of all entries, that a message has room for; one that claims to be about more of them is refused.
        judge: sets messages aside, or scales them down; what it finds is one more scalar of each device. None adds up
            what comes.
        check: says what is wrong with a device's scalars; empty where nothing is.

    Attributes:
        identity: changes where a residual was lost.
    """

    def __init__(
        self,
        least_share: float = 0.0,
        judge: Judge | None = None,
        check: Callable[[int, Sequence[float]], str] = lambda seat, scalars: "",
    ) -> None:
        self._least_share = least_share
        self._judge = judge
        self._check = check
        self.identity = float(secrets.randbits(_IDENTITY_BITS))
        self._lock = Lock()
        self._residual, self._after = torch.zeros(0), torch.zeros(0)
        self._taken = -1
        self._open: int | None = None
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
        """Return what is kept back after the last confirmed step, float32 ``[n]``, to be read only."""
        return self._residual

    def open_residual(self) -> Tensor:
        """Return what is kept back once the last step is confirmed, float32 ``[n]``, to be read only."""
        return self._after

    def _fold(self, messages: dict[int, Tensor], seats: int) -> bytes:
        if not messages:
            raise FoldError(0, "a message of no bytes")
        n = len(self._residual) or self._claimed(messages)
        headers = {}
        for seat, message in messages.items():
            with _blaming(seat):
                headers[seat] = unseal(message.numpy(), n).header
        step = _of_most(header.step for header in headers.values())
        width = _of_most(len(header.scalars) for header in headers.values())
        for seat, header in headers.items():
            if header.step != step:
                raise FoldError(seat, f"a message of step {header.step}, others are at step {step}")
            if len(header.scalars) != width or not width:
                raise FoldError(seat, f"a message with {len(header.scalars)} scalars, others have {width}")
            if why := self._check(seat, header.scalars[:-1]):
                raise FoldError(seat, why)
        self._begin(n, self._confirmed(headers))
        scalars = np.zeros((seats, width - 1))
        for seat, header in headers.items():
            scalars[seat] = header.scalars[:-1]
        scalars = self._add(messages, scalars)
        usual = headers[min(messages)].value_type
        folded = self._pack(step, usual, max(h.count for h in headers.values()), scalars)
        self._open = step
        return folded

    def _claimed(self, messages: dict[int, Tensor]) -> int:
        """Return of how many entries the vector is, as most devices say; nothing is taken for granted but that."""
        said = {}
        for seat, message in messages.items():
            with _blaming(seat):
                _, said[seat] = claims(message.numpy())
            if said[seat] * self._least_share > len(message):
                raise FoldError(
                    seat,
                    f"a message about {said[seat]} parameters has {len(message)} bytes, too few for the "
                    f"{self._least_share:g} of them that is sent",
                )
        return Counter(said.values()).most_common(1)[0][0]

    def _confirmed(self, headers: Mapping[int, Header]) -> float:
        """Return the newest step that any device says it has taken; what has not been made yet nobody has."""
        newest = math.inf if self._open is None else max(self._open, self._taken)
        return max((said for header in headers.values() if (said := header.scalars[-1]) <= newest), default=-1)

    def _begin(self, n: int, confirmed: float) -> None:
        """Make room for a step, and settle what became of the ones before."""
        if not len(self._residual):
            self._residual, self._after = torch.zeros(n), torch.zeros(n)
        if self._open is not None and confirmed == self._open:
            self._residual, self._after = self._after, self._residual
            self._taken = self._open
        elif confirmed < self._taken:
            self._residual.zero_()
            self._taken = -1
            self.identity = float(secrets.randbits(_IDENTITY_BITS))
        self._open = None
        self._after.copy_(self._residual)

    def _add(self, messages: dict[int, Tensor], scalars: NDArray[np.float64]) -> NDArray[np.float64]:
        """Add up the messages; return the scalars of all seats, with what was found where that is looked for."""
        sent = {}
        for seat, message in messages.items():
            with _blaming(seat):
                if self._judge is None:
                    add_message(message, self._after)
                else:
                    sent[seat] = decode(message, len(self._after))[1]
        if self._judge is None:
            return scalars
        weights = {seat: float(scalars[seat, WEIGHT]) for seat in messages}
        judged = add_judged(self._judge, sent, weights, self._after)
        judged.mark(scalars)
        found = np.zeros((len(scalars), 1))
        found[list(judged.found), 0] = list(judged.found.values())
        return np.hstack([scalars, found])

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


def _of_most(said: Iterable[int]) -> int:
    """Return what most say: one device that says otherwise must not have the others refused."""
    return Counter(said).most_common(1)[0][0]


@contextmanager
def _blaming(seat: int) -> Iterator[None]:
    """Say whose message it is that is not what it should be."""
    try:
        yield
    except WireError as error:
        raise FoldError(seat, str(error)) from None
