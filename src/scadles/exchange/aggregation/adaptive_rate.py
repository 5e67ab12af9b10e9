"""The learning rate scaled by what a larger batch is worth, which how noisy gradients are decides."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence

from scadles.exchange.aggregation.learning_rate import LearningRate
from scadles.exchange.aggregation.noise_scale import Bounds


class AdaptiveRate(LearningRate):
    """AdaScale (Johnson, Agrawal, Gu and Guestrin, 2020): the rate times the gain of the global batch B,

    gain = (1 + B_n / B_base) / (1 + B_n / B),

    with B_n the noise scale: between B / B_base, where gradients are all noise, and 1, where they have none. A step of
    gain r counts as r steps on the base batch, so that warm-up and cuts, counted in samples, come where that many base
    batches have been taken. The gain rises to that of the present batch as momentum takes up gradients, so that those
    of smaller batches, which momentum still holds, are not multiplied by a larger one's rate. It falls at once.

    The lowest noise scale that may be is taken where B is the larger one and the highest where it is the smaller one:
    the smaller gain of both. Before anything is known that is the smaller one of B / B_base and 1.

    Args:
        base_batch, warmup_samples, milestones, gamma: as in :class:`.LearningRate`.
        power: of the gain: 1, or for adaptive optimizers 0.5.
        momentum: of the optimizer, at least 0 and below 1.
        noise: tells the noise scale; None where nobody knows yet.

    Attributes:
        position: in the schedule, in samples of base batches.

    >>> rate = AdaptiveRate(256, noise=lambda: Bounds(256, 256, 256))
    >>> rate.take(768, 0)[0], round(rate.take(128, 768)[0], 3), round(rate.position, 1)
    (1.5, 0.667, 554.7)
    """

    def __init__(
        self,
        base_batch: int,
        warmup_samples: int = 0,
        milestones: Sequence[int] = (),
        gamma: float = 0.2,
        *,
        power: float = 1.0,
        momentum: float = 0.0,
        noise: Callable[[], Bounds | None],
    ) -> None:
        super().__init__("linear", base_batch, warmup_samples, milestones, gamma)
        self.position = 0.0
        self._power = power
        self._share = 1.0 - momentum
        self._noise = noise
        self._gain = 0.0

    def gain(self, total_batch: int) -> float:
        """Return how many steps on the base batch one on ``total_batch`` samples, at least one, is worth."""
        ratio, known = total_batch / self.base_batch, self._noise()
        if known is None:
            return min(ratio, 1.0)
        noise = known.low if ratio > 1 else known.high
        return (1 + noise / self.base_batch) / (1 + noise / total_batch) if math.isfinite(noise) else ratio

    def take(self, total_batch: int, samples_before: int) -> tuple[float, float]:
        if not total_batch:
            return 0.0, 0.0
        gain = self.gain(total_batch)
        self._gain += (self._share if 0 < self._gain < gain else 1.0) * (gain - self._gain)
        before, self.position = self.position, self.position + self._gain * self.base_batch
        scale, (warmup, cut) = self._gain**self._power, self._schedule(before, self.position)
        return scale, scale * warmup * cut

    def state(self) -> dict[str, float]:
        return {"gain": self._gain, "position": self.position}

    def load(self, state: Mapping[str, float]) -> None:
        self._gain, self.position = float(state["gain"]), float(state["position"])
