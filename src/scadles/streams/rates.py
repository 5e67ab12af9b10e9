"""The paper's named sets of stream rates (section V, table of streaming rates)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from scadles.errors import ConfigError
from scadles.seeding import numpy_generator

MIN_RATE_HZ = 8.0


class RateSet(NamedTuple):
    """A distribution of rates over devices, in samples per second.

    Attributes:
        distribution: ``uniform``, ``normal``, or ``listed`` where nothing but the list is known.
        mean: of the distribution.
        std: of the distribution; a uniform one has half-width ``sqrt(3) std``.
        known: rates the paper gives one by one; empty where it gives none.
    """

    distribution: str
    mean: float
    std: float
    known: tuple[float, ...] = ()


_MIXED25 = (
    *(92.0, 22.0, 62.0, 42.0, 48.0, 36.0, 18.0, 38.0, 84.0, 60.0, 108.0, 40.0, 58.0),
    *(16.0, 44.0, 78.0, 92.0, 28.0, 30.0, 52.0, 84.0, 20.0, 16.0, 38.0, 66.0),
)

RATE_SETS: dict[str, RateSet] = {
    "S1": RateSet("uniform", 38.0, 24.0, (50.0, 38.0, 12.0, 36.0, 34.0, 13.0, 82.0, 40.0)),
    "S2": RateSet("uniform", 300.0, 112.0),
    "S1'": RateSet("normal", 64.0, 24.0, (92.0, 38.0, 62.0, 42.0, 48.0, 88.0, 90.0, 22.0, 44.0, 28.0)),
    "S2'": RateSet("normal", 256.0, 28.0, (270.0, 218.0, 300.0, 246.0, 232.0, 284.0, 284.0, 236.0, 274.0, 228.0)),
    "mixed25": RateSet("listed", float(np.mean(_MIXED25)), float(np.std(_MIXED25)), _MIXED25),
}


def draw_rates(spec: str | float | Sequence[float], devices: int, seed: int) -> tuple[float, ...]:
    """Return the rate of each device in samples per second.

    Args:
        spec: one rate for all; one for each device; the name of a set, drawn (never below 8); or ``NAME:known``, the
            first rates that the paper lists for it.
        devices: how many devices there are.
        seed: of the run. A device's rate does not depend on how many others there are.

    Raises:
        ConfigError: an unknown set, a list of another length or too short, a negative rate.

    >>> draw_rates("S1:known", 3, seed=0)
    (50.0, 38.0, 12.0)
    >>> draw_rates(20.0, 2, seed=0)
    (20.0, 20.0)
    """
    if isinstance(spec, str):
        return _named(spec, devices, seed)
    rates = (float(spec),) * devices if isinstance(spec, int | float) else tuple(float(rate) for rate in spec)
    if len(rates) != devices:
        raise ConfigError(f"rates has {len(rates)} entries for {devices} devices: give one for each device")
    for rate in rates:
        if not (math.isfinite(rate) and rate >= 0):
            raise ConfigError(f"rates = {rate:g}: a rate must be finite and not negative (samples per second)")
    return rates


def _named(spec: str, devices: int, seed: int) -> tuple[float, ...]:
    name, colon, kind = spec.partition(":")
    if name not in RATE_SETS or (colon and kind != "known"):
        drawn = [known for known, rates in RATE_SETS.items() if rates.distribution != "listed"]
        listed = [f"{known}:known" for known, rates in RATE_SETS.items() if rates.known]
        raise ConfigError(f"rates = {spec!r}: unknown set of rates; there are {', '.join(drawn + listed)}")
    rate_set = RATE_SETS[name]
    if not colon and rate_set.distribution == "listed":
        raise ConfigError(f"rates = {spec!r}: only a list is known, nothing to draw from; write {name}:known")
    if not colon:
        return tuple(_drawn(rate_set, numpy_generator(seed, device, "rate")) for device in range(devices))
    if len(rate_set.known) < devices:
        otherwise = "" if rate_set.distribution == "listed" else f", or draw them with {name!r}"
        raise ConfigError(
            f"rates = {spec!r}: {len(rate_set.known)} rates are known and devices is {devices}: "
            f"use fewer devices{otherwise}"
        )
    return rate_set.known[:devices]


def _drawn(rate_set: RateSet, generator: np.random.Generator) -> float:
    half_width = math.sqrt(3) * rate_set.std
    if rate_set.distribution == "uniform":
        rate = generator.uniform(rate_set.mean - half_width, rate_set.mean + half_width)
    else:
        rate = generator.normal(rate_set.mean, rate_set.std)
    return max(MIN_RATE_HZ, float(rate))
