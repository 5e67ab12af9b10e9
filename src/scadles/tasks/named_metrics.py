"""The metrics that have names, and which of them suit the answers to a task."""

from __future__ import annotations

import re
from collections.abc import Callable

from scadles.tasks.kinds import Form
from scadles.tasks.metrics import (
    F1,
    R2,
    Accuracy,
    IntersectionOverUnion,
    MeanError,
    MeanLoss,
    Metric,
    Perplexity,
    exact_match,
    top_k,
)

_TOP = re.compile(r"top([1-9]\d{0,3})_accuracy")


def built_in_metrics(form: Form) -> dict[str, Callable[[], Metric]]:
    """Return the metrics that suit answers of this form, by name."""
    if form.labels:
        named: dict[str, Callable[[], Metric]] = {"accuracy": lambda: Accuracy(form.labels)}
        if form.classes:
            return named | {"loss": MeanLoss}
        if form.tells_tokens:
            return named | {"perplexity": Perplexity, "loss": MeanLoss}
        return named | {"iou": lambda: IntersectionOverUnion(form.labels), "loss": MeanLoss}
    errors: dict[str, Callable[[], Metric]] = {
        "mae": lambda: MeanError("mae", 1),
        "mse": lambda: MeanError("mse", 2),
        "rmse": lambda: MeanError("rmse", 2, root=True),
        "r2": lambda: R2(form.values),
    }
    return errors | {"loss": MeanLoss}


def find_metric(name: str, kind: str, form: Form) -> Metric | None:
    """Return a metric by name; None where the name is none of a metric for this kind."""
    if kind == "multilabel":
        return {"f1": F1, "exact_match": exact_match, "loss": MeanLoss}.get(name, lambda: None)()
    if form.classes and (found := _TOP.fullmatch(name)):
        return top_k(int(found[1]))
    make = built_in_metrics(form).get(name)
    return make() if make else None


def metric_names(kind: str, form: Form) -> list[str]:
    """Return the names of the metrics for this kind."""
    if kind == "multilabel":
        return ["f1", "exact_match", "loss"]
    return [*built_in_metrics(form), *(["top5_accuracy"] if form.classes else [])]
