"""What all devices measure of a step together now and then: what it costs, and how noisy gradients are."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from statistics import median_low
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from scadles.device.joint_choice import JointChoice
from scadles.device.pace import Fleet
from scadles.device.rate import AutoRate
from scadles.device.step_cost import StepCost
from scadles.device.window import FIRST_MEASURED, AutoWindow
from scadles.exchange.aggregation.noise_scale import SKETCH_SIZE, NoiseScale, sketch
from scadles.exchange.reduction import Compressor

_INTERVALS = (2, 10), (5, 50), (20, math.inf)  # steps between measurements, until which step
_RATE_INTERVALS = (1, 50), (2, math.inf)  # where the rate follows, which takes two measurements each
_MOST_COST = 0.01  # of the time, for measuring
_MOST_MEASURED = 64  # devices whose gradients are measured
_SHARES_KEPT = 3
_UNKNOWN = -1.0


class Measured(NamedTuple):
    """What a device says of itself with a measurement.

    Attributes:
        batch: samples of the last step; 0 where its gradient did not count, or was not measured.
        square: squared norm of the sketch of its mean gradient.
        rate_hz: of its stream.
        step_s, sample_s: what a step costs it to compute, and each sample in it; negative where it does not know.
        exchange_s: seconds from when the last gradient of all is ready until it has taken the step.
        share: what measurements cost it, as a share of a step: the median of the last three, so that one which had to
            wait for something else says nothing; 0 before, as the first ones are slow in their own way.
    """

    batch: float = 0.0
    square: float = 0.0
    rate_hz: float = 0.0
    step_s: float = _UNKNOWN
    sample_s: float = _UNKNOWN
    exchange_s: float = 0.0
    share: float = 0.0


def message_bytes(devices: int) -> int:
    """Return the bytes of the message by which so many devices measure."""
    return 4 * (devices * len(Measured._fields) + SKETCH_SIZE)


class Measuring:
    """Measurements of all devices, the same everywhere, at most one percent of the time; one device measures no noise.

    Each adds a row of a table (:class:`Measured`) and a sketch of its gradient to one small sum.

    Args:
        window: follows what is measured; None where it is fixed.
        compressors: of the devices of this process, where they choose ratios beside the window.
        noise_guess: the noise scale, as long as nobody knows, by which both are chosen at first.
        rate: a factor of the learning rate that does; None where there is none.

    Attributes:
        noise: of gradients.
        window, rate: as given.
        due: the next step of which something is measured.
    """

    def __init__(
        self,
        window: AutoWindow | None = None,
        compressors: Sequence[Compressor] = (),
        noise_guess: float = 1.0,
        rate: AutoRate | None = None,
    ) -> None:
        self.noise = NoiseScale()
        self.window = window
        self.rate = rate
        self._compressors = compressors
        self._noise_guess = noise_guess
        self._joint: JointChoice | None = None
        self.due = self._begins = FIRST_MEASURED
        self._rate_news: str | None = None
        self._shares: deque[float] = deque(maxlen=_SHARES_KEPT)
        self._sketches: dict[int, tuple[int, Tensor]] = {}
        self._step = 0

    def is_due(self, step: int) -> bool:
        """Return whether something is to be measured of a step."""
        return step >= self.due

    def sketch(self, gradients: Iterable[Tensor | None], step: int) -> Tensor:
        """Return the sketch of a gradient by which devices measure this step."""
        return sketch(gradients, step if self.rate is None else 0)

    def note(self, step: int, number: int, samples: int, mean_sketch: Tensor) -> None:
        """Take note of the mean gradient of a device of this process over so many samples, by its sketch."""
        if step != self._step:
            self.forget()
            self._step = step
        self._sketches[number] = samples, mean_sketch

    def forget(self) -> None:
        """Forget what was noted: it did not count."""
        self._sketches.clear()

    def leave_out(self, number: int) -> None:
        """Forget what was noted of one device: its gradient did not count."""
        self._sketches.pop(number, None)

    def took(self, share: float) -> None:
        """Take note of what a measurement cost here, as a share of a step."""
        self._shares.append(share)

    def row(self, step: int, number: int, rate_hz: float, cost: StepCost) -> Measured:
        """Return what a device says of itself after a step.

        Args:
            step: the last one.
            number: of the device.
            rate_hz: of its stream.
            cost: of its steps.
        """
        batch, mine = self._of(step, number)
        line = cost.line() if cost.is_known else (_UNKNOWN, _UNKNOWN)
        square = float(mine.square().sum()) if batch else 0.0
        share = median_low(self._shares) if len(self._shares) == _SHARES_KEPT else 0.0
        return Measured(batch, square, rate_hz, *line, cost.exchange_s, share)

    def total(self, step: int, numbers: Iterable[int]) -> Tensor:
        """Return the sum of these devices' sketches, each times its samples, float32 ``[SKETCH_SIZE]``."""
        total = torch.zeros(SKETCH_SIZE)
        for number in numbers:
            batch, mine = self._of(step, number)
            if batch:
                total += batch * mine
        return total

    def _of(self, step: int, number: int) -> tuple[int, Tensor]:
        return self._sketches.get(number, (0, torch.empty(0))) if step == self._step else (0, torch.empty(0))

    def message(self, step: int, devices: int, number: int, said: Measured | None) -> Tensor:
        """Return what a device adds to a measurement, float32: a row for each device, and its sketch times its batch.

        Args:
            step: the last one.
            devices: how many there are.
            number: of this one.
            said: of this one; None where it only follows the others.
        """
        rows = torch.zeros(devices, len(Measured._fields))
        if said is not None:
            rows[number] = torch.tensor(said)
        return torch.cat([rows.flatten(), self.total(step, [number] if said is not None else [])])

    def learn_of(self, step: int, message: Tensor, present: Sequence[int]) -> str | None:
        """Do what :meth:`learn` does with the sum of messages of those who are there."""
        numbers = message.double().numpy()
        rows = numbers[:-SKETCH_SIZE].reshape(-1, len(Measured._fields))
        return self.learn(step, rows[list(present)], numbers[-SKETCH_SIZE:])

    def learn(self, step: int, rows: np.ndarray, total: np.ndarray) -> str | None:
        """Take note of a measurement; return why the window changes, None where it does not.

        Args:
            step: of which this was measured.
            rows: of the devices that are there, in the order of :class:`Measured`, float64 ``[n, fields]``.
            total: the sum of their sketches, each times its batch, ``[SKETCH_SIZE]``.
        """
        self.forget()
        if not (np.isfinite(rows).all() and np.isfinite(total).all()):
            self._next(step, 0.0)
            return None
        said = dict(zip(Measured._fields, rows.T, strict=True))
        begins = self._begins <= step
        if samples := said["batch"].sum():
            mean = total / samples
            square = self.noise.observe(said["batch"], said["square"], float(np.square(mean).sum()))
            if self.rate is not None and square is not None:
                self._rate_news = self.rate.follow(step, mean, square, begins=begins)
        self._next(step, float(said["share"].max(initial=0.0)))
        known = said["step_s"] >= 0
        if self.window is None or not known.any():
            return None
        step_s, sample_s = (np.where(known, said[name], 0.0) for name in ("step_s", "sample_s"))
        fleet = Fleet(said["rate_hz"], step_s, sample_s, float(np.median(said["exchange_s"][known])))
        if self._compressors and fleet.rates_hz.sum() > 0:
            news = self._choose_jointly(step, self.window, fleet)
        else:
            news = self.window.follow(step, fleet, self.noise.bounds)
        if news is not None and self.rate is not None:
            self.rate.begin_anew(step)
        return news

    def _next(self, step: int, share: float) -> None:
        """Say when something is measured next, where that costs such a share of a step."""
        if self.rate is None:
            self.due = step + _interval(step, share)
            return
        self.rate.pass_by(step)
        if self._begins <= step:
            self._begins = step + _interval(step, 2 * share, _RATE_INTERVALS)
        self.due = int(min(self._begins, self.rate.due))

    def rate_news(self) -> str | None:
        """Return, once, why the last measurement changed the factor of the learning rate; None where it did not."""
        news, self._rate_news = self._rate_news, None
        return news

    @property
    def rate_factor(self) -> float:
        """By what the learning rate is multiplied."""
        return 1.0 if self.rate is None else self.rate.factor

    def _choose_jointly(self, step: int, window: AutoWindow, fleet: Fleet) -> str | None:
        """Let ratios be compared at the best windows, and the window follow the ratio that is chosen."""
        bounds = self.noise.bounds
        noise = self._noise_guess
        if bounds is not None:
            noise = bounds.value if math.isfinite(bounds.value) else max(noise, bounds.low)
        self._share(JointChoice(window.rule, fleet, noise))
        exchange_s = self._compressors[0].exchange_s
        if exchange_s is None:
            return None
        fleet = fleet._replace(exchange_s=exchange_s)
        if bounds is None and not window.changes:
            return window.guess(step, fleet, noise)
        return window.follow(step, fleet, bounds)

    def _share(self, joint: JointChoice) -> None:
        self._joint = joint
        for compressor in self._compressors:
            compressor.heed(joint)

    def describe(self) -> dict[str, float | None]:
        """Return the noise scale and its bounds as events have them; None for what nobody knows, or has no bound."""
        bounds = self.noise.bounds or (None, None, None)
        scale = (value if value is not None and math.isfinite(value) else None for value in bounds)
        return dict(zip(("noise_scale", "low", "high"), scale, strict=True))

    def state(self) -> dict[str, Any]:
        """Return what a checkpoint holds, as JSON."""
        window = self.window.state() if self.window is not None else None
        state = {"due": self.due, "noise": self.noise.state(), "window": window}
        if self._joint is not None:
            state["joint"] = self._joint.state()
        return state if self.rate is None else {**state, "begins": self._begins, "rate": self.rate.state()}

    def load(self, state: Mapping[str, Any]) -> None:
        """Go on from what :meth:`state` returned.

        Raises:
            ValueError: it is nothing that :meth:`state` returns.
        """
        self.due = int(state["due"])
        self.noise.load(state["noise"])
        if self.window is not None and state["window"] is not None:
            self.window.load(state["window"])
            if self._compressors and "joint" in state:
                self._share(JointChoice.of(self.window.rule, state["joint"]))
        self._begins = int(state.get("begins", self.due))
        if self.rate is not None and "rate" in state:
            self.rate.load(state["rate"])


def is_measured(number: int, devices: int) -> bool:
    """Whether a device's gradient is measured: of very many, only some are, evenly chosen.

    >>> [number for number in range(200) if is_measured(number, 200)][:5]
    [0, 4, 7, 10, 13]
    """
    return number * _MOST_MEASURED // devices != (number - 1) * _MOST_MEASURED // devices or devices <= _MOST_MEASURED


def _interval(step: int, share: float, intervals: Sequence[tuple[int, float]] = _INTERVALS) -> int:
    """Return the steps until the next measurement, where one costs such a share of a step."""
    fewest = next(interval for interval, until in intervals if step < until)
    return max(fewest, math.ceil(share / _MOST_COST))
