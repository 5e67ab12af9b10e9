"""What the optimizer's groups say: rates, decay and the like, the same on all devices."""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
from torch import Tensor
from torch.optim import Optimizer

from scadles.device.optimizers import parts_of
from scadles.errors import RunError
from scadles.exchange.aggregation.reports import WHOLE_REDO

_PLAIN = (bool, int, float, str)
Group = dict[str, Any]
_NO_MOMENTUM = {"momentum": 0.0, "dampening": 0.0, "nesterov": False}


class Hyperparameters:
    """The optimizer's groups between steps, when ``lr`` is the base rate that the batch scales.

    They belong to the user: a scheduler or the loop may change them, groups may come, and the next step takes what is
    there. All devices must do the same; a number that stands for what is new travels with the gradients.

    Args:
        optimizer: whose they are.

    Attributes:
        asked: what they were when the run was set up, before a checkpoint or a loop changed them.
    """

    def __init__(self, optimizer: Optimizer) -> None:
        self._optimizer = optimizer
        self.asked = self._here = self.now()
        self._agreed = self._signature()

    def now(self) -> list[Group]:
        """Return the numbers and words of each group, JSON-able."""
        return [_plain(group) for group in self._optimizer.param_groups]

    def news(self) -> float:
        """Return 0, or where anything is new since the last step a number below 0 that stands for what is there."""
        signature = self._signature()
        return 0.0 if signature == self._agreed else -float(1 + zlib.crc32(repr(signature).encode()) % (WHOLE_REDO - 1))

    def agree(self, news: np.ndarray, step: int) -> None:
        """Take what is there for agreed.

        Args:
            news: of all devices.
            step: about to be taken.

        Raises:
            RunError: they differ.
        """
        if not news.any():
            return
        if (news != news[0]).any():
            values = news.tolist()
            others = [device for device, value in enumerate(values) if value != max(values, key=values.count)]
            rates = ", ".join(f"{_number(group['lr']):g}" for group in self._optimizer.param_groups)
            raise RunError(
                f"step {step}: the optimizer's groups on devices {others} say something else than on the rest (here "
                f"lr {rates}): step a scheduler, and change groups, alike on all devices, best in device.on_step, "
                "which is called where a batch is empty as well"
            )
        self._agreed = self._signature()

    @contextmanager
    def scaled(self, factor: float, folded_after: int | None = None) -> Iterator[float]:
        """Multiply all rates for as long as this lasts; yields the first one.

        Args:
            factor: of the rates.
            folded_after: steps that were taken, where the momentum of each group becomes part of its rate: a gradient
                counts at once for what it would in all steps to come, as far as momentum would have got by then. None
                leaves momentum as it is.
        """
        groups = self._optimizer.param_groups
        kept = [{name: group[name] for name in _NO_MOMENTUM if name in group} for group in groups]
        bases = [_number(group["lr"]) for group in groups]
        gains = [1.0] * len(groups) if folded_after is None else self._fold(folded_after)
        _set_rates(groups, [base * factor * gain for base, gain in zip(bases, gains, strict=True)])
        try:
            yield _number(groups[0]["lr"])
        finally:
            _set_rates(groups, bases)
            for group, before in zip(groups, kept, strict=True):
                group.update(before)

    def _fold(self, steps: int) -> list[float]:
        """Take momentum out of all groups, and what it has gathered, which would count as new later; return gains."""
        for one in parts_of(self._optimizer):
            for slots in one.state.values():
                slots.pop("momentum_buffer", None)
        return [_fold(group, steps) for group in self._optimizer.param_groups]

    def load(self, rates: list[float], asked: list[Group] | None) -> None:
        """Go on from a checkpoint, whose groups the optimizer has taken over.

        Args:
            rates: the base rates at the checkpoint.
            asked: what that run's groups said when it was set up; None where nobody wrote it down.
        """
        _set_rates(self._optimizer.param_groups, rates)
        self.asked = asked or self.now()
        self._agreed = self._signature()

    def ask_again(self) -> list[str]:
        """Let what this attempt was set up with count where it is not what the run was set up with.

        Returns:
            What has changed, in words.
        """
        groups, changes = self._optimizer.param_groups, []
        for place, (group, new, old) in enumerate(zip(groups, self._here, self.asked, strict=True)):
            where = f" of parameter group {place}" if len(groups) > 1 else ""
            for name in sorted(new):
                if name != "initial_lr" and new[name] != old.get(name, new[name]):
                    group[name] = tuple(new[name]) if isinstance(new[name], list) else new[name]
                    was, now = _short(old[name]), _short(new[name])
                    changes.append(f"the optimizer's {name}{where} was {was} and is now {now}")
        self.asked = self._here
        self._agreed = self._signature()
        return changes

    def _signature(self) -> list[Any]:
        return [(len(group["params"]), _plain(group)) for group in self._optimizer.param_groups]


def _short(value: Any) -> Any:
    """Return ``value`` without the digits that only rounding made.

    >>> _short(0.0025000000000000005), _short(0.1), _short(1e-05), _short(True)
    (0.0025, 0.1, 1e-05, True)
    """
    return float(f"{value:.12g}") if isinstance(value, float) else value


def _plain(group: Group) -> Group:
    plain: Group = {}
    for name, value in group.items():
        if isinstance(value, Tensor) and value.numel() == 1:
            plain[name] = float(value)
        elif isinstance(value, _PLAIN):
            plain[name] = value
        elif isinstance(value, tuple | list) and name != "params" and all(isinstance(v, _PLAIN) for v in value):
            plain[name] = list(value)
    return plain


def _fold(group: Group, steps: int) -> float:
    """Take momentum out of a group; return what a gradient counts for with it, so many steps after the first."""
    momentum = float(group.get("momentum", 0.0))
    if not momentum:
        return 1.0
    damped = 1 - float(group.get("dampening", 0.0))
    group.update({name: value for name, value in _NO_MOMENTUM.items() if name in group})
    return damped * (1 - momentum ** (steps + 1)) / (1 - momentum)


def _number(value: float | Tensor) -> float:
    return float(value)


def _set_rates(groups: list[Group], rates: list[float]) -> None:
    for group, rate in zip(groups, rates, strict=True):
        if isinstance(group["lr"], Tensor):
            group["lr"].fill_(rate)
        else:
            group["lr"] = rate
