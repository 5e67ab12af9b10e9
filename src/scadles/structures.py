"""What a model takes and says: a tensor, or a dictionary or sequence of tensors, and what is done with all alike."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

#: A tensor ``[n, ...]``, or a dictionary or tuple of such tensors with one ``n``.
Structure = Any


def map_tensors(function: Callable[[Tensor], Any], x: Structure) -> Any:
    """Return a structure like ``x``, with what ``function`` makes of each tensor.

    >>> map_tensors(len, {"a": torch.zeros(3, 2), "b": torch.ones(3)})
    {'a': 3, 'b': 3}
    """
    if isinstance(x, Tensor):
        return function(x)
    if isinstance(x, Mapping):
        return {name: map_tensors(function, part) for name, part in x.items()}
    return tuple(map_tensors(function, part) for part in x)


def tensors_in(x: Any) -> list[Tensor]:
    """Return all tensors in a structure, or in whatever else a model says."""
    if isinstance(x, Tensor):
        return [x]
    parts: Iterable[Any] = x.values() if isinstance(x, Mapping) else x if isinstance(x, list | tuple) else ()
    return [tensor for part in parts for tensor in tensors_in(part)]


def count(x: Structure) -> int:
    """Return how many samples there are."""
    return len(x) if isinstance(x, Tensor) else len(tensors_in(x)[0])


def pick(x: Structure, rows: Any) -> Structure:
    """Return some of the samples: a slice, or whatever else a tensor's first dimension may be indexed by."""
    return x[rows] if isinstance(x, Tensor) else map_tensors(lambda part: part[rows], x)


def to_torch_device(x: Structure, torch_device: torch.device) -> Structure:
    """Return the same on a torch device."""
    return x.to(torch_device) if isinstance(x, Tensor) else map_tensors(lambda part: part.to(torch_device), x)


def concatenate(structures: Sequence[Structure]) -> Structure:
    """Return the samples of several structures of one form, one after the other."""
    first = structures[0]
    if isinstance(first, Tensor):
        return torch.cat(list(structures))
    if isinstance(first, Mapping):
        return {name: concatenate([part[name] for part in structures]) for name in first}
    return tuple(concatenate(parts) for parts in zip(*structures, strict=True))


def answer(model: Callable[..., Any], x: Structure) -> Any:
    """Return what a model says of samples, which it is given by name or in order where they have several parts.

    >>> answer(lambda a, b: a + b, {"b": torch.ones(1), "a": torch.zeros(1)})
    tensor([1.])
    """
    args, kwargs = arguments(x)
    return model(*args, **kwargs)


def arguments(x: Structure) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Return what a model is given, in order and by name."""
    if isinstance(x, Tensor):
        return (x,), {}
    return ((), dict(x)) if isinstance(x, Mapping) else (tuple(x), {})


def shapes_in_words(x: Any) -> str:
    """Return the shapes in a structure, for messages.

    >>> shapes_in_words({"a": torch.zeros(3, 2), "b": torch.ones(3)})
    'a [3, 2], b [3]'
    """
    if isinstance(x, Tensor):
        return str(list(x.shape))
    if isinstance(x, Mapping):
        return ", ".join(f"{name} {shapes_in_words(part)}" for name, part in x.items())
    if isinstance(x, list | tuple):
        return ", ".join(shapes_in_words(part) for part in x)
    return type(x).__name__
