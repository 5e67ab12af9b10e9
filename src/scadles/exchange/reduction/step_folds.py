"""Where whole gradients are looked at one by one: at the hub, or on every device alike."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

from torch import Tensor

from scadles.exchange.aggregation.folding import Layout
from scadles.exchange.reduction.contract import Collectives
from scadles.exchange.reduction.judged_dense import DenseFold, Folded, pack, unpacked


class _Folds(Protocol):
    def fold(self, message: Tensor, phase: str) -> Tensor: ...


class _Here:
    """A message that has come."""

    def wait(self) -> None:
        return


class GatheredFold:
    """Everybody's message goes to everybody, and each device makes the same of the same bytes.

    Args:
        fabric: connects the devices.
        fold: makes it; every device has one of its own, which remembers the same.

    Attributes:
        found: what was wrong with gradients of the last step, by device.
    """

    def __init__(self, fabric: Collectives, fold: DenseFold) -> None:
        self.found: Mapping[int, float] = {}
        self._fabric = fabric
        self._fold = fold

    def start(self, message: Tensor, layout: Layout, phase: str) -> _Here:
        """Put in the place of this device's message what comes of those of all."""
        rows = self._fabric.gather(message, phase).cpu()
        folded = self._fold.fold({device: rows[device] for device in self._fabric.present}, layout)
        message.copy_(folded.message)
        self.found = folded.found
        return _Here()

    def state(self) -> dict[str, Any]:
        return {} if self._fold.judge is None else self._fold.judge.state()

    def load(self, state: Mapping[str, Any]) -> None:
        if self._fold.judge is not None:
            self._fold.judge.load(state)


class HubFold:
    """Each device's message goes to a :class:`.DenseOwner`, which remembers, and what it has made of all comes back.

    Args:
        fabric: has a hub.

    Attributes:
        found: what was wrong with gradients of the last step, by device.
    """

    def __init__(self, fabric: _Folds) -> None:
        self.found: Mapping[int, float] = {}
        self._fabric = fabric

    def start(self, message: Tensor, layout: Layout, phase: str) -> _Here:
        """Put in the place of this device's message what comes of those of all."""
        on_cpu = message.detach().cpu()
        folded: Folded = unpacked(self._fabric.fold(pack(on_cpu, layout), phase), on_cpu, layout)
        message.copy_(folded.message)
        self.found = folded.found
        return _Here()

    def state(self) -> dict[str, Any]:
        return {}

    def load(self, state: Mapping[str, Any]) -> None:
        """Remember nothing: the hub does."""
