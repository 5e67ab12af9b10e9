"""Metrics of torchmetrics, of which a test computes those that are sums exactly over all devices."""

from __future__ import annotations

import re
import warnings
from typing import Any

import torch
from torch import Tensor

from scadles.errors import ConfigError
from scadles.tasks.metrics import Metric


def is_library_metric(made: object) -> bool:
    """Whether something is a metric as torchmetrics has them; torchmetrics need not be installed."""
    return all(hasattr(made, name) for name in ("update", "compute", "reset", "metric_state", "higher_is_better"))


class LibraryMetric(Metric):
    """A metric of torchmetrics whose states are sums over samples.

    Args:
        metric: the library's.
        spec: by which it was named, for messages.

    Raises:
        ConfigError: its states are no sums, or it does not say which way is good.
    """

    def __init__(self, metric: Any, spec: str) -> None:
        kind = type(metric).__name__
        self.name = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", kind).lower()
        if metric.higher_is_better is None:
            raise ConfigError(f"task.metrics {spec!r}: {kind} does not say whether more of it is better")
        self.higher_is_better = bool(metric.higher_is_better)
        self._metric = metric
        metric.reset()
        self._shapes: dict[str, Tensor] = dict(metric.metric_state)
        reduced = getattr(metric, "_reductions", {})
        for state, value in self._shapes.items():
            by = getattr(reduced.get(state), "__name__", None)
            if not isinstance(value, Tensor) or by != "dim_zero_sum":
                raise ConfigError(
                    f"task.metrics {spec!r}: {kind} keeps {state} in a way that does not add up over batches and "
                    "devices; take a metric whose states are sums, or write a scadles.tasks.Metric"
                )
        self.size = sum(value.numel() for value in self._shapes.values())

    def sums(self, outputs: Tensor, targets: Tensor) -> Tensor:
        self._metric.reset()
        self._metric.update(outputs.cpu(), targets.cpu())
        state = self._metric.metric_state
        return torch.cat([state[name].double().reshape(-1) for name in self._shapes])

    def value(self, sums: Tensor) -> float:
        self._metric.reset()
        parts = torch.split(sums, [value.numel() for value in self._shapes.values()])
        for (name, shaped), part in zip(self._shapes.items(), parts, strict=True):
            setattr(self._metric, name, part.reshape(shaped.shape).to(shaped.dtype))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # that it was not updated: its states were set
            found = self._metric.compute()
        if not isinstance(found, Tensor) or found.numel() != 1:
            raise ConfigError(
                f"metric {self.name} comes to {type(found).__name__} of several numbers, not to one: average it"
            )
        return float(found)
