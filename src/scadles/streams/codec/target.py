"""Targets that are no class labels, as messages hold them."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from scadles.errors import ConfigError
from scadles.streams.codec.labels import integer_label
from scadles.streams.codec.sample import UnreadableError
from scadles.targets import TargetType


def read_target(target: TargetType, y: object) -> int | Tensor:
    """Return what a message holds as a target; an integer where targets are class labels."""
    if target.is_label:
        return integer_label(y)
    if target.is_none:
        return torch.empty(target.shape, dtype=target.dtype)
    if target.parts:
        return _read_parts(target, y)
    try:
        found = torch.as_tensor(y)
    except (TypeError, ValueError, RuntimeError):
        raise UnreadableError("the target is no array of numbers") from None
    if reason := target.misfit(tuple(found.shape), found.dtype):
        raise UnreadableError(reason)
    return found.to(target.dtype) if not target.classes else within(target, found)


def _read_parts(target: TargetType, y: object) -> Tensor:
    layout = target.layout
    try:
        found = layout.values(y)
    except ValueError as error:
        raise UnreadableError(f"target: {error}") from None
    parts = []
    for (name, part), value in zip(target.parts, found, strict=True):
        try:
            parts.append(torch.as_tensor(read_target(part, value)).to(part.dtype)[None])
        except UnreadableError as error:
            raise UnreadableError(f"part {name}: {error}") from None
    return layout.pack(layout.structure(parts))[0]


def target_nbytes(target: TargetType) -> int:
    """Return how many bytes a target's numbers take in a message."""
    return target.layout.packed_nbytes if target.parts else target.nbytes


def target_bytes(target: TargetType, y: int | Tensor) -> bytes:
    """Return a target's numbers, little-endian, those of several parts one after the other."""
    checked = check_target(target, y)
    return target.layout.packed_of(checked) if target.parts else checked.numpy().tobytes()


def within(target: TargetType, y: Tensor) -> Tensor:
    """Return integers in the target's dtype, if they fit it; whether they are classes, somebody else looks."""
    limits = torch.iinfo(target.dtype)
    if y.numel() and not limits.min <= int(y.min()) <= int(y.max()) <= limits.max:
        raise UnreadableError(f"a target with values outside 0 to {target.classes - 1}")
    return y.to(target.dtype)


def stack_targets(target: TargetType, found: list[int | Tensor]) -> Tensor:
    """Return the targets of some messages, ``[n, *shape]``."""
    if target.is_label:
        return torch.tensor(found, dtype=target.dtype)
    tensors = [y for y in found if isinstance(y, Tensor)]
    return torch.stack(tensors) if tensors else torch.empty((0, *target.shape), dtype=target.dtype)


def view_targets(target: TargetType, rows: np.ndarray) -> Tensor:
    """Return targets ``[n, *shape]`` from their bytes, uint8 ``[n, target_nbytes(target)]``, little-endian."""
    if target.parts:
        return target.layout.rows_of(np.ascontiguousarray(rows))
    if target.is_none:
        return torch.empty((len(rows), *target.shape), dtype=target.dtype)
    flat = torch.from_numpy(np.ascontiguousarray(rows).reshape(-1))
    return flat.view(target.dtype).view(len(rows), *target.shape)


def check_target(target: TargetType, y: int | Tensor) -> Tensor:
    """Return a target that is to be sent, contiguous and in its type.

    Raises:
        ConfigError: it has another shape or dtype.
    """
    found = torch.as_tensor(y)
    if reason := target.misfit(tuple(found.shape), found.dtype):
        raise ConfigError(f"a {reason}: it does not fit what the task reads")
    return found.detach().to("cpu", target.dtype).contiguous()
