"""State that others keep, as JSON and tensors: what a checkpoint holds without pickle."""

from __future__ import annotations

import json
from collections import OrderedDict
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from scadles.device.managed import plain_names
from scadles.errors import CheckpointError, RunError

_KIND = "__kind__"
_EXTRA = "_extra_state"


def flatten(value: Any, name: str, tensors: dict[str, Tensor]) -> Any:
    """Return ``value`` as what JSON can say, its tensors moved into ``tensors``.

    Args:
        value: numbers, words, bytes, arrays and tensors, in dictionaries, lists, tuples and sets.
        name: names the tensors, and the value in errors.
        tensors: takes them.

    Raises:
        RunError: there is something else in it.
    """
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, Tensor):
        tensors[name] = value
        return {_KIND: "tensor", "name": name}
    if isinstance(value, np.ndarray | np.generic):
        return {_KIND: "array", "value": flatten(torch.from_numpy(np.array(value)), name, tensors)}
    if isinstance(value, bytes):
        return {_KIND: "bytes", "value": value.hex()}
    if isinstance(value, Mapping):
        pairs = [[flatten(k, f"{name}/key", tensors), flatten(v, f"{name}/{k}", tensors)] for k, v in value.items()]
        return {_KIND: "dict", "value": pairs}
    if isinstance(value, list | tuple | set):
        kind = next(kind for kind, cls in _SEQUENCES.items() if isinstance(value, cls))
        return {_KIND: kind, "value": [flatten(part, f"{name}/{i}", tensors) for i, part in enumerate(value)]}
    raise RunError(
        f"the state of {name} holds a {type(value).__name__}, which a checkpoint cannot keep: it takes numbers, words, "
        "bytes, arrays and tensors, in dictionaries, lists, tuples and sets"
    )


_SEQUENCES: dict[str, type] = {"list": list, "tuple": tuple, "set": set}


def unflatten(value: Any, tensors: Mapping[str, Tensor]) -> Any:
    """Return what was given to :func:`flatten`."""
    if not isinstance(value, dict):
        return value
    kind = value[_KIND]
    if kind == "tensor":
        return tensors[value["name"]]
    if kind == "array":
        return unflatten(value["value"], tensors).numpy()
    if kind == "bytes":
        return bytes.fromhex(value["value"])
    if kind == "dict":
        return OrderedDict((unflatten(k, tensors), unflatten(v, tensors)) for k, v in value["value"])
    return _SEQUENCES[kind](unflatten(part, tensors) for part in value["value"])


def tensor_names(value: Any) -> set[str]:
    """Return the names of the tensors in what :func:`flatten` returned."""
    if isinstance(value, list):
        return set().union(*map(tensor_names, value))
    if not isinstance(value, dict):
        return set()
    if value.get(_KIND) == "tensor":
        return {str(value.get("name"))}
    return set().union(*map(tensor_names, value.values()))


def model_tensors(model: nn.Module) -> dict[str, Tensor]:
    """Return the tensors of a model's state by the names that they have where nothing is compiled."""
    return plain_names({name: t for name, t in model.state_dict().items() if isinstance(t, Tensor)})


def extra_state(model: nn.Module) -> dict[str, Any]:
    """Return what of a model's state is no tensor."""
    return plain_names({name: v for name, v in model.state_dict().items() if not isinstance(v, Tensor)})


def load_model(model: nn.Module, tensors: Mapping[str, Tensor], extra: Mapping[str, Any]) -> None:
    """Give a model, compiled or not, the state that :func:`model_tensors` and :func:`extra_state` returned.

    Raises:
        RuntimeError: it is the state of another model.
    """
    given: dict[str, Any] = {**plain_names(tensors), **extra}
    names = plain_names({name: name for name in model.state_dict()})
    model.load_state_dict({names.get(name, name): value for name, value in given.items()})


def share_extra_state(model: nn.Module, broadcast: Any) -> None:
    """Give all devices device 0's state that is no tensor; ``broadcast`` overwrites tensors with those of device 0."""
    if not any(name.endswith(_EXTRA) for name in extra_state(model)):
        return
    tensors: dict[str, Tensor] = {}
    said = json.dumps(flatten(extra_state(model), "extra state", tensors)).encode()
    length = torch.tensor([len(said)])
    broadcast([length], "length of the model's extra state")
    message = torch.zeros(int(length), dtype=torch.uint8)
    message[: len(said)] = torch.frombuffer(bytearray(said), dtype=torch.uint8)[: int(length)]
    broadcast([message], "the model's extra state")
    try:
        load_model(model, model_tensors(model), unflatten(json.loads(bytes(message.tolist())), tensors))
    except (RuntimeError, ValueError, KeyError) as error:
        raise CheckpointError(f"the devices have other models: {error}") from None
