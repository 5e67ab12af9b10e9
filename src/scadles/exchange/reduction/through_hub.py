"""Every device sends its largest entries to one owner, and gets the largest sums from there."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol, runtime_checkable

import numpy as np
import torch
from torch import Tensor

from scadles.errors import CheckpointError, ConfigError
from scadles.exchange.compression import Selector, WireError, add_message
from scadles.exchange.reduction.contract import Collectives, Sums
from scadles.exchange.reduction.gather import GatherReducer
from scadles.exchange.reduction.owner import OWN_SCALARS
from scadles.exchange.reduction.volumes import Volume, hub_volume


@runtime_checkable
class Folding(Protocol):
    """A fabric with an owner of the whole vector, such as :class:`.HubFabric`."""

    def fold(self, message: Tensor, phase: str) -> Tensor: ...


class HubReducer(GatherReducer):
    """One message a device to a :class:`.VectorOwner`, and one of bounded size back: the way through a hub.

    The volume does not grow with devices, but for their scalars. What the owner keeps back is in no checkpoint: where
    it is lost with its process, :attr:`lost` counts the norm that the owner said last.

    Args:
        fabric: connects the devices, and has an owner.
        selector, n, value_type: as for every reducer.

    Attributes:
        lost: norm of the residuals that owners lost, added up.
        notices: lines to be told to whoever looks at this run, and then taken out.
    """

    name = "hub"
    #: Whether the owner judges, and says of each device what it has found.
    judged: bool = False

    def __init__(self, fabric: Collectives, selector: Selector, n: int, value_type: str = "int8") -> None:
        super().__init__(fabric, selector, n, value_type)
        if not isinstance(fabric, Folding):
            raise ConfigError("reduction hub: this fabric has no hub; take gather or split")
        self.lost = 0.0
        self.notices: list[str] = []
        self._folding = fabric
        self._identity: float | None = None
        self._norm = 0.0
        self._confirmed = -1

    def message(self, received: Tensor | None, scalars: Sequence[float], step: int, phase: str) -> Tensor:
        return super().message(received, [*scalars, self._confirmed], step, phase)

    def confirm(self, step: int) -> None:
        self._confirmed = step

    def forget(self) -> None:
        # an owner lets go what it has kept back once nobody confirms a step any more
        self._identity, self._norm, self._confirmed = None, 0.0, -1

    def _exchange(self, message: Tensor, phase: str) -> tuple[Tensor, Sequence[int]]:
        return self._folding.fold(message, phase)[None], self._fabric.present

    def add_up(self, messages: Tensor, senders: Sequence[int], step: int, phase: str) -> Sums:
        total = self._zeros()
        try:
            header = add_message(messages[0], total)
            if header.step != step:
                raise WireError(f"a message of step {header.step}, this is step {step}")
            rows, rest = divmod(len(header.scalars) - OWN_SCALARS, self._fabric.size)
            if rest or rows < self.judged:
                raise WireError(f"{len(header.scalars)} scalars for {self._fabric.size} devices")
        except WireError as error:
            raise WireError(f"the hub, {phase}: {error}") from None
        identity, norm, *scalars = header.scalars
        self._look_at_owner(identity, norm, step)
        table = np.array(scalars, np.float64).reshape(self._fabric.size, rows)
        if not self.judged:
            return Sums(total, table)
        at = np.flatnonzero(table[:, -1]).tolist()
        return Sums(total, table[:, :-1], found={one: float(table[one, -1]) for one in at})

    def volume(self, scalars: int) -> Volume:
        return hub_volume(self.n, self.k, self.value_type, scalars)

    def state(self) -> dict[str, Tensor]:
        known = () if self._identity is None else (self._identity, self._norm, self._confirmed)
        return {"owner": torch.tensor(known, dtype=torch.float64)}

    def load(self, state: dict[str, Tensor]) -> None:
        known = state.get("owner", torch.zeros(0)).tolist()
        if len(known) not in (0, 3):
            raise CheckpointError(f"an owner of {len(known)} numbers, there are 3")
        self._identity, self._norm, self._confirmed = (*known[:2], int(known[2])) if known else (None, 0.0, -1)

    def _look_at_owner(self, identity: float, norm: float, step: int) -> None:
        if self._identity not in (None, identity):
            self.lost += self._norm
            self.notices.append(
                f"step {step}: the hub has lost what it had kept back of gradients, of norm {self._norm:.3g} "
                f"({self.lost:.3g} in all)"
            )
        self._identity, self._norm = identity, norm
