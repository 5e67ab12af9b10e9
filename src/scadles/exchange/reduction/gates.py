"""What decides whether a step is compressed, and a selector that may be asked twice about it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import Tensor

from scadles.exchange.compression import CostGate, NormGate, RatioGate, Selector, Sparse


class OncePerStep(Selector):
    """A selector that is asked twice a step, for the gate and for the message, and works once."""

    def __init__(self, inner: Selector) -> None:
        self.k = inner.k
        self._inner = inner
        self._step: int | None = None
        self._picked: Sparse | None = None

    def select(self, values: Tensor, step: int | None = None) -> Tensor:
        return self.pick(values, step).indices

    def pick(self, values: Tensor, step: int | None = None) -> Sparse:
        if self._picked is None or step is None or step != self._step:
            self._step, self._picked = step, self._inner.pick(values, step)
        return self._picked

    def state(self) -> list[Any]:
        return self._inner.state()

    def load(self, state: list[Any]) -> None:
        self._inner.load(state)


@dataclass(frozen=True)
class Gates:
    """What must agree before a step is compressed; where there is nothing, every step is.

    Attributes:
        norm: by the energy that stays behind.
        cost: by time.
        ratio: by how much, in place of both.
        speed: stream seconds in a second of the clock that messages are timed by.
    """

    norm: NormGate | None = None
    cost: CostGate | None = None
    ratio: RatioGate | None = None
    speed: float = 1.0

    @property
    def there(self) -> dict[str, NormGate | CostGate | RatioGate]:
        """Those that there are, by name."""
        gates = {"norm": self.norm, "cost": self.cost, "ratio": self.ratio}
        return {name: gate for name, gate in gates.items() if gate is not None}
