"""What a step costs in virtual time: computing, exchanging, and loading the model after an absence."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from scadles.config import CostConfig
from scadles.exchange.reduction import Volume
from scadles.simulation.availability import Availability
from scadles.simulation.collectives import (
    COLLECTIVES,
    Arrivals,
    ExchangeCost,
    share_by_hub,
    share_directly,
    star,
    through_hub,
)
from scadles.simulation.quantities import Quantity

__all__ = ["Arrivals", "Availability", "Costs", "ExchangeCost"]


class Costs:
    """The costs of all devices of one run.

    Args:
        config: what they are; lists in it have one entry for each device.
        devices: how many there are.
        seed: of the run.

    Attributes:
        availability: when each device is there.
        collective: that is charged for dense messages.

    A cost that varies in time has during a whole computation or exchange the value of its start.

    >>> costs = Costs(CostConfig(profile="k80-resnet152"), devices=16, seed=0)
    >>> costs.compute_s(np.full(16, 64), step=0, starts_s=np.zeros(16))[:2].tolist()
    [0.15, 0.15]
    >>> costs.dense(np.arange(16), costs.charged_bytes(1000), step=0, now_s=0.15)
    ExchangeCost(seconds=1.05, bytes_sent=7224000000)
    """

    def __init__(self, config: CostConfig, devices: int, seed: int) -> None:
        def quantity(section: str, name: str) -> Quantity:
            return Quantity(getattr(getattr(config, section), name), devices, seed, f"cost.{section}.{name}")

        self._step = quantity("compute", "step_s")
        self._sample = quantity("compute", "sample_s")
        self._coding = quantity("compute", "coding_s")
        self._up = quantity("link", "up_bps")
        self._down = quantity("link", "down_bps")
        self._latency = quantity("link", "latency_s")
        self.collective = config.collective
        self._collective = COLLECTIVES[config.collective]
        self._message_bytes = config.message_bytes
        self.availability = Availability(config.availability, devices, seed)

    def charged_bytes(self, own_bytes: int) -> int:
        """Return the bytes to charge for a gradient message: the configured size, or that of the real one."""
        return own_bytes if self._message_bytes is None else self._message_bytes

    def compute_s(self, batches: np.ndarray, step: int, starts_s: np.ndarray) -> np.ndarray:
        """Return how long each device computes, float64 ``[devices]``: ``step_s + sample_s * b``, 0 where b is 0.

        Args:
            batches: samples of each device, ``[devices]``.
            step: of the run.
            starts_s: stream time at which each device begins, float64 ``[devices]``.
        """
        seconds = self._step.at(step, starts_s) + self._sample.at(step, starts_s) * batches
        return np.where(batches > 0, seconds, 0.0)

    def dense(self, members: np.ndarray, message_bytes: int, step: int, now_s: float) -> ExchangeCost:
        """Return what it costs these devices to exchange a message each; fewer than two have nothing to exchange.

        Args:
            members: numbers of the devices that take part, sorted, integer ``[n]``.
            message_bytes: charged for the message of one device.
            step: of the run.
            now_s: stream time at which the exchange begins.
        """
        if len(members) < 2:
            return ExchangeCost(0.0, 0)
        return self._collective(message_bytes, *self._links(members, step, now_s))

    def sparse(self, members: np.ndarray, volume: Volume, step: int, now_s: float) -> ExchangeCost:
        """Return what it costs these devices to add up sparse messages: all rounds at the slowest link's pace.

        Args:
            members, step, now_s: as for :meth:`dense`.
            volume: what each of them sends.
        """
        if len(members) < 2:
            return ExchangeCost(0.0, 0)
        up, down, latency_s = self._links(members, step, now_s)
        seconds = volume.seconds(float(np.minimum(up, down).min()), float(latency_s.max()))
        return ExchangeCost(seconds, volume.gloo_bytes * len(members))

    def summed_by_hub(self, members: np.ndarray, message_bytes: int, step: int, now_s: float) -> ExchangeCost:
        """Return what it costs these devices, also one alone, to have a hub add their messages up, piece by piece.

        Args:
            members, message_bytes, step, now_s: as for :meth:`dense`.
        """
        return star(message_bytes, *self._links(members, step, now_s))

    def through_hub(
        self, members: np.ndarray, message_bytes: int, reply_bytes: int, step: int, now_s: float
    ) -> ExchangeCost:
        """Return what it costs these devices to send a hub a message each and to get another one back.

        Args:
            members, step, now_s: as for :meth:`dense`.
            message_bytes, reply_bytes: of both.
        """
        return through_hub(message_bytes, reply_bytes, *self._links(members, step, now_s))

    def sending_s(self, members: np.ndarray, message_bytes: int, step: int, now_s: float) -> float:
        """Return how long it takes until a hub has a message of each of these devices."""
        up_bps, _, latency_s = self._links(members, step, now_s)
        return float(np.max(latency_s + 8 * message_bytes / up_bps))

    def copies(self, members: int) -> int:
        """Return how often a device sends the samples that it shares: to each of the others, or to a star's hub."""
        return min(members - 1, 1) if self.collective == "star" else members - 1

    def share(
        self,
        members: np.ndarray,
        senders: np.ndarray,
        sizes: np.ndarray,
        sent_s: np.ndarray,
        step: int,
        now_s: float,
    ) -> Arrivals:
        """Return what it takes until all of these devices have what some of them share.

        Args:
            members, step, now_s: as for :meth:`dense`.
            senders: which of them share, sorted, integer ``[k]``.
            sizes: bytes of their messages, ``[k]``.
            sent_s: stream time at which each is sent, float64 ``[k]``.
        """
        way = share_by_hub if self.collective == "star" else share_directly
        return way(sizes, sent_s, np.searchsorted(members, senders), *self._links(members, step, now_s))

    def coding_s(self, members: np.ndarray, step: int, now_s: float) -> float:
        """Return how long the slowest of these devices selects and codes what it sends of its gradient."""
        return float(_those(self._coding.at(step, now_s), members).max(initial=0.0))

    def fetch_s(self, device: int, nbytes: int, step: int, now_s: float, source: int | None = None) -> float:
        """Return how long a device that comes back loads the model: its latency, and ``nbytes`` over its down link.

        Where another device is the source, the slower one of that device's up link and the down link counts.
        """
        one = np.array([device])
        latency_s, bps = _those(self._latency.at(step, now_s), one), _those(self._down.at(step, now_s), one)
        if source is not None:
            bps = np.minimum(bps, _those(self._up.at(step, now_s), np.array([source])))
        return float((latency_s + 8 * nbytes / bps)[0])

    def _links(self, members: np.ndarray, step: int, now_s: float) -> Iterator[np.ndarray]:
        """Yield up and down bandwidth and latency of these devices, float64 ``[n]`` each."""
        return (_those(quantity.at(step, now_s), members) for quantity in (self._up, self._down, self._latency))


def _those(value: float | np.ndarray, devices: np.ndarray) -> np.ndarray:
    """Return the value of each of these devices, float64 ``[len(devices)]``."""
    return value[devices] if isinstance(value, np.ndarray) else np.full(len(devices), value)
