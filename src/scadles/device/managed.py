"""All that training changes and that devices must have alike: of the model, and of the optimizer beside it."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from types import MappingProxyType
from typing import TypeVar

from torch import Tensor, nn
from torch.nn import Parameter
from torch.optim import Optimizer

_Value = TypeVar("_Value")
_COMPILED = "_orig_mod."
NOTHING: Mapping[str, Tensor] = MappingProxyType({})


class Managed:
    """The parameters and buffers of a model, and the parameters that only its optimizer holds.

    Those may be class centres or weights of losses. All have names: the model's own without what ``torch.compile``
    puts into them, ``optimizer.GROUP.PLACE`` for the others.

    Args:
        model: what is trained.
        optimizer: whose groups may grow.
        beside: what else devices have alike, by name.
    """

    def __init__(self, model: nn.Module, optimizer: Optimizer, beside: Mapping[str, Tensor] = NOTHING) -> None:
        self._model = model
        self._beside = beside
        self._optimizer = optimizer
        self._sizes: list[int] = []
        self.parameters: dict[str, Parameter] = {}
        self.foreign: dict[str, Parameter] = {}
        self.refresh()

    def refresh(self) -> bool:
        """Look for parameters that have come to the optimizer; return whether any have."""
        sizes = [len(group["params"]) for group in self._optimizer.param_groups]
        if sizes == self._sizes:
            return False
        self._sizes = sizes
        self.parameters = plain_names(dict(self._model.named_parameters()))
        known = {id(p) for p in self.parameters.values()}
        groups = enumerate(self._optimizer.param_groups)
        found = {f"optimizer.{i}.{k}": p for i, group in groups for k, p in enumerate(group["params"])}
        self.foreign = {name: p for name, p in found.items() if id(p) not in known}
        self.parameters |= self.foreign
        return True

    def hidden_buffers(self) -> dict[str, Tensor]:
        """Return the buffers that are not part of the model's state: the ones that are not persistent."""
        state = plain_names(self._model.state_dict())
        return {name: b for name, b in plain_names(dict(self._model.named_buffers())).items() if name not in state}

    def not_in_the_model(self, *, buffers: bool = True) -> dict[str, Tensor]:
        """Return what has no place in the model's own state, with the buffers that are not persistent or without."""
        return (self.hidden_buffers() if buffers else {}) | self.foreign | dict(self._beside)

    def train(self, names: Collection[str]) -> list[str]:
        """Let these parameters require gradients, and no others; return the names of those that did otherwise."""
        changed = [name for name, p in self.parameters.items() if p.requires_grad != (name in names)]
        for name in changed:
            self.parameters[name].requires_grad = name in names
        return changed

    def tensors(self) -> dict[str, Tensor]:
        """Return all parameters and buffers; tied ones by each of their names, as in the model's state."""
        state = {name: t for name, t in self._model.state_dict(keep_vars=True).items() if isinstance(t, Tensor)}
        return plain_names(state) | self.not_in_the_model()


def plain_names(named: Mapping[str, _Value]) -> dict[str, _Value]:
    """Return what has names in a model by those that it has where nothing is compiled.

    >>> plain_names({"_orig_mod.0.weight": 1, "1._orig_mod.bias": 2})
    {'0.weight': 1, '1.bias': 2}
    """
    return {name.replace(_COMPILED, ""): value for name, value in named.items()}


def find_parameters(model: nn.Module, optimizer: Optimizer) -> Sequence[Parameter]:
    """Return all parameters that may require gradients now or later, the model's first."""
    return list(Managed(model, optimizer).parameters.values())
