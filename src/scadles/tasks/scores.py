"""Which of a model's outputs say how much it believes in each label."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor

from scadles.errors import ConfigError

Scores = Callable[[Any], Tensor]
LossFunction = Callable[[Any, Tensor], Tensor]
_NAMES = ("logits", "scores", "out")
_REMEDY = "say which with scores=, for example scores=lambda outputs: outputs['logits']"


def find_scores(outputs: Any) -> Tensor:
    """Return the scores ``[b, classes]`` in a model's outputs.

    These are the outputs themselves where they are a tensor; else what is called ``logits``, ``scores`` or ``out`` in a
    dictionary or an object; else the first tensor of two dimensions in a list, a tuple or a dictionary.

    Raises:
        ConfigError: there are none.

    >>> import torch
    >>> find_scores({"aux": torch.zeros(5, 2), "logits": torch.ones(5, 3)}).shape
    torch.Size([5, 3])
    """
    if isinstance(outputs, Tensor):
        return outputs
    for name in _NAMES:
        found = outputs.get(name) if isinstance(outputs, Mapping) else getattr(outputs, name, None)
        if isinstance(found, Tensor):
            return found
    parts = outputs.values() if isinstance(outputs, Mapping) else outputs if isinstance(outputs, list | tuple) else ()
    for part in parts:
        if isinstance(part, Tensor) and part.dim() == 2:
            return part
    raise ConfigError(f"the model's outputs are a {type(outputs).__name__} without scores [b, classes]: {_REMEDY}")


def check_scores(scores: Tensor, samples: int, classes: int) -> None:
    """Refuse scores among which there is none for some label.

    Raises:
        ConfigError: they are not ``[samples, classes]``.
    """
    shape = list(scores.shape)
    if scores.dim() == 2 and shape[0] == samples and shape[1] >= classes:
        return
    remedy = _REMEDY
    if classes == 2 and scores.numel() == samples:
        remedy = "for one logit: scores=lambda z: torch.stack([-z.flatten(), z.flatten()], 1)"
    raise ConfigError(
        f"the model answers {samples} samples with scores of shape {shape}, and accuracy needs [{samples}, {classes}], "
        f"one for each label: {remedy}"
    )


def right_answers(scores: Tensor, labels: Tensor) -> Tensor:
    """Return which of the scores ``[b, classes, ...]`` are largest at their label, bool ``[b, ...]``."""
    return scores.detach().argmax(dim=1) == labels
