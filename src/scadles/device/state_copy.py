"""A copy in memory of the state of training, to go back to."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from scadles.device.managed import Managed, plain_names
from scadles.device.optimizers import parts_of

_FIRST = 5  # steps to the second copy; to each later one as many as the last was after the beginning
_PARAMETER, _SLOT, _BUFFER = "parameter/", "slot/", "buffer/"


class StateCopy:
    """A copy in memory of parameters, what the optimizer keeps of them, and buffers.

    What an optimizer keeps and is neither a tensor nor a number, and what its groups say, is not part of it.

    Args:
        managed: the parameters.
        optimizer: which keeps something of each.
        every: steps from one copy to the next, at most: a run that has just begun has moved far in few.

    Attributes:
        step: after which the copied state was; None before there is a copy.
    """

    def __init__(self, managed: Managed, optimizer: Optimizer, every: int) -> None:
        self.step: int | None = None
        self._managed = managed
        self._every = every
        self._several = parts_of(optimizer)
        self._tensors: dict[str, Tensor] = {}
        self._numbers: dict[str, float] = {}

    def is_due(self, step: int) -> bool:
        """Whether the copy is so old, or of so few parameters, that a new one is wanted before this step."""
        if self.step is None or step - 1 >= self.step + min(self._every, max(_FIRST, self.step)):
            return True
        return any(_PARAMETER + name not in self._tensors for name in self._managed.parameters)

    @torch.no_grad()
    def take(self, step: int) -> None:
        """Copy parameters and optimizer as they are after ``step``, into the memory of the last copy where it fits."""
        here: dict[str, Tensor] = {_PARAMETER + name: p for name, p in self._managed.parameters.items()}
        self._numbers = {}
        for name, slot, value in self._slots():
            if isinstance(value, Tensor):
                here[f"{_SLOT}{name}/{slot}"] = value
            elif isinstance(value, int | float):
                self._numbers[f"{name}/{slot}"] = value
        self._take(here, _BUFFER)
        self.step = step

    @torch.no_grad()
    def swap(self) -> None:
        """Let parameters and what the optimizer keeps change places with their copies.

        What the optimizer has begun to keep since is as if it had not begun, until it is swapped again.
        """
        for name, parameter in self._managed.parameters.items():
            self._swap(_PARAMETER + name, parameter)
        here = {(name, slot): value for name, slot, value in self._slots()}
        numbers, self._numbers = self._numbers, {}
        kept = {name: tensor for name, tensor in self._tensors.items() if name.startswith(_SLOT)}
        for (name, slot), value in here.items():
            key = f"{name}/{slot}"
            if isinstance(value, Tensor) and _SLOT + key in kept:
                self._swap(_SLOT + key, value)
            elif isinstance(value, Tensor):
                self._tensors[_SLOT + key] = self._state_of(name).pop(slot)
            elif isinstance(value, int | float):
                self._numbers[key] = value
                self._state_of(name)[slot] = numbers.pop(key, value)
        for key, number in numbers.items():
            name, _, slot = key.rpartition("/")
            self._state_of(name)[slot] = number
        known = {f"{_SLOT}{name}/{slot}" for name, slot in here}
        for key in kept.keys() - known:
            name, _, slot = key.removeprefix(_SLOT).rpartition("/")
            self._state_of(name)[slot] = self._tensors.pop(key)

    @torch.no_grad()
    def take_buffers(self, model: nn.Module) -> None:
        """Copy the buffers of a model."""
        self._take({_BUFFER + name: b for name, b in _buffers(model).items()}, _PARAMETER, _SLOT)

    @torch.no_grad()
    def swap_buffers(self, model: nn.Module) -> None:
        """Let the buffers of a model change places with their copies, where they are of the same shape still."""
        for name, buffer in _buffers(model).items():
            self._swap(_BUFFER + name, buffer)

    def numbers(self) -> dict[str, float]:
        """Return what of the optimizer's was a number, by name."""
        return dict(self._numbers)

    def tensors(self) -> dict[str, Tensor]:
        """Return all tensors, by name."""
        return dict(self._tensors)

    def load(self, step: int | None, numbers: Mapping[str, float], tensors: Mapping[str, Tensor]) -> None:
        """Take over another copy."""
        shapes = {name: p.shape for name, p in self._managed.parameters.items()}
        for name, tensor in tensors.items():
            of = name.removeprefix(_PARAMETER) if name.startswith(_PARAMETER) else name.removeprefix(_SLOT)
            of = of.rpartition("/")[0] if name.startswith(_SLOT) else of
            if of in shapes and tensor.dim() and tensor.shape != shapes[of]:
                raise ValueError(f"the copy of {of} has shape {list(tensor.shape)}, it is {list(shapes[of])}")
        self.step, self._numbers = step, dict(numbers)
        self._tensors = {name: tensor.detach().clone() for name, tensor in tensors.items()}

    def _take(self, here: Mapping[str, Tensor], *others: str) -> None:
        before = self._tensors
        self._tensors = {name: tensor for name, tensor in before.items() if name.startswith(others)}
        for name, tensor in here.items():
            memory = before.get(name)
            fits = memory is not None and memory.shape == tensor.shape and memory.device == tensor.device
            self._tensors[name] = memory.copy_(tensor) if memory is not None and fits else tensor.detach().clone()

    def _slots(self) -> Iterator[tuple[str, str, Any]]:
        """Yield what the optimizer keeps: of which parameter, under which name, and what."""
        for name, parameter in self._managed.parameters.items():
            for one in self._several:
                if parameter in one.state:
                    for slot, value in list(one.state[parameter].items()):
                        yield name, str(slot), value

    def _state_of(self, name: str) -> dict[str, Any]:
        """Return what the optimizer that has a parameter keeps of it."""
        parameter = self._managed.parameters[name]
        for one in self._several:
            if any(parameter is p for group in one.param_groups for p in group["params"]):
                state: dict[str, Any] = one.state[parameter]
                return state
        return {}

    def _swap(self, name: str, tensor: Tensor) -> None:
        kept = self._tensors.get(name)
        if kept is not None and kept.shape == tensor.shape:
            before = tensor.detach().clone()
            tensor.copy_(kept)
            kept.copy_(before)


def _buffers(model: nn.Module) -> dict[str, Tensor]:
    return plain_names(dict(model.named_buffers()))
