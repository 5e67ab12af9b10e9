"""Optimizers as users bring them: which of them can work here, and several as one."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from typing import Any

from torch import nn
from torch.optim import LBFGS, Optimizer, SparseAdam
from torch.utils.hooks import RemovableHandle

from scadles.errors import ConfigError, RunError

_OUTSIDE = (
    "optimizer.step() was called in the loop: leave loss.backward() and optimizer.step() out, because "
    "device.step(loss) does the backward pass, the exchange with the other devices and the optimizer's step"
)


class JointOptimizer(Optimizer):
    """Several optimizers that take their steps together, with the groups of all of them.

    Args:
        optimizers: over different parameters.
    """

    def __init__(self, optimizers: Sequence[Optimizer]) -> None:
        # the state is theirs: there is nothing that the base class would have to make
        self.optimizers = tuple(optimizers)
        parameters = [id(p) for optimizer in optimizers for group in optimizer.param_groups for p in group["params"]]
        if len(set(parameters)) < len(parameters):
            raise ConfigError("two optimizers hold the same parameter: each parameter has one optimizer")

    @property
    def param_groups(self) -> list[dict[str, Any]]:  # type: ignore[override]
        """The groups of all, the very same objects."""
        return [group for optimizer in self.optimizers for group in optimizer.param_groups]

    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        for optimizer in self.optimizers:
            optimizer.step()

    def zero_grad(self, set_to_none: bool = True) -> None:  # noqa: FBT001, FBT002 - as in torch
        for optimizer in self.optimizers:
            optimizer.zero_grad(set_to_none)

    def state_dict(self) -> dict[str, Any]:
        state: dict[int, Any] = {}
        groups: list[dict[str, Any]] = []
        for optimizer in self.optimizers:
            saved, first = optimizer.state_dict(), sum(len(group["params"]) for group in groups)
            state |= {first + index: slots for index, slots in saved["state"].items()}
            groups += [{**group, "params": [first + i for i in group["params"]]} for group in saved["param_groups"]]
        return {"state": state, "param_groups": groups}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        groups, first = list(state_dict["param_groups"]), 0
        for optimizer in self.optimizers:
            count = len(optimizer.param_groups)
            mine, groups = groups[:count], groups[count:]
            size = sum(len(group["params"]) for group in mine)
            slots = {i - first: slot for i, slot in state_dict["state"].items() if first <= i < first + size}
            renumbered = [{**group, "params": [i - first for i in group["params"]]} for group in mine]
            optimizer.load_state_dict({"state": slots, "param_groups": renumbered})
            first += size


def parts_of(optimizer: Optimizer) -> tuple[Optimizer, ...]:
    """Return the optimizers that one is made of."""
    return optimizer.optimizers if isinstance(optimizer, JointOptimizer) else (optimizer,)


def adopt(optimizers: Optimizer | Sequence[Optimizer], model: nn.Module) -> Optimizer:
    """Return what a user brings as one optimizer that can train ``model`` here.

    Raises:
        ConfigError: it asks for more than one common, dense gradient a step, or is for another model.
    """
    several = list(optimizers) if isinstance(optimizers, Sequence) else [optimizers]
    for one in several:
        _check(one)
    joint = several[0] if len(several) == 1 else JointOptimizer(several)
    held = {id(p) for group in joint.param_groups for p in group["params"]}
    if not any(id(p) in held for p in model.parameters()):
        raise ConfigError(
            "the optimizer holds none of the model's parameters: make it of model.parameters() of the model that is "
            "trained, after everything that replaces parameters (scadles.convert_batchnorm, torch.compile do not)"
        )
    return joint


def _check(optimizer: Any) -> None:
    kind = type(optimizer).__name__
    if not isinstance(optimizer, Optimizer):
        raise ConfigError(f"optimizer is a {kind}: it must be a torch.optim.Optimizer, or several in a list")
    if isinstance(optimizer, SparseAdam):
        raise ConfigError(
            "SparseAdam takes sparse gradients only, and the devices' common gradient is dense: use torch.optim.Adam"
        )
    closure = inspect.signature(type(optimizer).step).parameters.get("closure")
    needs_closure = closure is not None and closure.default is inspect.Parameter.empty
    if isinstance(optimizer, LBFGS) or needs_closure or hasattr(optimizer, "second_step"):
        raise ConfigError(
            f"{kind} evaluates the loss several times a step, through a closure, and devices exchange one gradient a "
            "step: use an optimizer whose step() needs no closure, such as SGD, Adam or AdamW"
        )


class Guard:
    """Refuses steps of an optimizer that the loop takes by itself, until it is released."""

    def __init__(self, optimizer: Optimizer) -> None:
        self._open = False
        self._handles: list[RemovableHandle] = [one.register_step_pre_hook(self._look) for one in parts_of(optimizer)]

    def step(self, optimizer: Optimizer) -> None:
        """Take a step that is allowed."""
        self._open = True
        try:
            optimizer.step()
        finally:
            self._open = False

    def release(self) -> None:
        """Let everybody take steps."""
        for handle in self._handles:
            handle.remove()

    def _look(self, *_: Any) -> None:
        if not self._open:
            raise RunError(_OUTSIDE)
