"""A model that starts from what another one has learnt: values from a file, checked before memory is taken."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from scadles.errors import CheckpointError, ConfigError
from scadles.fabric import Fabric
from scadles.files import open_file
from scadles.training.checkpoint import checkpoint_files
from scadles.training.checkpoint_file import DTYPES, read_file, read_metadata
from scadles.training.fingerprint import fingerprint
from scadles.training.identity import gather_texts
from scadles.training.packing import model_part
from scadles.training.portable import extra_state, load_model, model_tensors, tensor_names, unflatten

MODEL_FILE = "model.safetensors"
_MOST_NAMED = 3
WAY_OUT = "name a model.safetensors, or the folder of a run"


class Origin(NamedTuple):
    """Where a model's first values come from.

    Attributes:
        path: the file.
        sha256: the fingerprint of the model that it makes, whatever the file is called.
        tensors: how many there are.
    """

    path: str
    sha256: str
    tensors: int


def start_from(path: Path, model: nn.Module, fabric: Fabric) -> Origin:
    """Give device 0's model the values at ``path``, which the start then gives to all; other devices read nothing.

    Raises:
        ConfigError: device 0 cannot; all devices raise it.
    """
    origin, problem = Origin(str(path), "", 0), ""
    if fabric.rank == 0:
        try:
            origin = take_values(path, model)
        except ConfigError as error:
            problem = str(error)
    if problem := gather_texts(problem, fabric, "reading init_from")[0]:
        raise ConfigError(problem)
    return origin


def own_start(path: Path, model: nn.Module) -> Origin | None:
    """Give a device's model the values at ``path``, where they are on this device; None where they are not.

    Raises:
        ConfigError: what is there cannot be used.
    """
    try:
        is_here = path.exists()
    except OSError:
        is_here = True
    return take_values(path, model) if is_here else None


def take_values(path: Path, model: nn.Module) -> Origin:
    """Give a model the values in a file: all of its parameters and buffers, and nothing of an optimizer.

    Args:
        path: a ``model.safetensors``, a checkpoint, or a run's folder, of which the final model counts, and where the
            run has not ended the newest checkpoint that is whole.
        model: takes them; its names, shapes and types must be those of the file.

    Raises:
        ConfigError: there is no such file, it is half or foreign, or of another model.
    """
    try:
        if not path.is_dir():
            return _take_file(path, model)
        return _take_file(path / MODEL_FILE, model) if (path / MODEL_FILE).exists() else _take_newest(path, model)
    except OSError as error:
        raise ConfigError(f"init_from = {path}: {error.strerror or error}; {WAY_OUT}") from None


def _take_newest(run_dir: Path, model: nn.Module) -> Origin:
    """Take the newest checkpoint of any device that is whole."""
    refused = ""
    for path in checkpoint_files(run_dir):
        try:
            return _take(path, model, *model_part(*read_file(path)))
        except CheckpointError as error:
            refused = refused or str(error)
    why = f"none of its checkpoints is whole ({refused})" if refused else "holds neither a model nor a checkpoint"
    raise ConfigError(f"init_from = {run_dir}: {why}; {WAY_OUT}")


def _take_file(path: Path, model: nn.Module) -> Origin:
    open_file(path).close()  # what is no file is not waited for
    if "state" in read_metadata(path):
        try:
            return _take(path, model, *model_part(*read_file(path)))
        except CheckpointError as error:
            raise ConfigError(f"init_from = {path}: {error}; {WAY_OUT}") from None
    try:
        with safe_open(path, framework="pt") as file:
            extra = json.loads((file.metadata() or {}).get("extra_state", "null"))
            apart = tensor_names(extra)
            slices = {name: file.get_slice(name) for name in file.keys() if name not in apart}  # noqa: SIM118
            _check(path, model, {n: (DTYPES.get(s.get_dtype()), tuple(s.get_shape())) for n, s in slices.items()})
            values, beside = ({name: file.get_tensor(name) for name in names} for names in (slices, apart))
    except (SafetensorError, ValueError, KeyError, TypeError, RecursionError) as error:
        problem = f"init_from = {path}: it is no safetensors file, or half of one ({error}); {WAY_OUT}"
        raise ConfigError(problem) from None
    return _take(path, model, values, extra, beside)


def _take(
    path: Path, model: nn.Module, values: Mapping[str, Tensor], extra: Any, beside: Mapping[str, Tensor]
) -> Origin:
    """Load a model's tensors, and where there is more of its state that as well."""
    _check(path, model, {name: (tensor.dtype, tuple(tensor.shape)) for name, tensor in values.items()})
    try:
        load_model(model, values, extra_state(model) | (unflatten(extra, beside) if extra else {}))
    except (RuntimeError, ValueError, KeyError, TypeError) as error:
        raise ConfigError(f"init_from = {path}: its extra state is not one of this model: {error}") from None
    return Origin(str(path), fingerprint(model), len(values))


_Found = Mapping[str, tuple[torch.dtype | None, tuple[int, ...]]]


def _check(path: Path, model: nn.Module, found: _Found) -> None:
    """Raise ConfigError where these are not the names, shapes and types of the model's tensors."""
    wanted = {name: (tensor.dtype, tuple(tensor.shape)) for name, tensor in model_tensors(model).items()}
    lacking, foreign = sorted(wanted.keys() - found.keys()), sorted(found.keys() - wanted.keys())
    if lacking or foreign:
        parts = [f"lacks {_listed(lacking)}"] * bool(lacking) + [f"has {_listed(foreign)} besides"] * bool(foreign)
        raise ConfigError(
            f"init_from = {path} is of another model: it {' and '.join(parts)}; set model and normalization to what "
            "it was trained with"
        )
    for place, what, way_out in ((1, "shape", "data set"), (0, "type", "number type")):
        other = [
            f"{name} ({_shown(found[name][place])} there, {_shown(wanted[name][place])} here)"
            for name in sorted(wanted)
            if found[name][place] != wanted[name][place]
        ]
        if other:
            raise ConfigError(
                f"init_from = {path} differs from the model in the {what} of {_listed(other)}: give it the model and "
                f"the {way_out} that it was trained with"
            )


def _shown(value: object) -> str:
    return str(list(value) if isinstance(value, tuple) else value).removeprefix("torch.")


def _listed(names: list[str]) -> str:
    more = f" and {len(names) - _MOST_NAMED} more" if len(names) > _MOST_NAMED else ""
    return ", ".join(names[:_MOST_NAMED]) + more
