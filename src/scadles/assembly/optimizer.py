"""The built-in optimizers, without torch's compiler."""

from __future__ import annotations

import inspect
from collections.abc import Callable

import torch
from torch import nn
from torch.optim import SGD, Adam, AdamW, Optimizer

from scadles.config import OptimizerConfig

# methods that torch hides from its compiler, which it loads for this when the first of them is called
_HIDDEN = ("add_param_group", "load_state_dict", "state_dict", "zero_grad")


def without_compiler(kind: type[Optimizer]) -> type[Optimizer]:
    """Return the same optimizer for code that is never compiled.

    torch imports ``torch._dynamo`` (1.2 s of CPU time, 80 MB) with the first optimizer, to exclude its methods from
    compilation. The methods themselves are taken from under these wrappers; ``step`` keeps what its wrapper does when
    nothing compiles: it runs without gradients.

    >>> parameter = torch.nn.Parameter(torch.ones(1))
    >>> optimizer = without_compiler(SGD)([parameter], lr=0.5)
    >>> parameter.grad = torch.ones(1)
    >>> optimizer.step()
    >>> parameter.item(), isinstance(optimizer, SGD)
    (0.5, True)
    """
    methods = {name: inspect.unwrap(getattr(kind, name)) for name in _HIDDEN}
    step = torch.no_grad()(inspect.unwrap(kind.step))
    return type(kind.__name__, (kind,), {**methods, "step": step, "__doc__": kind.__doc__})


_KINDS: dict[str, Callable[..., Optimizer]] = {
    "sgd": without_compiler(SGD),
    "adam": without_compiler(Adam),
    "adamw": without_compiler(AdamW),
}


def build_optimizer(config: OptimizerConfig, model: nn.Module) -> Optimizer:
    """Return a built-in optimizer over a model's parameters."""
    momentum: dict[str, float] = {"momentum": config.momentum} if config.name == "sgd" else {}
    return _KINDS[config.name](model.parameters(), lr=config.lr, weight_decay=config.weight_decay, **momentum)
