"""The built-in networks, small enough for a CPU, and the user's own by ``MODULE:CALLABLE``."""

from __future__ import annotations

import importlib
import inspect
import sys
from collections.abc import Callable, Collection
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from torch import nn

from scadles.errors import ConfigError
from scadles.seeding import derive_seed


def mlp(shape: tuple[int, ...], classes: int) -> nn.Module:
    """One hidden layer of 64."""
    inputs = int(torch.Size(shape).numel())
    return nn.Sequential(nn.Flatten(), nn.Linear(inputs, 64), nn.ReLU(), nn.Linear(64, classes))


def cnn(shape: tuple[int, ...], classes: int) -> nn.Module:
    """Three convolutions with BatchNorm, for images of at least 8 x 8."""
    channels = [shape[0], 16, 32, 64]
    layers: list[nn.Module] = []
    for i, (inputs, outputs) in enumerate(pairwise(channels)):
        layers += [
            nn.Conv2d(inputs, outputs, 3, stride=1 if i == 0 else 2, padding=1, bias=False),
            nn.BatchNorm2d(outputs),
            nn.ReLU(),
        ]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(4 * channels[-1], classes))


class Nothing(nn.Module):
    """A network for a simulated cluster that learns nothing: one parameter and no outputs."""

    def __init__(self) -> None:
        super().__init__()
        self.unused = nn.Parameter(torch.zeros(1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        raise ConfigError("model = none learns nothing: it is for scadles simulate; choose mlp or cnn")


BUILT_IN: dict[str, Callable[..., nn.Module]] = {"mlp": mlp, "cnn": cnn}
NO_MODEL = "none"


def build_model(spec: str, shape: tuple[int, ...], classes: int, seed: int) -> nn.Module:
    """Return a network with initial weights that depend on ``seed`` alone.

    Args:
        spec: a built-in name, ``none`` (:class:`Nothing`), or ``MODULE:CALLABLE``; the callable is given ``shape`` and
            ``classes`` where it has parameters of these names.
        shape: of one sample, without the batch dimension.
        classes: outputs.

    Raises:
        ConfigError: an unknown name, a module that cannot be imported, or something that makes no network.
    """
    if spec == NO_MODEL:
        return Nothing()
    make = BUILT_IN.get(spec) or _import(spec)
    offered = {"shape": shape, "classes": classes}
    wanted = _parameters(spec, make, offered)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(derive_seed(seed, "model"))
        model = make(**{name: value for name, value in offered.items() if name in wanted})
    if not isinstance(model, nn.Module):
        raise ConfigError(f"model {spec!r} returned {type(model).__name__}, not a torch.nn.Module")
    return model


def _parameters(spec: str, make: Callable[..., Any], offered: Collection[str]) -> Collection[str]:
    """Return the names of what ``make`` takes; refuse it where it needs more than is ``offered``."""
    try:
        parameters = inspect.signature(make).parameters
    except ValueError:  # written in C and silent about it
        return ()
    optional = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    needed = [p.name for p in parameters.values() if p.default is p.empty and p.kind not in optional]
    missing = [name for name in needed if name not in offered]
    if missing:
        raise ConfigError(
            f"model {spec!r} needs {', '.join(missing)}, which nobody gives it: only {' and '.join(offered)} are "
            "offered; write a function of these that makes it"
        )
    return parameters


def _import(spec: str) -> Callable[..., Any]:
    module_name, colon, name = spec.partition(":")
    if not colon or not module_name or not name:
        raise ConfigError(f"model {spec!r}: there are {', '.join(BUILT_IN)}, or write your own as MODULE:CALLABLE")
    here = str(Path.cwd())
    if here not in sys.path:  # a console script does not look into the current folder by itself
        sys.path.insert(0, here)
    try:
        found = getattr(importlib.import_module(module_name), name)
    except ImportError as error:
        raise ConfigError(f"model {spec!r}: cannot import {module_name!r}: {error}") from None
    except AttributeError:
        raise ConfigError(f"model {spec!r}: module {module_name!r} has no {name!r}") from None
    if not callable(found):
        raise ConfigError(f"model {spec!r}: {name!r} is {type(found).__name__}, not something to call")
    return found  # type: ignore[no-any-return]
