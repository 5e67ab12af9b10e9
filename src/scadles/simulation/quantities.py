"""Costs that differ between devices, steps and times."""

from __future__ import annotations

import math

import numpy as np

from scadles.config import QuantityConfig
from scadles.seeding import numpy_generator

FLOOR = 0.01


class Quantity:
    """One cost of all devices, in the unit of its setting.

    Args:
        given: a number; one for each device; a section; or None for a bandwidth that takes no time (inf).
        devices: how many there are.
        seed: of the run. A device's draw does not depend on how many others there are.
        name: what it is, so that two quantities draw apart.

    >>> slower = QuantityConfig(value=5.0, times_s=(0, 60), factors=(1, 0.2))
    >>> Quantity(slower, devices=2, seed=0, name="link").at(step=0, time_s=70.0).tolist()
    [1.0, 1.0]
    """

    __slots__ = ("_config", "_devices", "_latest", "_seed", "_value")

    def __init__(
        self, given: float | tuple[float, ...] | QuantityConfig | None, devices: int, seed: int, name: str
    ) -> None:
        self._config = given if isinstance(given, QuantityConfig) else None
        self._devices = devices
        self._seed = (seed, name)
        self._latest = -1
        self._value: float | np.ndarray
        if isinstance(given, QuantityConfig):
            self._value = self._draw(given, "devices")
        else:
            self._value = math.inf if given is None else np.array(given) if isinstance(given, tuple) else given

    def at(self, step: int, time_s: float | np.ndarray) -> float | np.ndarray:
        """Return what it is in this step: one number for all devices, or float64 ``[devices]``.

        Args:
            step: of the run, from 0; it matters where every step has its own draw.
            time_s: stream time, one for all or float64 ``[devices]``; it matters where factors vary in time.
        """
        config = self._config
        if config is None:
            return self._value
        if config.per == "step" and step != self._latest:
            self._latest, self._value = step, self._draw(config, step)
        if not config.times_s:
            return self._value
        within_s = time_s if config.period_s is None else time_s % config.period_s
        place = np.searchsorted(config.times_s, within_s, side="right") - 1
        return self._value * np.array(config.factors)[place]

    def _draw(self, config: QuantityConfig, draw: int | str) -> np.ndarray:
        """Return one draw for each device, float64 ``[devices]``, none below 1 % of the mean or median."""
        seed, name = self._seed
        generator = numpy_generator(seed, name, draw)
        if config.uniform is not None:
            drawn = generator.uniform(*config.uniform, self._devices)
        elif config.normal is not None:
            drawn = generator.normal(*config.normal, self._devices)
        elif config.lognormal is not None:
            middle, sigma = config.lognormal
            drawn = middle * np.exp(sigma * generator.standard_normal(self._devices))
        else:
            drawn = np.full(self._devices, config.value)
        return np.maximum(drawn, FLOOR * config.middle)
