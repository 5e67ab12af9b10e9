"""What becomes of raw samples before a model, and of its answers behind it: in words that a file can hold."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from scadles.errors import ConfigError

if TYPE_CHECKING:
    from typing_extensions import Self

#: In the metadata of a model's file.
KEY = "preparation"
Structure = Any
Values = float | Sequence[Any]


class Scale(NamedTuple):
    """Numbers less their mean, divided by their deviation.

    Attributes:
        mean: of each number of a sample, or along the dimension behind that of samples; None leaves numbers as they
            are.
        deviation: likewise.
        becomes: the dtype that they are computed and given in.
    """

    mean: Values | None = None
    deviation: Values | None = None
    becomes: str = "float32"

    def there(self, x: Tensor) -> Tensor:
        """Return raw numbers ``[n, ...]`` as a model takes them."""
        x = x.to(getattr(torch, self.becomes))
        return x if self.mean is None else (x - self._spread(self.mean, x)) / self._spread(self.deviation, x)

    def back(self, x: Tensor) -> Tensor:
        """Return what a model says ``[n, ...]`` in the units of the targets."""
        return x if self.mean is None else x * self._spread(self.deviation, x) + self._spread(self.mean, x)

    @staticmethod
    def _spread(values: Values | None, x: Tensor) -> Tensor:
        tensor = torch.tensor(values, dtype=x.dtype, device=x.device)
        if tensor.numel() == math.prod(x.shape[1:]):
            return tensor.reshape(x.shape[1:])
        return tensor.reshape(tensor.shape + (1,) * (x.dim() - 1 - tensor.dim()))


class Preparation:
    """How a model is used outside of the run that made it: what its samples and its answers go through.

    The model's file says it in its metadata::

        preparation = scadles.Preparation.of("runs/a/model.safetensors")
        said = model(preparation.samples(raw))            # raw samples [n, ...], as the stream brings them
        answers = preparation.answers(said)               # numbers in the units of the targets, scores as they are

    Args:
        of_samples: what becomes of samples, of each part by name where they have several.
        of_answers: what became of the targets, which is undone, likewise.

    >>> preparation = Preparation(Scale([10.0], [2.0]), Scale([100.0], [5.0]))
    >>> preparation.samples(torch.tensor([[12.0]])), preparation.answers(torch.tensor([[1.0]]))
    (tensor([[1.]]), tensor([[105.]]))
    """

    def __init__(self, of_samples: Scale | Mapping[str, Scale], of_answers: Scale | Mapping[str, Scale]) -> None:
        self._samples = of_samples
        self._answers = of_answers

    @classmethod
    def of(cls, path: Path | str) -> Self:
        """Return what a model's file says.

        Raises:
            ConfigError: there is no such file, or it says nothing of it.
        """
        try:
            with safe_open(path, framework="pt") as file:
                said = json.loads((file.metadata() or {})[KEY])
            return cls(*(_read(said[name]) for name in ("samples", "answers")))
        except (OSError, SafetensorError, KeyError, TypeError, ValueError) as error:
            raise ConfigError(
                f"{path} does not say how samples are prepared ({type(error).__name__}); name a model.safetensors that "
                "a run has written"
            ) from None

    def with_samples(self, of_samples: Scale | Mapping[str, Scale]) -> Preparation:
        """Return the same with other samples."""
        return Preparation(of_samples, self._answers)

    def to_json(self) -> str:
        """Return it as text."""
        return json.dumps({"samples": _written(self._samples), "answers": _written(self._answers)})

    def samples(self, raw: Structure) -> Structure:
        """Return raw samples ``[n, ...]``, or their parts by name or in order, as the model takes them.

        Raises:
            ConfigError: these are not the parts, or not the channels or features, that the model was trained on.
        """
        if isinstance(self._samples, Scale):
            if isinstance(raw, Mapping):
                raise ConfigError(f"raw samples have the parts {', '.join(raw)}, expected one tensor [n, ...]")
            return _prepared("raw samples", self._samples, raw)
        parts = dict(zip(map(str, range(len(raw))), raw, strict=True)) if isinstance(raw, tuple | list) else raw
        if not isinstance(parts, Mapping) or set(parts) != set(self._samples):
            found = (
                f"have the parts {', '.join(parts)}" if isinstance(parts, Mapping) else f"are one {type(raw).__name__}"
            )
            raise ConfigError(f"raw samples {found}, expected the parts {', '.join(self._samples)}, each [n, ...]")
        prepared = {name: _prepared(f"raw samples of part {name}", self._samples[name], x) for name, x in parts.items()}
        return prepared if parts is raw else tuple(prepared.values())

    def answers(self, said: Structure) -> Structure:
        """Return what the model says in the units of the targets; what they do not cover is left as it is."""
        return _each(self._answers, said, lambda scale, x: scale.back(x))


def _prepared(what: str, scale: Scale, raw: Any) -> Tensor:
    x = torch.as_tensor(raw)
    mean = torch.tensor(0.0 if scale.mean is None else scale.mean)
    if mean.numel() not in (1, math.prod(x.shape[1:])) and mean.shape != x.shape[1 : 1 + mean.dim()]:
        trained = ", ".join(map(str, mean.shape))
        raise ConfigError(
            f"{what} have shape {list(x.shape)}, expected [n, {trained}] or [n, {trained}, ...] as trained on"
        )
    return scale.there(x)


def _each(scales: Scale | Mapping[str, Scale], x: Structure, use: Any) -> Structure:
    if isinstance(scales, Scale):
        return use(scales, x) if isinstance(x, Tensor) else x
    if isinstance(x, Mapping):
        return {name: use(scales[name], part) if name in scales else part for name, part in x.items()}
    return tuple(use(scales[str(i)], part) if str(i) in scales else part for i, part in enumerate(x))


def _written(scales: Scale | Mapping[str, Scale]) -> Any:
    return scales._asdict() if isinstance(scales, Scale) else {"parts": {n: s._asdict() for n, s in scales.items()}}


def _read(said: Mapping[str, Any]) -> Scale | dict[str, Scale]:
    parts = said.get("parts")
    return Scale(**said) if parts is None else {name: Scale(**scale) for name, scale in parts.items()}
