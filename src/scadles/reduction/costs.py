"""What each way to add up sparse updates sends, and which one is cheapest."""

from __future__ import annotations

from typing import NamedTuple

from scadles.compression import budget_bytes
from scadles.reduction.parcels import parcel_bytes

_GLOO_BYTES = 144


class Volume(NamedTuple):
    """What one device sends in a step.

    Attributes:
        name: of the way: ``gather`` or ``split``, ``dense`` for a ring all-reduce of everything.
        parcel_bytes: of each of the parcels that are swapped, 0 where none are.
        message_bytes: of the message that is gathered, or of the vector that is reduced.
        messages: how many messages leave the device.
        bytes_sent: what they hold.
        rounds: messages that wait for one another.
    """

    name: str
    parcel_bytes: int
    message_bytes: int
    messages: int
    bytes_sent: int
    rounds: int

    @property
    def gloo_bytes(self) -> int:
        """What leaves through gloo, which adds 144 bytes of its own to each message (measured with torch 2.13)."""
        return self.bytes_sent + _GLOO_BYTES * self.messages

    def seconds(self, bandwidth_bps: float, latency_s: float) -> float:
        """Return the time on links of this bandwidth and latency: ``rounds * latency + 8 * bytes / bandwidth``."""
        return self.rounds * latency_s + 8 * self.bytes_sent / bandwidth_bps


class Choice(NamedTuple):
    """The cheapest way.

    Attributes:
        volume: of this way.
        dense: of a ring all-reduce of the whole vector, for comparison.
        why: in words.
    """

    volume: Volume
    dense: Volume
    why: str

    @property
    def name(self) -> str:
        """``gather`` or ``split``."""
        return self.volume.name


def dense_volume(n: int, size: int) -> Volume:
    """Return the volume of a ring all-reduce of ``n`` float32: ``2 (N - 1) / N`` of the vector in ``2 (N - 1)`` rounds
    (Patarasu and Yuan 2009).

    >>> dense_volume(1_000_000, 16).bytes_sent
    7500000
    """
    rounds = 2 * (size - 1)
    return Volume("dense", 0, 4 * n, rounds, rounds * 4 * n // size, rounds)


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
    parcel, message = parcel_bytes(span, count, value_type), parcel_bytes(span, count, value_type, scalars)
    rounds = min(2 * (size - 1), 2)
    return Volume("split", parcel, message, rounds * (size - 1), (size - 1) * (parcel + message), rounds)


def choose_reducer(
    n: int,
    k: int,
    size: int,
    value_type: str = "int8",
    scalars: int = 0,
    bandwidth_bps: float | None = None,
    latency_s: float = 0.0,
) -> Choice:
    """Return the cheapest way to add up sparse updates, and why.

    Args:
        n: length of the updates.
        k: entries that each device sends.
        size: devices.
        value_type: of the values on the wire.
        scalars: numbers that travel along.
        bandwidth_bps: of the links; None compares bytes alone, then rounds.
        latency_s: of the links.

    >>> choose_reducer(1_000_000, 10_000, 16).why
    'split: 39 kB a device in 2 rounds, gather: 315 kB in 1, dense: 7500 kB in 30; split sends less'
    >>> choose_reducer(10_000, 100, 4, bandwidth_bps=20e6, latency_s=0.05).name
    'gather'
    """
    dense = dense_volume(n, size)
    volumes = [way(n, k, size, value_type, scalars) for way in (gather_volume, split_volume)]
    if bandwidth_bps is None:
        best, other = sorted(volumes, key=lambda volume: (volume.bytes_sent, volume.rounds))
        reason = f"{best.name} sends less" if best.bytes_sent < other.bytes_sent else "equal, and gather is simpler"
    else:
        best, other = sorted(volumes, key=lambda volume: volume.seconds(bandwidth_bps, latency_s))
        mine, theirs = (volume.seconds(bandwidth_bps, latency_s) for volume in (best, other))
        reason = f"at {bandwidth_bps / 1e6:g} Mbit/s and {latency_s * 1e3:g} ms {mine:.3g} s against {theirs:.3g} s"
    said = ", ".join(f"{v.name}: {_kilobytes(v)} in {v.rounds}" for v in (other, dense))
    return Choice(best, dense, f"{best.name}: {_kilobytes(best)} a device in {best.rounds} rounds, {said}; {reason}")


def _kilobytes(volume: Volume) -> str:
    return f"{volume.bytes_sent / 1e3:.0f} kB"
