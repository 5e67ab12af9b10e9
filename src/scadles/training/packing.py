"""What is in a checkpoint: model, optimizer, random generators and whatever else there is, as tensors and JSON."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from scadles.errors import CheckpointError
from scadles.training.checkpoint import Checkpoint
from scadles.training.portable import extra_state, flatten, load_model, model_tensors, unflatten

MODEL, OPTIMIZER, _KEPT_BACK, BESIDE = "model/", "optimizer/", "exchange/", "beside/"
_GENERATOR, _CUDA_GENERATOR = "generator/torch", "generator/cuda"
#: Names of what is one device's own begin with these.
OF_THE_DEVICE = (_KEPT_BACK, "generator/")
#: Whether what is kept back is of gradients that all have gone back behind.
FORGETS = "forgets"


def pack(
    model: nn.Module,
    optimizer: Optimizer,
    state: dict[str, Any],
    kept_back: Mapping[str, Tensor] | None = None,
    beside: Mapping[str, Tensor] | None = None,
) -> Checkpoint:
    """Put model, optimizer, torch's random generator and ``state`` (JSON-able) into a checkpoint.

    It is meant to be written at once: tensors are not copied where it can be helped, and so change with the model.

    Args:
        model, optimizer: of the run.
        state: what else there is.
        kept_back: tensors of the exchange of gradients: what compression has not sent yet.
        beside: tensors of whatever else there is.
    """
    tensors = {f"{_KEPT_BACK}{name}": tensor for name, tensor in (kept_back or {}).items()}
    beside = dict(beside or {})
    extra = {"extra": flatten(found, "extra state", beside)} if (found := extra_state(model)) else {}
    tensors |= {f"{BESIDE}{name}": tensor for name, tensor in beside.items()}
    tensors |= {f"{MODEL}{name}": tensor for name, tensor in model_tensors(model).items()}
    tensors[_GENERATOR] = torch.get_rng_state()
    if torch.cuda.is_available():
        tensors[_CUDA_GENERATOR] = torch.cuda.get_rng_state()
    scalars: dict[str, dict[str, Any]] = {}
    saved = optimizer.state_dict()
    for index, slots in saved["state"].items():
        for name, value in slots.items():
            if isinstance(value, Tensor):
                tensors[f"{OPTIMIZER}{index}/{name}"] = value
            else:
                scalars.setdefault(str(index), {})[name] = value
    groups = [{k: float(v) if isinstance(v, Tensor) else v for k, v in g.items()} for g in saved["param_groups"]]
    rest = {"run": state, "optimizer": {"param_groups": groups, "scalars": scalars}, **extra}
    return Checkpoint(_apart(tensors), rest)


def unpack(checkpoint: Checkpoint, model: nn.Module, optimizer: Optimizer) -> dict[str, Any]:
    """Restore model, optimizer and torch's random generator; return the state given to :func:`pack`.

    Raises:
        CheckpointError: the checkpoint is of another model or optimizer.
    """
    tensors, state = checkpoint.tensors, checkpoint.state
    groups, known = state["optimizer"]["param_groups"], optimizer.param_groups
    if len(groups) != len(known):
        raise CheckpointError(
            f"the checkpoint is of another optimizer, with {len(groups)} parameter groups where this one has "
            f"{len(known)}: groups that were added while training must be there before the run is resumed"
        )
    if [set(group) for group in groups] != [set(group) for group in optimizer.state_dict()["param_groups"]]:
        raise CheckpointError(
            f"the checkpoint is of another optimizer than {type(optimizer).__name__}: use the same one"
        )
    slots: dict[int, dict[str, Any]] = {int(i): dict(s) for i, s in state["optimizer"]["scalars"].items()}
    for name, tensor in tensors.items():
        if name.startswith(OPTIMIZER):
            index, slot = name.removeprefix(OPTIMIZER).split("/", 1)
            slots.setdefault(int(index), {})[slot] = tensor
    weights = {name.removeprefix(MODEL): t for name, t in tensors.items() if name.startswith(MODEL)}
    try:
        load_model(model, weights, unflatten(state["extra"], kept_beside(checkpoint)) if "extra" in state else {})
        optimizer.load_state_dict({"state": slots, "param_groups": groups})
    except (RuntimeError, ValueError, KeyError) as error:
        raise CheckpointError(f"the checkpoint is of another model or optimizer: {error}") from None
    if _GENERATOR in tensors:  # a device that is new has none
        torch.set_rng_state(tensors[_GENERATOR])
    if torch.cuda.is_available() and _CUDA_GENERATOR in tensors:
        torch.cuda.set_rng_state(tensors[_CUDA_GENERATOR])
    return dict(state["run"])


def model_part(
    tensors: Mapping[str, Tensor], metadata: Mapping[str, str]
) -> tuple[dict[str, Tensor], Any, dict[str, Tensor]]:
    """Return of a file's content the model alone: its tensors, its state that is no tensor, flattened, and what of
    that was one.

    Raises:
        CheckpointError: the state is not one.
    """
    try:
        extra = json.loads(metadata["state"]).get("extra")
    except (KeyError, AttributeError, ValueError, RecursionError) as error:
        raise CheckpointError(f"the checkpoint's state is not one ({error!r})") from None
    return _below(MODEL, tensors), extra, _below(BESIDE, tensors)


def kept_back(checkpoint: Checkpoint) -> dict[str, Tensor]:
    """Return the tensors of the exchange of gradients."""
    return _below(_KEPT_BACK, checkpoint.tensors)


def kept_beside(checkpoint: Checkpoint) -> dict[str, Tensor]:
    """Return the tensors of whatever else there is."""
    return _below(BESIDE, checkpoint.tensors)


def _below(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}


def own_copy(tensor: Tensor) -> Tensor:
    """Return a copy in memory of its own, which safetensors asks for (tied weights share theirs)."""
    return tensor.detach().to("cpu", copy=True).contiguous()


def _apart(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return tensors in memory and of their own memory, copied only where they share it."""
    apart: dict[str, Tensor] = {}
    taken: set[int] = set()
    for name, tensor in tensors.items():
        plain = tensor.detach().cpu().contiguous()
        memory = plain.untyped_storage()
        if memory.nbytes() != plain.nbytes or memory.data_ptr() in taken:
            plain = own_copy(plain)
        taken.add(plain.untyped_storage().data_ptr())
        apart[name] = plain
    return apart
