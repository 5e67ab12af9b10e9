"""Which network ``model`` names."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import nn

from scadles.errors import ConfigError
from scadles.importing import call_with, import_callable
from scadles.models.built_in import Nothing, autoencoder, cnn, mlp, resnet8
from scadles.models.from_torchvision import torchvision_network
from scadles.seeding import derive_seed

BUILT_IN: dict[str, Callable[..., nn.Module]] = {
    "mlp": mlp,
    "cnn": cnn,
    "resnet8": resnet8,
    "autoencoder": autoencoder,
}
NO_MODEL = "none"
_TORCHVISION = "torchvision"


def build_model(spec: str, shape: Any, classes: int, seed: int, *, outputs: int | None = None) -> nn.Module:
    """Return a network with initial weights that depend on ``seed`` alone.

    Args:
        spec: a built-in name, ``none`` (:class:`Nothing`), ``torchvision:NAME``, or ``MODULE:CALLABLE``; the callable
            is given ``shape``, ``outputs`` and ``classes`` where it has parameters of these names.
        shape: of one sample, without the batch dimension; of several parts by name, or in order.
        classes: how many there are; 0 where targets are no class labels, and nobody is given them.
        seed: of the run.
        outputs: values in an answer; None: one for each class.

    Raises:
        ConfigError: an unknown name, a module that cannot be imported, or something that makes no network or raises.
        MissingExtraError: torchvision is not installed.
    """
    if spec == NO_MODEL:
        return Nothing()
    make = BUILT_IN.get(spec) or _find(spec)
    offered: dict[str, Any] = {"shape": shape} | ({"classes": classes} if classes else {})
    offered["outputs"] = classes if outputs is None else outputs
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(derive_seed(seed, "model"))
        model = call_with("model", spec, make, offered)
    if not isinstance(model, nn.Module):
        raise ConfigError(f"model {spec!r} returned {type(model).__name__}, not a torch.nn.Module")
    return model


def _find(spec: str) -> Callable[..., Any]:
    module_name, _, name = spec.partition(":")
    if module_name == _TORCHVISION and name:
        return partial(torchvision_network, name)
    return import_callable("model", spec, [*BUILT_IN, NO_MODEL, f"{_TORCHVISION}:NAME"])
