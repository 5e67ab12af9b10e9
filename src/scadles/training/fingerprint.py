"""Proof that all devices hold the same model."""

from __future__ import annotations

import hashlib
from collections import Counter

import torch
from torch import Tensor, nn

from scadles.errors import DivergedError
from scadles.fabric import Fabric


def fingerprint(model: nn.Module, *, buffers: bool = True) -> str:
    """Return the SHA-256 of names, types, shapes and values of a model's parameters and (if wanted) buffers."""
    digest = hashlib.sha256()
    tensors: dict[str, Tensor] = dict(model.state_dict()) if buffers else dict(model.named_parameters())
    for name in sorted(tensors):
        tensor = tensors[name].detach().cpu().contiguous()
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def agree(mine: str, fabric: Fabric, phase: str) -> None:
    """Compare fingerprints over all devices.

    Raises:
        DivergedError: they differ; names the devices in the minority.
    """
    everybody = fabric.gather(torch.tensor(list(bytes.fromhex(mine)), dtype=torch.uint8), phase)
    prints = [bytes(row.tolist()).hex() for row in everybody]
    common, votes = Counter(prints).most_common(1)[0]
    if votes < fabric.size:
        others = [device for device, other in enumerate(prints) if other != common]
        raise DivergedError(
            f"{phase}: devices {others} hold another model than the other {votes}; their parameters were changed "
            "outside device.step(), or the exchange is broken"
        )
