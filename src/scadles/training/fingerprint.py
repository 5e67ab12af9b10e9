"""Proof that all devices hold the same model."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from scadles.device.managed import plain_names
from scadles.errors import DivergedError
from scadles.fabric import Fabric
from scadles.training.portable import model_tensors

_SHA256_BYTES = 32


def fingerprint(model: nn.Module, *, buffers: bool = True) -> str:
    """Return the SHA-256 of names, types, shapes and values of a model's parameters and (if wanted) buffers."""
    return digest(model_tensors(model) if buffers else plain_names(dict(model.named_parameters())))


def agree(
    mine: str,
    fabric: Fabric,
    phase: str,
    tensors: Mapping[str, Tensor] | None = None,
    *,
    resumed_from: int | None = None,
    beside: bytes = b"",
) -> list[bytes]:
    """Compare fingerprints over all devices; return what each of them has to say ``beside``.

    Args:
        mine: this device's.
        fabric: what connects the devices.
        phase: when, for the message.
        tensors: what it was made of, to be looked through where devices differ.
        beside: travels in the same message, as long on all devices.
        resumed_from: the step that the run was resumed from; None where it was not.

    Raises:
        DivergedError: they differ; names the devices in the minority, and the first tensors that differ.
    """
    votes, others, said, common = _votes(mine, fabric, phase, beside)
    if not others:
        if mine != common:  # of one that follows
            raise DivergedError(f"{phase}: this device has followed the others, and come to another model than theirs")
        return said
    which, where = "", "their parameters were changed outside device.step(), or the exchange is broken"
    if tensors is not None:
        differing = [name for name in sorted(tensors) if _votes(digest({name: tensors[name]}), fabric, phase)[1]]
        which = f" in {', '.join(differing[:3])}{f' and {len(differing) - 3} more' if len(differing) > 3 else ''}"
        where = _PARAMETERS if any(isinstance(tensors[name], nn.Parameter) for name in differing) else _BUFFERS
    again = ""
    if resumed_from is not None:
        again = (
            f". This run was resumed from step {resumed_from}, and would come to the same again: mend the loop, or "
            f"delete step-{resumed_from:08d}.safetensors of all devices to go on from the checkpoint before"
        )
    raise DivergedError(
        f"{phase}: devices {others} hold another model than the other {votes}{which}; {where}{again}",
        resumable=resumed_from is None,
    )


_PARAMETERS = (
    "parameters were changed outside device.step(), by the loop (which is not called where a batch is empty: use "
    "device.on_step) or by an optimizer that differs, or the exchange is broken"
)
_BUFFERS = (
    "these are buffers, which something other than the passes of device.step() has changed: do so in device.on_step, "
    "alike on all devices"
)


def digest(tensors: Mapping[str, Tensor]) -> str:
    """Return the SHA-256 of names, types, shapes and values of tensors."""
    made = hashlib.sha256()
    for name in sorted(tensors):
        tensor = tensors[name].detach().cpu().contiguous()
        made.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        made.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return made.hexdigest()


def _votes(mine: str, fabric: Fabric, phase: str, beside: bytes = b"") -> tuple[int, list[int], list[bytes], str]:
    """Return how many have the most frequent fingerprint, who has another, what all say beside, and the former."""
    everybody = fabric.gather(torch.tensor(list(bytes.fromhex(mine) + beside), dtype=torch.uint8), phase)
    rows = [bytes(row.tolist()) for row in everybody]
    prints = {device: rows[device][:_SHA256_BYTES] for device in fabric.present}
    common, votes = Counter(prints.values()).most_common(1)[0]
    others = [device for device, other in prints.items() if other != common]
    return votes, others, [row[_SHA256_BYTES:] for row in rows], common.hex()
