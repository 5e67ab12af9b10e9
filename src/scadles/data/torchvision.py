"""The way to torchvision, for data sets and for networks; it is imported here and nowhere else."""

from __future__ import annotations

import importlib
from types import ModuleType

import torch

from scadles.errors import ConfigError, MissingExtraError


def import_torchvision(part: str, what: str) -> ModuleType:
    """Return a submodule of torchvision.

    Args:
        part: ``datasets`` or ``models``.
        what: what it is needed for, for the message where it is not installed.

    Raises:
        MissingExtraError: torchvision is not installed.
        ConfigError: it is, but not fit for this torch.
    """
    name = f"torchvision.{part}"
    try:
        return importlib.import_module(name)
    except ImportError:
        raise MissingExtraError(what, "vision") from None
    except RuntimeError as error:
        if "torchvision::" not in str(error):
            raise ConfigError(f"torchvision cannot be imported: {error}; install the build that fits torch") from None
    _define_missing_operators()
    return importlib.import_module(name)


def _define_missing_operators() -> None:
    """Declare two operators of which torchvision's import describes the shapes, whether or not it could load them.

    Some wheels cannot load their compiled operators beside a torch built otherwise. Neither data sets nor networks
    that classify pictures need them.
    """
    for operator in ("nms", "qnms"):
        if not hasattr(torch.ops.torchvision, operator):
            torch.library.define(
                f"torchvision::{operator}", "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor"
            )
