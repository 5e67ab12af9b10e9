"""The kinds of tasks that have names: their targets, losses and metrics."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor

from scadles.errors import ConfigError
from scadles.targets import TargetType
from scadles.tasks.scores import find_scores
from scadles.tasks.task import Fit, Pair, as_they_are

Scale = tuple[Tensor, Tensor]


@dataclass(frozen=True)
class Form:
    """What a kind makes of the samples and targets of one data set.

    Attributes:
        outputs, pair, fit, classes, in_own_units: as in :class:`~scadles.tasks.Task`.
        values: values in one target that is made of numbers.
        labels: labels that an answer has scores for; 0 where it is no scores.
        tells_tokens: whether these are the identifiers that samples are made of.
    """

    outputs: int
    pair: Pair = as_they_are
    fit: Fit = lambda outputs, targets: find_scores(outputs)
    classes: int = 0
    tells_tokens: bool = False
    in_own_units: Pair = as_they_are
    values: int = 1
    labels: int = 0


@dataclass(frozen=True)
class Samples:
    """What a form is made of.

    Attributes:
        name: of the data set.
        shape: of one sample; of several parts by name, or in order.
        target: what belongs to it.
        vocabulary: how many values identifiers may have; None where samples are other numbers.
        scale: mean and deviation of targets that are numbers, ``[*target.shape]`` both; None leaves them as they are.
            Of targets of several parts by name.
        horizon: of forecasting.
    """

    name: str
    shape: Any
    target: TargetType
    vocabulary: int | None = None
    scale: Scale | Mapping[str, Scale | None] | None = None
    horizon: int = 1

    @property
    def has_parts(self) -> bool:
        """Whether a sample is made of several tensors."""
        return not (isinstance(self.shape, tuple) and all(isinstance(size, int) for size in self.shape))

    def of(self, part: str) -> Samples:
        """Return the same with one part of the targets alone."""
        scale = self.scale.get(part) if isinstance(self.scale, Mapping) else None
        return dataclasses.replace(self, target=dict(self.target.parts)[part], scale=scale)


@dataclass(frozen=True)
class Kind:
    """One kind of task.

    Attributes:
        targets: what those of a file are read as (:func:`scadles.data.forms.read_targets`).
        loss: of ``torch.nn.functional``.
        metrics: what a test measures, if nothing is said; the first decides.
        form: what becomes of a data set.
    """

    targets: str
    loss: str
    metrics: tuple[str, ...]
    form: Callable[[Samples], Form]


def fit_numbers(outputs: Any, targets: Tensor) -> Tensor:
    """Return the answer as numbers in the shape of the targets.

    Raises:
        ConfigError: it has another number of values.
    """
    found = _tensor_of(outputs, targets)
    if found.shape == targets.shape:
        return found
    if found.numel() != targets.numel():
        raise ConfigError(
            f"the model answers {len(targets)} samples with {list(found.shape)}, and their targets are "
            f"{list(targets.shape)}: it must answer each with {math.prod(targets.shape[1:])} values"
        )
    return found.reshape(targets.shape)


def _tensor_of(outputs: Any, targets: Tensor) -> Tensor:
    """Return the answer in a model's outputs, of several the first with as many values as the targets."""
    if isinstance(outputs, list | tuple):
        for part in outputs:
            if isinstance(part, Tensor) and part.numel() == targets.numel():
                return part
    return find_scores(outputs)


def fit_tokens(outputs: Any, targets: Tensor) -> Tensor:
    """Return scores ``[b, time, vocabulary]`` as ``[b, vocabulary, time]``, as torch's losses have them."""
    found = find_scores(outputs)
    if found.dim() != targets.dim() + 1 or found.shape[:-1] != targets.shape:
        raise ConfigError(
            f"the model answers {list(targets.shape)} tokens with {list(found.shape)}: it must give scores "
            f"[{', '.join(map(str, targets.shape))}, vocabulary], those of the next token at each place"
        )
    return found.movedim(-1, 1)


def _classification(data: Samples) -> Form:
    if not data.target.is_label:
        raise _unsuited("classification", data, "class labels, one for each sample")
    return Form(outputs=data.target.classes, classes=data.target.classes, labels=data.target.classes)


def _multilabel(data: Samples) -> Form:
    if data.target.classes != 2 or len(data.target.shape) != 1:
        raise _unsuited("multilabel", data, "0 and 1 for each label, [n, labels]")
    return Form(
        outputs=data.target.size, pair=lambda x, y: (x, y.to(torch.float32)), fit=fit_numbers, values=data.target.size
    )


def _segmentation(data: Samples) -> Form:
    if data.target.classes < 2 or data.target.shape == ():
        raise _unsuited("segmentation", data, "a label for each place, [n, ...]")
    shape, classes = data.target.shape, data.target.classes

    def fit(outputs: Any, targets: Tensor) -> Tensor:
        return fit_numbers(outputs, targets[:, None].expand(-1, classes, *targets.shape[1:]))

    return Form(outputs=classes * math.prod(shape), pair=lambda x, y: (x, y.to(torch.int64)), fit=fit, labels=classes)


def _regression(data: Samples) -> Form:
    if data.target.classes or data.target.is_none or data.target.parts:
        raise _unsuited("regression", data, "numbers")
    if not isinstance(data.scale, tuple):
        return Form(outputs=data.target.size, fit=fit_numbers, values=data.target.size)
    mean, deviation = data.scale

    def pair(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        return x, (y - mean.to(y.device)) / deviation.to(y.device)

    def back(said: Tensor, true: Tensor) -> tuple[Tensor, Tensor]:
        centre, spread = (part.to(said.device, torch.float64) for part in (mean, deviation))
        return said * spread + centre, true * spread + centre

    return Form(outputs=data.target.size, pair=pair, fit=fit_numbers, values=data.target.size, in_own_units=back)


def _forecasting(data: Samples) -> Form:
    if not data.target.classes and not data.target.is_none:
        return _regression(data)
    _refuse_parts("forecasting", data)
    horizon, shape = data.horizon, data.shape
    if not shape or shape[-1] <= horizon or data.vocabulary is not None:
        raise ConfigError(
            f"task.horizon = {horizon}: samples of {data.name} have shape {list(shape)}; forecasting needs windows of "
            "numbers [channels, time], longer than that, or numbers to tell as targets"
        )
    values = math.prod(shape[:-1]) * horizon
    return Form(
        outputs=values, pair=lambda x, y: (x[..., :-horizon], x[..., -horizon:]), fit=fit_numbers, values=values
    )


def _reconstruction(data: Samples) -> Form:
    _refuse_parts("reconstruction", data)
    if data.vocabulary is not None:
        raise ConfigError(f"task reconstruction: samples of {data.name} are identifiers and no measures; use language")
    values = math.prod(data.shape)
    return Form(outputs=values, pair=lambda x, y: (x, x), fit=fit_numbers, values=values)


def _language(data: Samples) -> Form:
    _refuse_parts("language", data)
    if data.vocabulary is None or len(data.shape) != 1 or data.shape[0] < 2:
        raise ConfigError(
            f"task language: samples of {data.name} have shape {list(data.shape)}; it needs token ids from 0, integers "
            "wider than uint8, [n, time]"
        )
    return Form(
        outputs=data.vocabulary,
        pair=lambda x, y: (x[:, :-1], x[:, 1:]),
        fit=fit_tokens,
        tells_tokens=True,
        labels=data.vocabulary,
    )


def _refuse_parts(kind: str, data: Samples) -> None:
    if data.has_parts:
        raise ConfigError(
            f"task {kind}: samples of {data.name} have several parts, and it tells a sample of itself, which must be "
            "one tensor; write a task of your own as MODULE:CALLABLE"
        )


def _unsuited(kind: str, data: Samples, needs: str) -> ConfigError:
    if data.target.parts:
        parts = ", ".join(f"{name}: ..." for name, _ in data.target.parts)
        return ConfigError(
            f"task {kind} needs {needs}: {data.name} has {data.target.describe()}; say what is told of each, "
            f"task: {{parts: {{{parts}}}}}"
        )
    return ConfigError(f"task {kind} needs {needs}: {data.name} has {data.target.describe()}; set another task.kind")


KINDS: Mapping[str, Kind] = MappingProxyType(
    {
        "classification": Kind("labels", "cross_entropy", ("accuracy",), _classification),
        "multilabel": Kind("multi-hot", "binary_cross_entropy_with_logits", ("f1", "exact_match"), _multilabel),
        "regression": Kind("numbers", "mse_loss", ("mae", "rmse", "r2"), _regression),
        "forecasting": Kind("any", "mse_loss", ("mae", "rmse"), _forecasting),
        "reconstruction": Kind("any", "mse_loss", ("mse", "mae"), _reconstruction),
        "language": Kind("any", "cross_entropy", ("perplexity", "accuracy"), _language),
        "segmentation": Kind("label-map", "cross_entropy", ("iou", "accuracy"), _segmentation),
    }
)


def targets_of(kind: str, parts: Mapping[str, str] = MappingProxyType({})) -> str | dict[str, str]:
    """Return what the targets of a file are read as for a kind of task; those of a task of the user's as they are.

    Args:
        kind: of the task.
        parts: the kind of task for each part of a target, where it has several.
    """
    if parts:
        return {name: KINDS[kind].targets if kind in KINDS else "any" for name, kind in parts.items()}
    return KINDS[kind].targets if kind in KINDS else "any"


def scale_told(kind: str, data: Samples, parts: Mapping[str, str] = MappingProxyType({})) -> Any:
    """Return mean and deviation of what a model of this task is to tell, by part where targets have several.

    Args:
        kind: of the task.
        data: what samples and targets are.
        parts: the kind of task for each part of a target, where it has several.

    Returns:
        None, also for a part, where targets are told as they are.
    """
    if parts:
        return {name: scale_told(part, data.of(name)) for name, part in parts.items()}
    numbers = not data.target.classes and not data.target.is_none and not data.target.parts
    return data.scale if kind in ("regression", "forecasting") and numbers else None
