"""Checkpoints: everything a device needs to go on, in one file that is there whole or not at all.

Each device writes its own, because devices share no disk; all write at the same step. A run resumes from the newest
step that all of them have, which is at most one checkpoint old.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.optim import Optimizer

from scadles.errors import CheckpointError, RunError
from scadles.fabric import Fabric

FORMAT = 4
_MODEL, _OPTIMIZER, _KEPT_BACK = "model/", "optimizer/", "exchange/"
_GENERATOR, _CUDA_GENERATOR = "generator/torch", "generator/cuda"


class Checkpoint(NamedTuple):
    """Tensors by name, and what else there is as JSON."""

    tensors: dict[str, Tensor]
    state: dict[str, Any]


class CheckpointStore:
    """The checkpoints of one device: ``checkpoints/device-<i>/step-<k>.safetensors`` in the run folder.

    Args:
        run_dir: the run folder.
        device: its number.
        keep: how many of the newest to keep.
    """

    def __init__(self, run_dir: Path, device: int, keep: int) -> None:
        self.folder = run_dir / "checkpoints" / f"device-{device}"
        self._keep = keep

    def steps(self) -> list[int]:
        """Return the steps there are checkpoints of, ascending."""
        return sorted(int(path.stem.removeprefix("step-")) for path in self.folder.glob("step-*.safetensors"))

    def write(self, step: int, checkpoint: Checkpoint) -> None:
        """Write a checkpoint atomically: a crash leaves the ones before it, and this one whole or not at all.

        Raises:
            RunError: the disk is full or cannot be written to; older checkpoints stay.
        """
        target = self._path(step)
        temporary = target.with_suffix(".tmp")
        metadata = {"format": str(FORMAT), "state": json.dumps(checkpoint.state)}
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            save_file(checkpoint.tensors, temporary, metadata)
            _sync(temporary)
            temporary.replace(target)
            _sync(self.folder)
        except (OSError, SafetensorError) as error:
            temporary.unlink(missing_ok=True)
            raise RunError(f"cannot write the checkpoint {target}: {error}; free some space and use --resume") from None
        for old in self.steps()[: -self._keep]:
            self._path(old).unlink(missing_ok=True)

    def read(self, step: int) -> Checkpoint:
        """Read a checkpoint.

        Raises:
            CheckpointError: it is missing, torn, or of a format this version cannot read.
        """
        path = self._path(step)
        try:
            with safe_open(path, framework="pt") as file:
                metadata = file.metadata() or {}
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            state = json.loads(metadata["state"])
        except (OSError, SafetensorError, KeyError, ValueError) as error:
            raise CheckpointError(f"{path} is no checkpoint that can be read: {error}") from None
        if metadata.get("format") != str(FORMAT):
            raise CheckpointError(f"{path} has format {metadata.get('format')}, this version reads {FORMAT}")
        return Checkpoint(tensors, state)

    def newest_common(self, fabric: Fabric) -> int | None:
        """Return the newest step that every device has a checkpoint of; None where there is none."""
        mine = self.steps()[-self._keep :]
        padded = torch.tensor([-1] * (self._keep - len(mine)) + mine)
        everybody = fabric.gather(padded, "agreeing on a checkpoint")
        common = set.intersection(*(set(row.tolist()) for row in everybody)) - {-1}
        return max(common, default=None)

    def discard_after(self, step: int) -> None:
        """Delete what is newer than ``step`` or was never finished; the resumed run will write it anew."""
        for torn in self.folder.glob("*.tmp"):
            torn.unlink()
        for newer in self.steps():
            if newer > step:
                self._path(newer).unlink()

    def _path(self, step: int) -> Path:
        return self.folder / f"step-{step:08d}.safetensors"


def pack(
    model: nn.Module, optimizer: Optimizer, state: dict[str, Any], kept_back: Mapping[str, Tensor] | None = None
) -> Checkpoint:
    """Put model, optimizer, torch's random generator and ``state`` (JSON-able) into a checkpoint.

    Args:
        model, optimizer: of the run.
        state: what else there is.
        kept_back: tensors of the exchange of gradients: what compression has not sent yet.
    """
    tensors = {f"{_KEPT_BACK}{name}": own_copy(tensor) for name, tensor in (kept_back or {}).items()}
    tensors |= {f"{_MODEL}{name}": own_copy(tensor) for name, tensor in model.state_dict().items()}
    tensors[_GENERATOR] = torch.get_rng_state()
    if torch.cuda.is_available():
        tensors[_CUDA_GENERATOR] = torch.cuda.get_rng_state()
    scalars: dict[str, dict[str, Any]] = {}
    saved = optimizer.state_dict()
    for index, slots in saved["state"].items():
        for name, value in slots.items():
            if isinstance(value, Tensor):
                tensors[f"{_OPTIMIZER}{index}/{name}"] = own_copy(value)
            else:
                scalars.setdefault(str(index), {})[name] = value
    return Checkpoint(tensors, {"run": state, "optimizer": {"param_groups": saved["param_groups"], "scalars": scalars}})


def unpack(checkpoint: Checkpoint, model: nn.Module, optimizer: Optimizer) -> dict[str, Any]:
    """Restore model, optimizer and torch's random generator; return the state given to :func:`pack`.

    Raises:
        CheckpointError: the checkpoint is of another model or optimizer.
    """
    tensors, state = checkpoint
    groups = state["optimizer"]["param_groups"]
    if [set(group) for group in groups] != [set(group) for group in optimizer.state_dict()["param_groups"]]:
        raise CheckpointError(
            f"the checkpoint is of another optimizer than {type(optimizer).__name__}: use the same one"
        )
    slots: dict[int, dict[str, Any]] = {int(i): dict(s) for i, s in state["optimizer"]["scalars"].items()}
    for name, tensor in tensors.items():
        if name.startswith(_OPTIMIZER):
            index, slot = name.removeprefix(_OPTIMIZER).split("/", 1)
            slots.setdefault(int(index), {})[slot] = tensor
    weights = {name.removeprefix(_MODEL): t for name, t in tensors.items() if name.startswith(_MODEL)}
    try:
        model.load_state_dict(weights)
        optimizer.load_state_dict({"state": slots, "param_groups": groups})
    except (RuntimeError, ValueError, KeyError) as error:
        raise CheckpointError(f"the checkpoint is of another model or optimizer: {error}") from None
    torch.set_rng_state(tensors[_GENERATOR])
    if torch.cuda.is_available() and _CUDA_GENERATOR in tensors:
        torch.cuda.set_rng_state(tensors[_CUDA_GENERATOR])
    return dict(state["run"])


def kept_back(checkpoint: Checkpoint) -> dict[str, Tensor]:
    """Return the tensors of the exchange of gradients."""
    found = checkpoint.tensors.items()
    return {name.removeprefix(_KEPT_BACK): tensor for name, tensor in found if name.startswith(_KEPT_BACK)}


def own_copy(tensor: Tensor) -> Tensor:
    """Return a copy in memory of its own, which safetensors asks for (tied weights share theirs)."""
    return tensor.detach().to("cpu", copy=True).contiguous()


def _sync(path: Path) -> None:
    """Make sure that what was written to a file or folder is on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
