"""Which parameters have a gradient at all, where messages hold only a few entries of it."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from scadles.exchange.aggregation.bucket import Bucket


class Used:
    """Parameters that a loss of any device has used so far.

    What compression keeps back comes in later steps, so a parameter without a gradient in this step may have one in
    the sum. One that no loss has ever used has none: it neither decays nor moves. Whoever uses one for the first time
    says so in its report; in that step, which is most often the first one alone, all devices add up who uses which.

    Args:
        parameters: how many there are.
    """

    def __init__(self, parameters: int) -> None:
        self._unused = set(range(parameters))
        self._mine = torch.zeros(parameters)

    @property
    def unused(self) -> set[int]:
        """Places of the parameters that nobody has used."""
        return self._unused

    def look(self, bucket: Bucket, weight: float) -> bool:
        """Look at this device's gradients; return whether the others must hear of them."""
        if not self._unused or weight == 0:
            return False
        new = self._unused.difference(bucket.absent())
        self._mine[list(new)] = 1.0
        return bool(new)

    def presence(self) -> Tensor:
        """Return what to add up over all devices, float32 ``[parameters]``."""
        return self._mine.clone()

    def take_up(self, presence: Tensor) -> None:
        """Take note of the sum over all devices."""
        self._unused -= set(presence.nonzero().flatten().tolist())

    def state(self) -> dict[str, Any]:
        """Return what a checkpoint must hold."""
        return {"unused": sorted(self._unused)}

    def load(self, state: dict[str, Any]) -> None:
        """Go on from a state; one without this is of a version for which all were used."""
        self._unused = set(state.get("unused", []))
