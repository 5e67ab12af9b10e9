"""What each way to add up sparse updates sends, and which one is cheapest."""

from __future__ import annotations

import math
from typing import NamedTuple

from scadles.exchange.compression import budget_bytes
from scadles.exchange.reduction.slice_messages import slice_message_bytes

_GLOO_BYTES = 144


class Volume(NamedTuple):
    """What one device sends in a step.

    Attributes:
        name: of the way: ``gather``, ``split`` or ``hub``, ``dense`` for a ring all-reduce of everything.
        first_message_bytes: of each message of the first round, one for each device; 0 where there is one round.
        message_bytes: of the message that is gathered, or of the vector that is reduced.
        messages: how many messages leave the device.
        bytes_sent: what they hold.
        rounds: messages that wait for one another.
    """

    name: str
    first_message_bytes: int
    message_bytes: int
    messages: int
    bytes_sent: int
    rounds: int

    @property
    def gloo_bytes(self) -> int:
        """What leaves through gloo, which adds 144 bytes of its own to each message (measured with torch 2.13)."""
        return self.bytes_sent + _GLOO_BYTES * self.messages

    def seconds(self, bandwidth_bps: float, latency_s: float) -> float:
        """Return the time on links of this bandwidth and latency: ``rounds * latency + 8 * bytes / bandwidth``.

        The bytes that gloo adds are in it.
        """
        return self.rounds * latency_s + 8 * self.gloo_bytes / bandwidth_bps


class Choice(NamedTuple):
    """The cheapest way.

    Attributes:
        name: ``gather`` or ``split``.
        why: in words.
    """

    name: str
    why: str


def dense_volume(n: int, size: int) -> Volume:
    """Return the volume of a ring all-reduce of ``n`` float32: ``2 (N - 1) / N`` of the vector in ``2 (N - 1)`` rounds
    (Patarasu and Yuan 2009).

    >>> dense_volume(1_000_000, 16).bytes_sent
    7500000
    """
    rounds = 2 * (size - 1)
    return Volume("dense", 0, 4 * n, rounds, rounds * 4 * n // size, rounds)


def whole_volume(message_bytes: int, size: int) -> Volume:
    """Return the volume of an all-gather of whole gradients: each message goes straight to all others, all at once."""
    return Volume("whole", 0, message_bytes, size - 1, (size - 1) * message_bytes, min(size - 1, 1))


def gather_volume(n: int, k: int, size: int, value_type: str = "int8", scalars: int = 0) -> Volume:
    """Return the volume of an all-gather: every device's message goes straight to all others, all at once."""
    message = budget_bytes(n, k, value_type, scalars)
    return Volume("gather", 0, message, size - 1, (size - 1) * message, min(size - 1, 1))


def split_volume(n: int, k: int, size: int, value_type: str = "int8", scalars: int = 0) -> Volume:
    """Return the volume of a split: a part of each message goes to its owner, then everybody gets all owners' sums.

    >>> for size in (16, 256):
    ...     gather, split = (f(60_000_000, 600_000, size).bytes_sent for f in (gather_volume, split_volume))
    ...     print(size, gather // split)
    16 8
    256 131
    """
    span, count = -(-n // size), -(-min(k, n) // size)
    to_owner = slice_message_bytes(span, count, value_type)
    to_all = slice_message_bytes(span, count, value_type, scalars)
    rounds = min(2 * (size - 1), 2)
    return Volume("split", to_owner, to_all, rounds * (size - 1), (size - 1) * (to_owner + to_all), rounds)


def hub_volume(n: int, k: int, value_type: str = "int8", scalars: int = 0) -> Volume:
    """Return the volume of a way through an owner of the whole vector: a message there, one of about its size back."""
    message = budget_bytes(n, k, value_type, scalars + 1)
    return Volume("hub", 0, message, 1, message, 2)


def summed_volume(n: int) -> Volume:
    """Return the volume of a sum of ``n`` float32 at a hub: one message there, and one of the same size back."""
    return Volume("dense", 0, 4 * n, 1, 4 * n, 2)


def choose_reducer(
    n: int,
    k: int,
    size: int,
    value_type: str = "int8",
    scalars: int = 0,
    bandwidth_bps: float = math.inf,
    latency_s: float = 0.0,
) -> Choice:
    """Return the cheapest way to add up sparse updates, and why.

    Args:
        n: length of the updates.
        k: entries that each device sends.
        size: devices.
        value_type: of the values on the wire.
        scalars: numbers that travel along.
        bandwidth_bps, latency_s: of the slowest link; ways that take the same time there are told apart by bytes, then
            by rounds.

    >>> choose_reducer(1_000_000, 10_000, 16).why
    'split sends less: 43 kB in 2 rounds against 317 kB in 1 by gather'
    >>> choose_reducer(10_000, 100, 4, bandwidth_bps=20e6, latency_s=0.05).why
    'gather is faster at 20 Mbit/s and 50 ms: 0.0506 s against 0.1 s by split'
    """
    ways = [way(n, k, size, value_type, scalars) for way in (gather_volume, split_volume)]
    seconds = {way.name: way.seconds(bandwidth_bps, latency_s) for way in ways}
    best, other = sorted(ways, key=lambda way: (seconds[way.name], way.gloo_bytes, way.rounds))
    if seconds[best.name] < seconds[other.name]:
        link = f"{bandwidth_bps / 1e6:g} Mbit/s and {latency_s * 1e3:g} ms"
        took = f"{seconds[best.name]:.3g} s against {seconds[other.name]:.3g} s by {other.name}"
        return Choice(best.name, f"{best.name} is faster at {link}: {took}")
    less = "less" if best.gloo_bytes < other.gloo_bytes else "as much"
    sizes = f"{_kilobytes(best)} in {best.rounds} rounds against {_kilobytes(other)} in {other.rounds}"
    return Choice(best.name, f"{best.name} sends {less}: {sizes} by {other.name}")


def _kilobytes(volume: Volume) -> str:
    return f"{volume.gloo_bytes / 1e3:.0f} kB"
