"""Losses by torch's names, or the user's own."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from functools import cache, partial
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from scadles.errors import ConfigError, did_you_mean
from scadles.importing import import_callable

Loss = Callable[[Any, Tensor], Tensor]
_OURS = {"input", "target", "reduction", "size_average", "reduce"}
# where labels have weights, or some are ignored, their mean over a batch is divided by the sum of weights
_WEIGHTED = ("cross_entropy", "nll_loss")


@cache
def torch_losses() -> dict[str, Callable[..., Tensor]]:
    """Return the losses of ``torch.nn.functional`` of an input and a target, by name."""
    found: dict[str, Callable[..., Tensor]] = {}
    for name in dir(F):
        function = getattr(F, name)
        if name.startswith("_") or not inspect.isfunction(function):
            continue
        parameters = inspect.signature(function).parameters
        needed = [parameter.name for parameter in parameters.values() if parameter.default is parameter.empty]
        if needed == ["input", "target"] and "reduction" in parameters:
            found[name] = function
    return found


class FoundLoss(NamedTuple):
    """A loss.

    Attributes:
        mean: (outputs, targets) to the mean over a batch.
        each: (outputs, targets) to the losses ``[b]`` that it is the mean of; None where it is no such mean.
        mean_over: targets to what the mean is over: the sum of their weights; None: the samples.
    """

    mean: Loss
    each: Loss | None = None
    mean_over: Callable[[Tensor], Tensor] | None = None


def find_loss(name: str, options: Mapping[str, Any]) -> FoundLoss:
    """Return a loss by name.

    Args:
        name: a function of ``torch.nn.functional``, or ``MODULE:CALLABLE``.
        options: arguments of it; lists become tensors.

    Raises:
        ConfigError: an unknown name or argument.
    """
    known = torch_losses()
    if name not in known:
        own = import_callable("task.loss", name, known)
        _check_options(name, own, options)
        return FoundLoss(partial(own, **options) if options else own)
    function = known[name]
    _check_options(name, function, options)
    _check_weights(options.get("weight") if name in _WEIGHTED else None)
    mean = _with_tensors(function, options)
    if name in _WEIGHTED and {"weight", "ignore_index"} & set(options):
        return FoundLoss(mean, mean_over=_sum_of_weights(options))
    each = _with_tensors(function, {**options, "reduction": "none"})
    return FoundLoss(mean, lambda outputs, targets: _sample_means(each(outputs, targets)))


def _sum_of_weights(options: Mapping[str, Any]) -> Callable[[Tensor], Tensor]:
    """Return what torch divides by: the sum of the weights of the targets' labels, without those that are ignored."""
    weight, ignored = options.get("weight"), options.get("ignore_index")
    weights = torch.tensor(weight, dtype=torch.float64) if weight is not None else None

    def sum_of_weights(targets: Tensor) -> Tensor:
        counted = targets.cpu() if ignored is None else targets.cpu()[targets.cpu() != ignored]
        return torch.tensor(float(counted.numel())) if weights is None else weights[counted].sum()

    return sum_of_weights


def _sample_means(losses: Tensor) -> Tensor:
    return losses if losses.dim() == 1 else losses.flatten(1).mean(dim=1)


def _with_tensors(function: Callable[..., Tensor], options: Mapping[str, Any]) -> Loss:
    """Return a function with these arguments, lists among them as tensors on the outputs' torch device."""
    if not options:
        return function
    lists = {name: torch.tensor(value) for name, value in options.items() if isinstance(value, tuple)}
    plain = {name: value for name, value in options.items() if name not in lists}

    def loss(outputs: Tensor, targets: Tensor) -> Tensor:
        tensors = {name: tensor.to(outputs.device) for name, tensor in lists.items()}
        return function(outputs, targets, **tensors, **plain)

    return loss


def _check_weights(weight: object) -> None:
    if isinstance(weight, tuple) and (min(weight, default=0) < 0 or max(weight, default=0) == 0):
        raise ConfigError(
            f"task.loss_options.weight = {list(weight)}: one number for each label, none below 0, and not all of them 0"
        )


def _check_options(name: str, function: Callable[..., Any], options: Mapping[str, Any]) -> None:
    try:
        parameters = inspect.signature(function).parameters
    except (ValueError, TypeError):  # written in C and silent about it
        return
    if any(p.kind is p.VAR_KEYWORD for p in parameters.values()):
        return
    allowed = [option for option in parameters if option not in _OURS]
    for option in options:
        if option not in allowed:
            hint = did_you_mean(option, allowed) if allowed else "; it takes none"
            raise ConfigError(f"task.loss_options.{option}: {name} has no such argument{hint}")
