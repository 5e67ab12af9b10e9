"""What becomes of training that diverges: it goes back to the last good state, at half the learning rate."""

from __future__ import annotations

import math
import sys
from collections.abc import Mapping
from enum import Enum
from typing import Any, NamedTuple

import numpy as np
from torch import Tensor, nn
from torch.optim import Optimizer

from scadles.device.managed import Managed
from scadles.device.state_copy import StateCopy

_HORIZON = 50  # steps that the running mean is over
_FEWEST = 20  # steps before its deviation is trusted
_SIGMAS = 6.0
_LEAST_RISE, _LEAST_EARLY_RISE = 0.6, 1.0  # of the running mean, above it
_FEWEST_HIGH, _PATIENCE = 3, 5.0  # high losses in a row, and what they count together
_KEPT_EVERY = 20  # steps between two copies of the state, at most, and from going back to the next one
_HALVE = 0.5
_RAISED_AFTER = 200  # steps after which a halved rate is doubled again, at first
_MOST_IN_A_ROW = 6  # times back to the same state


class LossWatch:
    """Tells losses that are high from noisy ones.

    A loss is high where it is six standard deviations above its running mean, and 60 % of the mean; in the first steps
    where it is twice the mean. Three or more in a row are no noise: five that have just risen so far, or fewer where
    they have risen further. Each counts 1, and 1 more for each time that it has risen twice as far.

    >>> watch = LossWatch()
    >>> any(watch.look(loss) for loss in [1.0, 0.9, 1.1] * 10)
    False
    >>> [watch.look(loss) for loss in (3.0, 3.1, 2.9)]
    [False, False, True]
    """

    def __init__(self) -> None:
        self._count = 0
        self._mean = self._square = 0.0
        self._row: list[float] = []

    @property
    def mean(self) -> float:
        """The running mean of losses that were not high."""
        return self._mean

    @property
    def deviation(self) -> float:
        """The standard deviation of these."""
        return math.sqrt(max(self._square - self._mean**2, 0.0))

    @property
    def mean_in_a_row(self) -> float:
        """The mean of the high losses in a row."""
        return float(np.mean(self._row))

    @property
    def is_calm(self) -> bool:
        """Whether the last loss was not high."""
        return not self._row

    def look(self, loss: float) -> bool:
        """Take note of a step's loss, infinite where no device had a finite gradient; return whether it is no noise."""
        if math.isfinite(loss) and (not self._count or loss <= self._mean + self._rise):
            self._row.clear()
            self._note(loss)
            return False
        self._row.append(loss)
        if len(self._row) < _FEWEST_HIGH:
            return False
        rise = max(self._rise, sys.float_info.min)
        return float(np.sum(1 + np.log2((np.array(self._row) - self._mean) / rise))) >= _PATIENCE

    def begin_anew(self) -> None:
        """Let the high losses in a row be all that is known: they are what is usual now."""
        row, self._row = self._row, []
        self._count, self._mean, self._square = 0, 0.0, 0.0
        for loss in row:
            if math.isfinite(loss):
                self._note(loss)

    def go_back(self) -> None:
        """Forget the high losses in a row: what they came from is gone."""
        self._row = []

    @property
    def _rise(self) -> float:
        """How far above the mean a loss is high."""
        least = _LEAST_RISE if self._count >= _FEWEST else _LEAST_EARLY_RISE
        return max(_SIGMAS * self.deviation, least * abs(self._mean))

    def _note(self, loss: float) -> None:
        self._count += 1
        share = 1 / min(self._count, _HORIZON)
        self._mean += share * (loss - self._mean)
        self._square += share * (loss**2 - self._square)

    def state(self) -> dict[str, Any]:
        """Return what a checkpoint holds, as JSON."""
        row = [loss if math.isfinite(loss) else None for loss in self._row]
        return {"count": self._count, "mean": self._mean, "square": self._square, "row": row}

    def load(self, state: Mapping[str, Any]) -> None:
        """Go on from what :meth:`state` returned."""
        self._count, self._mean, self._square = int(state["count"]), float(state["mean"]), float(state["square"])
        self._row = [math.inf if loss is None else float(loss) for loss in state["row"]]


class Action(Enum):
    """What a step does to the model."""

    TRAIN = "train"
    #: As :attr:`TRAIN`, once a copy of the state has been taken.
    KEEP = "keep"
    #: Change places with that copy, and leave the step's gradient out.
    SWAP = "swap"
    #: Take a copy of the state, and leave the step's gradient out.
    STAY = "stay"

    @property
    def trains(self) -> bool:
        """Whether the optimizer takes a step."""
        return self in (Action.TRAIN, Action.KEEP)

    @property
    def copies(self) -> bool:
        """Whether a copy is taken."""
        return self in (Action.KEEP, Action.STAY)


class Finding(NamedTuple):
    """What is to be said after a step.

    Attributes:
        what: ``tried``: an earlier state has taken the place of the present one, to see what its loss is; in the next
            step ``back`` where it is low, so that training stays there at half the rate, or ``on`` where it is as high,
            because the streams have changed, and training goes on from where it was; ``hopeless`` ends the run.
        back_to: the step after which the earlier state was.
        lr_factor: what the rate is multiplied by from now on.
        why: as a sentence.
    """

    what: str
    back_to: int
    lr_factor: float
    why: str


class DivergenceGuard:
    """Brings training back where it has diverged; decides alike on all devices, by the common loss.

    The state to go back to is copied before the first step, after 5, 10 and 20, and from then on at most every 20
    steps, and only when a loss that is not high has shown that it is good. Where losses are high, it is tried for one
    step, whose loss is that of the earlier state on what streams bring now. Where it has not risen half as far,
    training had diverged: it stays there, and the rate is halved. Else the streams have changed, and training goes on
    from where it was. No gradient of these two steps is used. A rate is doubled again after 200 steps, and after twice
    as many each time that this has proved too soon.

    Args:
        managed: the parameters.
        optimizer: whose state belongs to them.

    Attributes:
        factor: what the learning rate is multiplied by.
        tried: how often the earlier state was tried.
        went_back: how often training went back to it.
        hopeless: whether going back has not helped so often that the run must end.
        finding: what the last step has brought; None for nothing.
    """

    def __init__(self, managed: Managed, optimizer: Optimizer) -> None:
        self.factor = 1.0
        self.tried = self.went_back = 0
        self.hopeless = False
        self.finding: Finding | None = None
        self._watch = LossWatch()
        self._copy = StateCopy(managed, optimizer, _KEPT_EVERY)
        self._tries = False
        self._in_a_row = 0
        self._blind = False  # whether losses that are not finite come from the streams
        self._calm_steps, self._raised_after = 0, _RAISED_AFTER
        self._keeps_from = 0  # no copy before this step

    def look(self, step: int, loss: float) -> Action:
        """Decide about a step that is about to be taken; parameters and optimizer are as they shall be afterwards.

        Args:
            step: its number.
            loss: mean loss of all devices, of the state before the step; infinite where none has a finite gradient.
        """
        self.finding = None
        if self._tries:
            return self._judge(step, loss)
        self._blind = self._blind and not math.isfinite(loss)
        if self._blind or self.hopeless:
            return Action.TRAIN
        if self._watch.look(loss) and self._copy.step is not None:
            return self._try(step, loss, self._copy.step)
        self._recover()
        if step < self._keeps_from or not self._watch.is_calm or not self._copy.is_due(step):
            return Action.TRAIN
        self._copy.take(step - 1)
        self._in_a_row = 0
        return Action.KEEP

    def _try(self, step: int, loss: float, back_to: int) -> Action:
        self._tries = True
        self.tried += 1
        self._copy.swap()
        found = f"the loss is {loss:.3g}" if math.isfinite(loss) else "no device has a finite loss and gradient"
        usual = f"it was {self._watch.mean:.3g} ± {self._watch.deviation:.2g}"
        why = f"step {step}: {found}, {usual}: the model of step {back_to} is tried"
        self.finding = Finding("tried", back_to, self.factor, why)
        return Action.SWAP

    def _judge(self, step: int, loss: float) -> Action:
        """Look at the loss of the state that is tried."""
        self._tries, back_to = False, self._copy.step or 0
        mean = self._watch.mean
        self._keeps_from = step + _KEPT_EVERY
        if math.isfinite(loss) and loss - mean < (self._watch.mean_in_a_row - mean) / 2:
            self._stay(step, loss, back_to)
            return Action.STAY
        self._copy.swap()
        self._blind = not math.isfinite(loss)
        self._watch.begin_anew()
        found = f"{loss:.3g} with it, too" if math.isfinite(loss) else "not finite with it, either"
        why = f"step {step}: the loss is {found}, so the streams have changed, and training goes on"
        self.finding = Finding("on", back_to, self.factor, why)
        return Action.SWAP

    def _stay(self, step: int, loss: float, back_to: int) -> None:
        """Let training go on from the earlier state."""
        self._copy.take(back_to)
        self._watch.go_back()
        self.factor *= _HALVE
        self.went_back += 1
        self._in_a_row += 1
        self._calm_steps = 0
        if self.went_back > 1:
            self._raised_after *= 2
        self.hopeless = self._in_a_row >= _MOST_IN_A_ROW
        more = f", for the {self._in_a_row}th time" if self.hopeless else ""
        why = (
            f"step {step}: the loss is {loss:.3g} with the model of step {back_to}, so training had diverged: it goes "
            f"back there{more}, and the learning rate is multiplied by {self.factor:g} from now on"
        )
        self.finding = Finding("hopeless" if self.hopeless else "back", back_to, self.factor, why)

    def _recover(self) -> None:
        if self.factor == 1 or not self._watch.is_calm:
            return
        self._calm_steps += 1
        if self._calm_steps >= self._raised_after:
            self._calm_steps = 0
            self.factor /= _HALVE

    def keep_buffers(self, model: nn.Module) -> None:
        """Take copies of a model's buffers as they are after a step that takes a copy."""
        self._copy.take_buffers(model)

    def swap_buffers(self, model: nn.Module) -> None:
        """Let a model's buffers change places with these."""
        self._copy.swap_buffers(model)

    def state(self) -> dict[str, Any]:
        """Return what a checkpoint holds, as JSON."""
        return {
            "watch": self._watch.state(),
            "factor": self.factor,
            "went_back": self.went_back,
            "tried": self.tried,
            "tries": self._tries,
            "in_a_row": self._in_a_row,
            "blind": self._blind,
            "calm_steps": self._calm_steps,
            "raised_after": self._raised_after,
            "keeps_from": self._keeps_from,
            "kept_after": self._copy.step,
            "numbers": self._copy.numbers(),
        }

    def tensors(self) -> dict[str, Tensor]:
        """Return the tensors that belong to :meth:`state`, by name; memory of this object."""
        return self._copy.tensors()

    def load(self, state: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> None:
        """Go on from what :meth:`state` and :meth:`tensors` returned.

        Raises:
            ValueError: the tensors are of other shapes than the parameters.
        """
        self._watch.load(state["watch"])
        self.factor, self.tried, self.went_back = float(state["factor"]), state["tried"], state["went_back"]
        self._tries = state["tries"]
        self._in_a_row, self._blind = state["in_a_row"], state["blind"]
        self._calm_steps, self._raised_after = state["calm_steps"], state["raised_after"]
        self._keeps_from = state["keeps_from"]
        self._copy.load(state["kept_after"], state["numbers"], tensors)
