"""Which gradients of a step are unlike all others: judged by norm and by direction, from the fleet itself."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from typing import Any, Literal, NamedTuple, Protocol

import numpy as np

# A norm is far out beyond this many robust standard deviations of the logarithms, and 10 times the median at least:
# honest devices of a fleet with skewed labels and small batches differ by that much.
_NORM_SPREADS, _LEAST_NORM_LIMIT = 5.0, math.log(10.0)
# A mean cosine is far out below the fleet's median by this many deviations, of 0.05 each at least, where it says
# clearly that the device pulls back, and the fleet's median that the others pull together.
_COSINE_SPREADS, _LEAST_COSINE_SPREAD, _CLEARLY_AGAINST = 4.0, 0.05, -0.1
_FEWEST = 3
_FEWEST_STEPS, _MEMORY_STEPS = 5, 20
#: A norm that is no number, or of a device that has never had any weight, is said to be so many times the fleet's.
MOST_TIMES = 1e9


class Judgement(NamedTuple):
    """What came of judging the gradients of one step.

    Attributes:
        factors: what to multiply gradients by, by device, where that is not 1; 0 sets one aside.
        found: what is wrong with them, by device: above 0 how many times the fleet's its norm is, below 0 the mean of
            its cosines with the sum of the others.
    """

    factors: Mapping[int, float]
    found: Mapping[int, float]


class Gradients(Protocol):
    """The weighted gradients of one step, by device."""

    def norms(self) -> Mapping[int, float]:
        """Return the norm of each, computed in float64."""

    def products(self, among: Collection[int]) -> tuple[Mapping[int, float], float]:
        """Return the scalar product of each with the sum of those ``among`` them, and the squared norm of that sum."""


class Judge:
    """Finds gradients that are unlike all others of their step.

    **Norm.** That of each device's gradient per sample, the weighted gradient over the weight, or over its mean weight
    in past steps where that is larger, against the median over the devices of this step: ``log`` of it may be above
    the median by 5 robust standard deviations (1.4826 MAD; Hampel 1974), or by ``log 10`` where these are less.

    **Direction.** A gradient that points backwards has the norm of an honest one. Its cosine with the sum of the others
    is averaged over some 20 steps, because those of an honest device with labels of its own are around 0 and may be
    below in any one step. A device pulls back where its mean, of 5 steps at least, is below -0.1 and 4 robust standard
    deviations (0.05 each at least) below the median of a fleet whose median is above 0; until its mean is above 0
    again. Where labels are so skewed that honest devices pull against each other the median is not above 0, or the
    deviation large, and nobody is set aside for that.

    With fewer than three gradients there is nobody to compare with, and none is judged. Everything depends on gradients
    and weights alone, so that all who judge the same come to the same; what is remembered is in :meth:`state`.

    Args:
        action: ``reject`` sets aside what is far out; ``clip`` scales gradients down to the largest norm that is not,
            and does not look at directions.
    """

    def __init__(self, action: Literal["clip", "reject"]) -> None:
        self.action = action
        self._weights: dict[int, tuple[int, float]] = {}
        self._cosines: dict[int, tuple[int, float]] = {}
        self._against: set[int] = set()

    def judge(self, gradients: Gradients, weights: Mapping[int, float]) -> Judgement:
        """Judge the gradients of one step.

        Args:
            gradients: of all devices that take part.
            weights: of these devices.
        """
        norms = gradients.norms()
        factors, found = self._by_norm({one: self._per_sample(one, norms[one], weights[one]) for one in norms})
        if self.action == "reject":
            kept = {one: norm for one, norm in norms.items() if norm > 0 and one not in factors}
            self._look_at_directions(gradients, kept)
            against = {one: self._cosines[one][1] for one in kept if one in self._against}
            factors.update(dict.fromkeys(against, 0.0))
            found.update(against)
        return Judgement(factors, found)

    def state(self) -> dict[str, Any]:
        """Return what is remembered of past steps, for JSON."""
        remembered = {"weights": self._weights, "cosines": self._cosines}
        rows = {name: [[one, *mean] for one, mean in means.items()] for name, means in remembered.items()}
        return {**rows, "against": sorted(self._against)}

    def load(self, state: Mapping[str, Any]) -> None:
        """Go on from what :meth:`state` returned."""
        self._weights, self._cosines = (
            {int(one): (int(count), float(mean)) for one, count, mean in state[name]} for name in ("weights", "cosines")
        )
        self._against = {int(one) for one in state["against"]}

    def _per_sample(self, device: int, norm: float, weight: float) -> float:
        if weight > 0:
            self._weights[device] = _moved(self._weights.get(device), weight)
        of = max(weight, self._weights.get(device, (0, 0.0))[1])
        return norm / of if of > 0 else norm * math.inf if norm else 0.0

    def _by_norm(self, norms: Mapping[int, float]) -> tuple[dict[int, float], dict[int, float]]:
        factors = {one: 0.0 for one, norm in norms.items() if not math.isfinite(norm)}
        found = dict.fromkeys(factors, MOST_TIMES)
        known = {one: math.log(norm) for one, norm in norms.items() if 0 < norm < math.inf}
        if len(known) < _FEWEST:
            return factors, found
        median, spread = _median_and_spread(known.values())
        most = median + max(_NORM_SPREADS * spread, _LEAST_NORM_LIMIT)
        for one, size in known.items():
            if size > most:
                # rounded, so that processors which add in another order come to the same factor
                factors[one] = float(np.float32(math.exp(most - size))) if self.action == "clip" else 0.0
                found[one] = min(math.exp(size - median), MOST_TIMES)
        return factors, found

    def _look_at_directions(self, gradients: Gradients, norms: Mapping[int, float]) -> None:
        """Remember the cosine of each with the sum of the others, and see who pulls back."""
        among = [one for one in norms if one not in self._against]
        if len(among) < _FEWEST:
            return
        products, total_sq = gradients.products(among)
        for one, norm in norms.items():
            own = norm * norm if one in among else 0.0
            others_sq = total_sq - 2 * products[one] + own if own else total_sq
            if others_sq > 0:
                cosine = (products[one] - own) / (norm * math.sqrt(others_sq))
                self._cosines[one] = _moved(self._cosines.get(one), max(-1.0, min(1.0, cosine)))
        means = {one: self._cosines[one][1] for one in norms if self._cosines.get(one, (0, 0.0))[0] >= _FEWEST_STEPS}
        self._against -= {one for one, mean in means.items() if mean > 0}
        if len(means) < _FEWEST:
            return
        median, spread = _median_and_spread(means.values())
        limit = min(median - _COSINE_SPREADS * max(spread, _LEAST_COSINE_SPREAD), _CLEARLY_AGAINST)
        if median > 0:
            self._against |= {one for one, mean in means.items() if mean < limit}


def described(found: float) -> str:
    """Return what was found wrong with a gradient, for people.

    >>> described(1000.4), described(-0.52)
    ("norm 1,000 times the fleet's", 'against the others, mean cosine -0.52')
    """
    if found > 0:
        return f"norm {found:,.0f} times the fleet's" if found < MOST_TIMES else "a norm that is no number"
    return f"against the others, mean cosine {found:.2f}"


def _moved(before: tuple[int, float] | None, value: float) -> tuple[int, float]:
    """Return how many values a mean has seen, and the mean: of all at first, then forgetting."""
    count, mean = before or (0, 0.0)
    return count + 1, mean + (value - mean) / min(count + 1, _MEMORY_STEPS)


def _median_and_spread(values: Collection[float]) -> tuple[float, float]:
    """Return the median and the median absolute deviation, scaled to be a normal distribution's deviation."""
    array = np.fromiter(values, np.float64, len(values))
    median = float(np.median(array))
    return median, 1.4826 * float(np.median(np.abs(array - median)))
