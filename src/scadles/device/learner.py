"""What all devices have in common: the model, its optimizer, and how far training has come.

A device process has a learner of its own, the same everywhere; all simulated devices of a cluster share one.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.optim import Optimizer

from scadles.data.running import RunningStatistics
from scadles.device.divergence import Action, DivergenceGuard, Finding
from scadles.device.hyperparameters import Hyperparameters
from scadles.device.managed import NOTHING, Managed
from scadles.device.measuring import Measuring
from scadles.device.optimizers import Guard
from scadles.device.parts import checked_weight
from scadles.device.rate import AutoRate
from scadles.exchange.aggregation import REJECTS_TOO_MUCH, STREAM_ENDED, GradientExchange, LearningRate, Reports
from scadles.structures import Structure

Pair = Callable[[Structure, Tensor], tuple[Structure, Structure]]


@dataclass(frozen=True, slots=True)
class StepResult:
    """What one step came to, the same on all devices.

    Attributes:
        total_batch: samples that the mean gradient is of.
        loss: mean loss over them; None when there were none.
        lr: learning rate of the first parameter group.
        lr_scale: what batch scaling made of the base rate.
        ready_s: stream seconds from the end of the last step until the last device was ready.
        slowest: that device.
        slowest_s: how much later than the first device it was ready.
        stop: whether any device asked to end the run.
        rejecting: devices that asked for it because too much of their streams is rejected.
        ended: whether the streams of all devices have ended.
        action: what the step did to the model, where divergence is looked for.
        finding: what is to be said of that.
    """

    total_batch: int
    loss: float | None
    lr: float
    lr_scale: float
    ready_s: float
    slowest: int
    slowest_s: float
    stop: bool
    rejecting: tuple[int, ...] = ()
    ended: bool = False
    action: Action = Action.TRAIN
    finding: Finding | None = None


class Learner:
    """A model in training.

    Args:
        model: what is trained.
        optimizer: over its parameters.
        learning_rate: the rule for what becomes of the optimizer's rates.
        exchange: makes one gradient of those of all devices.
        prepare: raw samples to what the model takes.
        mean: ``weighted`` by batch size, or ``plain``, every device that has a batch alike.
        clip_norm: the largest norm of the common gradient, which is scaled down to it; None leaves it as it is.
        pair: prepared samples and their targets to what the model takes and what it should say.
        measuring: what is measured of steps, and what follows it; None where nothing is.

    Attributes:
        step_number: steps taken.
        samples_seen: samples of all devices that these steps were on.
        time_s: stream time of the last step as the first device tells it; decisions that all must take alike go by it.
        managed: all that devices must have alike.
        frozen_otherwise: parameters that a checkpoint has frozen or unfrozen, by name.
        hyperparameters: what the optimizer's groups say.
        statistics: what samples are normalised by, where that is measured while training; None where it is not.
        divergence: brings training back that has diverged; None where nobody looks for that.
        needs_two: whether a batch of one sample cannot be trained on, because BatchNorm has no variance of it.
    """

    def __init__(
        self,
        model: nn.Module,
        optimizer: Optimizer,
        learning_rate: LearningRate,
        exchange: GradientExchange,
        prepare: Callable[[Tensor], Structure],
        mean: Literal["weighted", "plain"] = "weighted",
        clip_norm: float | None = None,
        pair: Pair = lambda x, y: (x, y),
        measuring: Measuring | None = None,
    ) -> None:
        self.model = model
        self.optimizer = optimizer
        self.learning_rate = learning_rate
        self.exchange = exchange
        self.prepare = prepare
        self.statistics = prepare if isinstance(prepare, RunningStatistics) else None
        self.pair = pair
        self.measuring = measuring
        self.mean = mean
        self.clip_norm = clip_norm
        self.torch_device = next(model.parameters()).device
        self.step_number = 0
        self.samples_seen = 0
        self.time_s = 0.0
        self.needs_two = any(isinstance(part, _BatchNorm) for part in model.modules())
        self.managed = Managed(model, optimizer, self.statistics.tensors if self.statistics is not None else NOTHING)
        self.frozen_otherwise: list[str] = []
        self.hyperparameters = Hyperparameters(optimizer)
        self.divergence: DivergenceGuard | None = None
        self._lr = float(optimizer.param_groups[0]["lr"])
        self._take_step: Callable[[Optimizer], None] = lambda optimizer: optimizer.step()

    @property
    def optimizer_share(self) -> float:
        """How many numbers the optimizer keeps for each of the model's: 1 with momentum, 2 with Adam.

        A copy to go back to, where there is one, counts as well.
        """
        numbers = sum(parameter.numel() for parameter in self.model.parameters())
        kept = (value for state in self.optimizer.state.values() for value in state.values())
        copied = self.divergence.tensors().values() if self.divergence is not None else ()
        return sum(value.numel() for value in (*kept, *copied) if isinstance(value, Tensor)) / max(1, numbers)

    @property
    def _chosen_rate(self) -> AutoRate | None:
        return self.measuring.rate if self.measuring is not None else None

    def look_for_divergence(self) -> None:
        """Go back, from now on, where training diverges."""
        self.divergence = DivergenceGuard(self.managed, self.optimizer)

    def take_buffers_along(self, result: StepResult) -> bool:
        """Let the model's buffers follow what the last step did to its parameters; return whether they changed."""
        if self.divergence is None:
            return False
        if result.action.copies:
            self.divergence.keep_buffers(self.model)
        elif result.action is Action.SWAP:
            self.divergence.swap_buffers(self.model)
        return result.action is Action.SWAP

    def guard(self) -> Guard:
        """Refuse, until the returned guard is released, steps of the optimizer that are not :meth:`update`'s."""
        guard = Guard(self.optimizer)
        self._take_step = guard.step
        return guard

    def ask_again(self) -> list[str]:
        """Let what the optimizer was made with count after :meth:`load`, where it is not what the run began with.

        Returns:
            What is not as the loop left it or as this attempt was set up, in words.
        """
        said = self.hyperparameters.ask_again()
        if (rate := self._chosen_rate) is not None:
            rate.ask_again()
        if self.frozen_otherwise:
            names = ", ".join(self.frozen_otherwise[:3]) + (", ..." if len(self.frozen_otherwise) > 3 else "")
            said.append(f"requires_grad of {names} is what it was at the checkpoint")
        return said

    def look_for_parameters(self) -> None:
        """Let the exchange know of parameters that have come to the optimizer since the last step."""
        if self.managed.refresh():
            self.exchange.manage(self.managed.parameters.values())

    def weights(self, batches: np.ndarray, losses: np.ndarray) -> np.ndarray:
        """Return the weight in the mean of gradients over so many samples each; 0 where a loss is not finite."""
        weights = np.asarray(batches, dtype=np.float64)
        weights = weights if self.mean == "weighted" else np.sign(weights)
        return np.where(np.isfinite(losses), weights, 0.0)

    def weight(self, samples: int, loss: float, given: float | Tensor | None = None) -> float:
        """Return the weight in the mean of one gradient: the one it was given, which may be 0, where there is one."""
        if given is None or self.mean != "weighted":
            return float(self.weights(np.array(samples), np.array(loss))) if given != 0 else 0.0
        weight = checked_weight(given)
        return weight if math.isfinite(loss) else 0.0

    def update(self, reports: Reports, present: Sequence[int] | None = None) -> StepResult:
        """Take a step with the mean gradient that the parameters hold, the same on every device.

        Args:
            reports: of all devices.
            present: those that took part, ascending; None where all did.

        Raises:
            RunError: the optimizer's groups were changed, and not alike on all devices; no step is taken.
        """
        numbers = range(len(reports)) if present is None else present
        reports = reports.of(numbers)
        self.hyperparameters.agree(reports.redo, self.step_number + 1)
        batches = np.where(reports.weight > 0, reports.batch, 0.0)
        total = int(batches.sum())
        shares = reports.weight if self.mean == "weighted" else batches
        scale = self.learning_rate.batch_scale(total)
        loss = float((reports.loss * shares).sum() / shares.sum()) if total else None
        action = self._look(loss, reports)
        if total and action.trains:
            scale, factor = self.learning_rate.take(total, self.samples_seen)
            if self.divergence is not None:
                factor *= self.divergence.factor
            if (rate := self._chosen_rate) is not None:
                factor *= rate.factor
            if self.clip_norm is not None:
                clip(self.exchange.parameters, self.clip_norm)
            with self.hyperparameters.scaled(factor, None if rate is None else self.step_number) as self._lr:
                self._take_step(self.optimizer)
        if self.statistics is not None:
            self.statistics.merge(total)
        self.samples_seen += total
        self.step_number += 1
        self.time_s += float(reports.elapsed_s[0])
        slowest = int(reports.ready_s.argmax())
        return StepResult(
            total_batch=total,
            loss=loss,
            lr=self._lr,
            lr_scale=scale,
            ready_s=float(reports.ready_s[slowest]),
            slowest=numbers[slowest],
            slowest_s=float(reports.ready_s[slowest] - reports.ready_s.min()),
            stop=bool((reports.stop > 0).any()),
            rejecting=tuple(numbers[row] for row in np.flatnonzero(reports.stop == REJECTS_TOO_MUCH).tolist()),
            ended=bool((reports.stop == STREAM_ENDED).all()),
            action=action,
            finding=self.divergence.finding if self.divergence is not None else None,
        )

    def _look(self, loss: float | None, reports: Reports) -> Action:
        """Look for divergence; parameters and optimizer may be earlier ones then."""
        if self.divergence is None:
            return Action.TRAIN
        had = reports.batch > 0
        if loss is None and (not had.any() or not (reports.loss[had] != 0).all()):
            self.divergence.finding = None
            return Action.TRAIN
        before = self.divergence.factor
        action = self.divergence.look(self.step_number + 1, math.inf if loss is None else loss)
        if action is Action.STAY:
            self.exchange.forget()
        if (rate := self._chosen_rate) is not None:
            rate.may_rise = self.divergence.factor == 1
            if not action.trains:
                rate.forget()
            elif self.divergence.factor != before:
                rate.begin_anew(self.step_number)
        return action

    def state(self) -> dict[str, Any]:
        """Return what a checkpoint needs beside model and optimizer."""
        return {
            "step": self.step_number,
            "samples_seen": self.samples_seen,
            "cluster_time_s": self.time_s,
            "base_lrs": [float(group["lr"]) for group in self.optimizer.param_groups],
            "lr": self._lr,
            "asked": self.hyperparameters.asked,
            **({"rate": rate} if (rate := self.learning_rate.state()) else {}),
            **({"measuring": self.measuring.state()} if self.measuring is not None else {}),
            **({"divergence": self.divergence.state()} if self.divergence is not None else {}),
        }

    def load(self, state: dict[str, Any]) -> None:
        """Go on from what :meth:`state` returned."""
        self.step_number = state["step"]
        self.samples_seen = state["samples_seen"]
        self.time_s = state["cluster_time_s"]
        self._lr = state.get("lr", self._lr)
        self.hyperparameters.load(state["base_lrs"], state.get("asked"))
        if "rate" in state:
            self.learning_rate.load(state["rate"])
        if self.measuring is not None and "measuring" in state:
            self.measuring.load(state["measuring"])


def clip(parameters: Iterable[nn.Parameter], most: float) -> None:
    """Scale the gradients down to a norm of ``most`` where theirs, taken together, is larger."""
    gradients = [p.grad for p in parameters if p.grad is not None]
    if not gradients:
        return
    # float64 and rounded, so that processors which add in another order come to the same factor
    norms = torch.stack([torch.linalg.vector_norm(gradient, dtype=torch.float64) for gradient in gradients])
    norm = float(torch.linalg.vector_norm(norms))
    if norm > most:
        for gradient in gradients:
            gradient.mul_(float(np.float32(most / norm)))
