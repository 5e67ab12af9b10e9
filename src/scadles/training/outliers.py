"""Which devices' gradients were unlike all others, counted over a run."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Literal

from scadles.exchange.aggregation.outliers import described
from scadles.observe.summary import Outlier

#: Steps in which a device's gradients were found to be outliers, and what was found last, by its number as text.
Found = dict[str, tuple[int, float]]


def count_found(counts: Found, found: Mapping[int, float]) -> list[int]:
    """Count what was found in a step; return the devices that are to be told of: the first, 10th, 100th ... time."""
    told = []
    for device, what in found.items():
        times = counts.get(str(device), (0, 0.0))[0] + 1
        counts[str(device)] = (times, what)
        if str(times).strip("0") == "1":
            told.append(device)
    return told


def outliers(counts: Found, steps: int, action: Literal["accept", "clip", "reject"]) -> tuple[Outlier, ...]:
    """Return what is said of these devices, by number.

    Args:
        counts: of all steps.
        steps: how many those are.
        action: what is done to an outlier; only what is no number is set aside without being asked for.
    """
    by_number: Iterable[tuple[int, tuple[int, float]]] = sorted((int(device), what) for device, what in counts.items())
    done: Literal["clip", "reject"] = "clip" if action == "clip" else "reject"
    return tuple(
        Outlier(device=device, steps=times, of_steps=steps, action=done, why=described(what))
        for device, (times, what) in by_number
    )
