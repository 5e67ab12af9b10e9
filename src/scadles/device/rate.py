"""By what the learning rate is multiplied: what gradients of steps a little apart say of it, measured in the run."""

from __future__ import annotations

import base64
import math
from collections import deque
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from scadles.exchange.aggregation.noise_scale import SKETCH_SIZE

_CHANGED_EVERY = 10  # steps
_CHANGE = 2.0  # the factor of each change
_TOO_LOW, _TOO_HIGH = 0.5, -0.2  # alignments beyond which the rate is another
_KEPT = 10  # pairs that count
_FEWEST = 4
_SIGMAS = 2.0
_LONGEST_LAG = 20
_MOST = 256.0  # by how much the rate is another than the one that was asked for


class AutoRate:
    """A factor of the learning rate, the same on all devices, from what all have measured.

    From the mean gradients g of pairs of steps that lie one horizon of momentum, 1 / (1 - momentum) steps, apart, it
    tells how well they are aligned: E[g_t . g_(t + horizon)] / |G|^2, with G the gradient without noise. Noise of steps
    is independent, so that the product has no bias. Far below the best rate the gradient is still the same after a
    horizon, and the alignment 1; where it is negative, steps go too far, and come back. The factor is doubled where the
    alignment is surely above 0.5, and halved where it is surely below -0.2, by two standard errors over at most ten
    pairs since the last change, at most every ten steps. Where |G|^2 is not surely above 0, gradients are mostly noise,
    and nothing changes: what looks like an alignment there is chance, or comes of samples that are replayed in turns.

    The optimizer's own momentum has become part of the rate (:meth:`.Hyperparameters.scaled`), so that gradients of
    steps in a row tell, and what a change has done is seen at once.

    Args:
        momentum: of what devices send, at least 0 and below 1.
        asked: the learning rates of the optimizer's groups, as they are asked for.

    Attributes:
        factor: of the rate.
        asked: as given, or as the run was set up with, whose state was loaded.
        lag: how many steps apart the gradients of a pair are.
        may_rise: whether it may be doubled; not where training has diverged a while ago.
        changes: how often the factor was another one from then on.
        why: the last one was chosen, in words.
    """

    def __init__(self, momentum: float, asked: Iterable[float] = ()) -> None:
        self.factor = 1.0
        self.asked = self._here = list(asked)
        self.lag = max(1, min(_LONGEST_LAG, round(1 / (1 - momentum))))
        self.changes, self.why = 0, ""
        self.may_rise = True
        self._firsts: dict[int, tuple[np.ndarray, float]] = {}
        self._pairs: deque[tuple[float, float]] = deque(maxlen=_KEPT)
        self._changed_at = 0

    @property
    def due(self) -> float:
        """The next step that makes a pair with one before; infinity for none."""
        return min(self._firsts, default=math.inf) + self.lag

    def forget(self) -> None:
        """Forget what waits for its pair, and all pairs: the model is an earlier one."""
        self._firsts.clear()
        self._pairs.clear()

    def begin_anew(self, step: int) -> None:
        """Wait for new pairs: from this step on batches have another size, and so the rate is another one."""
        self._pairs.clear()
        self._changed_at = step

    def pass_by(self, step: int) -> None:
        """Forget what would have made a pair with this step or one before."""
        self._firsts = {at: kept for at, kept in self._firsts.items() if at + self.lag > step}

    def follow(self, step: int, mean: np.ndarray, square: float, *, begins: bool) -> str | None:
        """Take note of the mean gradient of a step; return why the factor changes, None where it does not.

        Args:
            step: the last one.
            mean: sketch of the mean gradient, ``[SKETCH_SIZE]``, by one seed in all steps.
            square: squared norm of the gradient without noise, as told from this step.
            begins: whether it is the first of another pair.
        """
        first = self._firsts.pop(step - self.lag, None)
        if begins:
            self._firsts[step] = mean.astype(np.float32), square
        if first is None:
            return None
        self._pairs.append((float(mean @ first[0]), (square + first[1]) / 2))
        return self._choose(step)

    def _choose(self, step: int) -> str | None:
        if len(self._pairs) < _FEWEST or step - self._changed_at < _CHANGED_EVERY:
            return None
        products, squares = np.array(self._pairs).T
        before = self.factor
        if not _is_positive(squares):
            return None
        if self.may_rise and _is_positive(products - _TOO_LOW * squares):
            self.factor = min(before * _CHANGE, _MOST)
        elif _is_positive(_TOO_HIGH * squares - products):
            self.factor = max(before / _CHANGE, 1 / _MOST)
        if self.factor == before:
            return None
        self._changed_at = step
        self._pairs.clear()
        self.changes += 1
        told = f"{products.mean() / squares.mean():.2f}"
        apart = f"{self.lag} step{'s' if self.lag > 1 else ''} apart"
        self.why = (
            f"learning rate x {before:.3g} -> x {self.factor:.3g}: gradients {apart} have an alignment of {told}, "
            + ("so the rate is too low" if self.factor > before else "so steps go too far")
        )
        return self.why

    def state(self) -> dict[str, Any]:
        """Return what a checkpoint holds, as JSON."""
        return {
            "asked": self.asked,
            "factor": self.factor,
            "changed_at": self._changed_at,
            "changes": self.changes,
            "why": self.why,
            "pairs": [list(pair) for pair in self._pairs],
            "firsts": list(self._firsts),
            "sketches": [base64.b64encode(mean.astype("<f4").tobytes()).decode() for mean, _ in self._firsts.values()],
            "squares": [square for _, square in self._firsts.values()],
        }

    def load(self, state: Mapping[str, Any]) -> None:
        """Go on from what :meth:`state` returned.

        Raises:
            ValueError: it is nothing that :meth:`state` returns.
        """
        factor = float(state["factor"])
        if not 1 / _MOST <= factor <= _MOST:
            raise ValueError(f"a factor of the learning rate of {factor}")
        pairs = np.array(state["pairs"], dtype=float).reshape(-1, 2)
        squares = np.array(state["squares"], dtype=float).reshape(-1)
        means = [_sketch(text) for text in state["sketches"]]
        if not (np.isfinite(pairs).all() and np.isfinite(squares).all()):
            raise ValueError("an alignment of gradients that is not finite")
        firsts = dict(zip(map(int, state["firsts"]), zip(means, squares.tolist(), strict=True), strict=True))
        self.asked = [float(rate) for rate in state["asked"]]
        self._firsts = firsts
        self._pairs = deque(((product, square) for product, square in pairs.tolist()), maxlen=_KEPT)
        self.factor, self._changed_at = factor, int(state["changed_at"])
        self.changes, self.why = int(state["changes"]), str(state["why"])

    def ask_again(self) -> None:
        """Begin anew after :meth:`load` where this attempt asks for other rates than the run was set up with."""
        if self.asked != self._here:
            self.forget()
            self.asked, self.factor = self._here, 1.0
            self.changes, self.why, self._changed_at = 0, "", 0


def _is_positive(values: np.ndarray) -> bool:
    """Return whether the mean of what these were drawn from is surely above 0."""
    return bool(values.mean() > _SIGMAS * values.std(ddof=1) / math.sqrt(len(values)))


def _sketch(text: str) -> np.ndarray:
    """Return a sketch from its text in a checkpoint."""
    mean = np.frombuffer(base64.b64decode(text), dtype="<f4").astype(np.float32)
    if mean.shape != (SKETCH_SIZE,) or not np.isfinite(mean).all():
        raise ValueError(f"a sketch of {mean.size} values, or not of finite ones")
    return mean
