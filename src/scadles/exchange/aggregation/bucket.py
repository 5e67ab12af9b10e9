"""Some parameters' gradients as one message: where they lie in it, and which of them there are."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from scadles.errors import ConfigError

# What is not there travels as -0.0, the one number that any sum leaves as it is: x + -0.0 = x, also for x = -0.0. So a
# sum is -0.0 only where every device sent that, and no byte more than the gradients is needed to tell this.
ABSENT = -0.0
_BITS = {torch.float32: torch.int32, torch.float64: torch.int64}


@dataclass
class Bucket:
    """Some parameters, and the memory in which their gradients travel.

    Attributes:
        parameters: not all of which need to have a gradient.
        message: their gradients one after the other, then what else travels.
        views: of each parameter's part of it.
        missing: how many have no gradient yet, while the backward pass runs.
    """

    parameters: list[torch.nn.Parameter]
    message: Tensor
    views: list[Tensor]
    missing: int = 0
    _firsts: Tensor = field(init=False)
    _known: list[int] = field(init=False)

    def __post_init__(self) -> None:
        self._known = [i for i, view in enumerate(self.views) if view.numel()]
        begin = self.message.storage_offset()
        firsts = [self.views[i].storage_offset() - begin for i in self._known]
        self._firsts = torch.tensor(firsts, dtype=torch.int64, device=self.message.device)

    def receive(self) -> None:
        """Let the backward pass add up the gradients right in the message."""
        self.clear()
        for parameter, view in zip(self.parameters, self.views, strict=True):
            parameter.grad = view

    def clear(self) -> None:
        """Make the message hold no gradient at all."""
        self.message.fill_(ABSENT)

    def forget(self) -> None:
        """Take the parameters' gradients away."""
        for parameter in self.parameters:
            parameter.grad = None

    def pack(self, weight: float) -> bool:
        """Make the message hold the gradients, already multiplied by the weight; return whether all are finite."""
        if weight == 0:
            self.clear()
            return True
        for parameter, view in zip(self.parameters, self.views, strict=True):
            if parameter.grad is None:
                view.fill_(ABSENT)
            elif parameter.grad is not view:
                view.copy_(parameter.grad.to_dense() if parameter.grad.is_sparse else parameter.grad)
        for place in self.absent():
            if self._is_there(place):
                self.views[place].view(-1)[0] = 0.0
        return all_finite(self.message)

    def absent(self) -> list[int]:
        """Return the places of the parameters that no gradient came for; the sum over devices tells for all."""
        return [self._known[i] for i, absent in enumerate(is_absent(self.message[self._firsts]).tolist()) if absent]

    def hand_out(self, total: float, absent: Collection[int]) -> None:
        """Give the parameters, all but the ``absent`` ones, the mean: what is in the message over ``total``."""
        self.message.div_(total)
        for place, (parameter, view) in enumerate(zip(self.parameters, self.views, strict=True)):
            parameter.grad = None if place in absent else view

    def _is_there(self, place: int) -> bool:
        """Whether a gradient that begins with -0.0 is one."""
        gradient = self.parameters[place].grad
        if gradient is None or gradient is not self.views[place]:
            return gradient is not None
        return not bool(is_absent(self.views[place]).all())  # the backward pass has added to it, or nothing has


def is_absent(values: Tensor) -> Tensor:
    """Return which values say that there is none, bool."""
    bits = _BITS[values.dtype]
    return values.contiguous().view(bits) == torch.iinfo(bits).min


def all_finite(values: Tensor) -> bool:
    """Whether a tensor has neither NaN nor infinity."""
    # the sum is cheap and says enough, unless large finite values overflow it
    return bool(torch.isfinite(values.sum())) or bool(torch.isfinite(values).all())


def make_buckets(parameters: Sequence[torch.nn.Parameter], bucket_bytes: int | None, extra: int) -> list[Bucket]:
    """Return buckets of about so many bytes, or one; the last message has ``extra`` places after the gradients."""
    groups: list[list[torch.nn.Parameter]] = [[]]
    filled = 0
    for parameter in parameters:
        if bucket_bytes is not None and groups[-1] and filled + parameter.nbytes > bucket_bytes:
            groups.append([])
            filled = 0
        groups[-1].append(parameter)
        filled += parameter.nbytes
    buckets = []
    for i, group in enumerate(groups):
        tail = extra if i == len(groups) - 1 else 0
        message = group[0].new_zeros(sum(p.numel() for p in group) + tail)
        parts = torch.split(message, [*(p.numel() for p in group), tail])[: len(group)]
        views = [part.view_as(p) for part, p in zip(parts, group, strict=True)]
        buckets.append(Bucket(group, message, views))
    return buckets


def check_parameters(parameters: Sequence[torch.nn.Parameter]) -> None:
    """Refuse parameters of several dtypes or devices, and of a dtype that cannot hold a sum of batch sizes."""
    if not parameters:
        raise ConfigError("the model has no parameter that requires a gradient")
    kinds = {(p.dtype, p.device) for p in parameters}
    if len(kinds) > 1:
        named = ", ".join(sorted(f"{dtype} on {device}" for dtype, device in kinds))
        raise ConfigError(f"the model's parameters must have one dtype on one device, found {named}")
    dtype = parameters[0].dtype
    if dtype not in _BITS:
        raise ConfigError(
            f"the model's parameters are {dtype}, which cannot hold a sum of batch sizes: keep them in float32 and "
            "compute in less with torch.autocast"
        )


def on_gradient(parameter: torch.nn.Parameter, listener: Callable[[Tensor], None]) -> Any:
    """Call ``listener`` when the backward pass has come to a parameter; returns what removes that."""
    required = parameter.requires_grad
    parameter.requires_grad = True  # a hook can be given to nothing else, and a frozen parameter may come back
    handle = parameter.register_post_accumulate_grad_hook(listener)  # type: ignore[no-untyped-call]
    parameter.requires_grad = required
    return handle
