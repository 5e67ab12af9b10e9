"""Proof that all devices hold the same model."""

from __future__ import annotations

import hashlib
from collections import Counter

import torch
from torch import Tensor, nn

from scadles.device.managed import plain_names
from scadles.errors import DivergedError
from scadles.fabric import Fabric
from scadles.training.portable import model_tensors


def fingerprint(model: nn.Module, *, buffers: bool = True) -> str:
    """Return the SHA-256 of names, types, shapes and values of a model's parameters and (if wanted) buffers."""
    digest = hashlib.sha256()
    tensors: dict[str, Tensor] = model_tensors(model) if buffers else plain_names(dict(model.named_parameters()))
    for name in sorted(tensors):
        tensor = tensors[name].detach().cpu().contiguous()
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def agree(mine: str, fabric: Fabric, phase: str, *, resumed_from: int | None = None) -> None:
    """Compare fingerprints over all devices.

    Args:
        mine: this device's.
        fabric: what connects the devices.
        phase: when, for the message.
        resumed_from: the step that the run was resumed from; None where it was not.

    Raises:
        DivergedError: they differ; names the devices in the minority.
    """
    everybody = fabric.gather(torch.tensor(list(bytes.fromhex(mine)), dtype=torch.uint8), phase)
    prints = [bytes(row.tolist()).hex() for row in everybody]
    common, votes = Counter(prints).most_common(1)[0]
    if votes < fabric.size:
        others = [device for device, other in enumerate(prints) if other != common]
        again = ""
        if resumed_from is not None:
            again = (
                f". This run was resumed from step {resumed_from}, and would come to the same again: mend the loop, or "
                f"delete step-{resumed_from:08d}.safetensors of all devices to go on from the checkpoint before"
            )
        raise DivergedError(
            f"{phase}: devices {others} hold another model than the other {votes}; their parameters were changed "
            f"outside device.step(), or the exchange is broken{again}",
            resumable=resumed_from is None,
        )
