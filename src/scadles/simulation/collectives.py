"""How long it takes until every device has the sum of all messages, and how many bytes leave for it.

A message from one device to another takes ``latency + 8 * bytes / bandwidth``: the bandwidth is the smaller of the
sender's up and the receiver's down link (inf: no time), the latency the longer of the two. A device sends and receives
at the same time. All functions take the bytes of one message and float64 ``[n]`` of n devices, in the order of the
collective, n at least 1.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from scadles.fabric.hub.frames import PIECE_BYTES


class ExchangeCost(NamedTuple):
    """What one exchange costs.

    Attributes:
        seconds: from its start, when the last device is ready, until every device has the result.
        bytes_sent: by all devices together, and by the hub of a star.
    """

    seconds: float
    bytes_sent: int


def ring(message_bytes: int, up_bps: np.ndarray, down_bps: np.ndarray, latency_s: np.ndarray) -> ExchangeCost:
    """Return the cost of a ring all-reduce of n chunks: reduce-scatter, then all-gather.

    ``2 (n - 1)`` rounds, in each of which every device sends ``M / n`` bytes to the next and the slowest hop counts;
    ``2 (n - 1) M`` bytes (Patarasu and Yuan 2009, "Bandwidth optimal all-reduce algorithms for clusters of
    workstations").

    >>> gigabit = np.full(4, 1e9)
    >>> ring(1_000_000_000, gigabit, gigabit, np.zeros(4))
    ExchangeCost(seconds=12.0, bytes_sent=6000000000)
    """
    rounds = 2 * (len(up_bps) - 1)
    return ExchangeCost(
        rounds * _slowest_hop_s(message_bytes / len(up_bps), up_bps, down_bps, latency_s), rounds * message_bytes
    )


def tree(message_bytes: int, up_bps: np.ndarray, down_bps: np.ndarray, latency_s: np.ndarray) -> ExchangeCost:
    """Return the cost of a binomial tree: the sum goes up to the first device, and back down the same way.

    ``2 ceil(log2 n)`` rounds of whole messages: in round k device ``i = 2^k mod 2^(k + 1)`` sends to ``i - 2^k``, and
    the slowest pair counts; ``2 (n - 1) M`` bytes (Thakur, Rabenseifner and Gropp 2005, "Optimization of collective
    communication operations in MPICH").
    """
    n, seconds, distance = len(up_bps), 0.0, 1
    while distance < n:
        children = np.arange(distance, n, 2 * distance)
        parents = children - distance
        latency = np.maximum(latency_s[children], latency_s[parents])
        for senders, receivers in ((children, parents), (parents, children)):
            bandwidth = np.minimum(up_bps[senders], down_bps[receivers])
            seconds += float(np.max(latency + 8 * message_bytes / bandwidth))
        distance *= 2
    return ExchangeCost(seconds, 2 * (n - 1) * message_bytes)


def all_gather(message_bytes: int, up_bps: np.ndarray, down_bps: np.ndarray, latency_s: np.ndarray) -> ExchangeCost:
    """Return the cost of bringing everybody's message to everybody around a ring; each device adds them up itself.

    ``n - 1`` rounds, in each of which every device sends one whole message to the next one and the slowest hop counts;
    ``n (n - 1) M`` bytes (Thakur, Rabenseifner and Gropp 2005). This is how sparse messages travel, whose sum would be
    larger than each.
    """
    n = len(up_bps)
    return ExchangeCost(
        (n - 1) * _slowest_hop_s(message_bytes, up_bps, down_bps, latency_s), n * (n - 1) * message_bytes
    )


def star(message_bytes: int, up_bps: np.ndarray, down_bps: np.ndarray, latency_s: np.ndarray) -> ExchangeCost:
    """Return the cost of a server outside the devices, such as :class:`.Hub`, whose own link takes no time.

    All devices send at the same time, in pieces of :data:`.PIECE_BYTES`, and each piece of the sum goes to all of them
    as soon as it is whole. Of a message of one piece that is ``max(latency + 8 M / up) + max(latency + 8 M / down)``.
    Of a longer one it is, for the piece that delays the end most, the same with what comes up to its end, and with what
    is still to go down from its beginning on. ``2 n M`` bytes.

    >>> megabit = np.full(4, 1e6)
    >>> star(125_000, megabit, megabit, np.zeros(4))
    ExchangeCost(seconds=2.0, bytes_sent=1000000)
    """
    last = max(0, message_bytes - 1) // PIECE_BYTES * PIECE_BYTES
    # what is up and what is left are convex along pieces of one length: the worst is the first, or at the end
    seconds = max(
        float(np.max(latency_s + 8 * min(begin + PIECE_BYTES, message_bytes) / up_bps))
        + float(np.max(latency_s + 8 * (message_bytes - begin) / down_bps))
        for begin in {0, max(0, last - PIECE_BYTES), last}
    )
    return ExchangeCost(seconds, 2 * len(up_bps) * message_bytes)


def through_hub(
    message_bytes: int, reply_bytes: int, up_bps: np.ndarray, down_bps: np.ndarray, latency_s: np.ndarray
) -> ExchangeCost:
    """Return the cost of a server that answers when it has everybody's whole message, with one for all of them.

    ``max(latency + 8 message_bytes / up) + max(latency + 8 reply_bytes / down)``; ``n (message_bytes + reply_bytes)``
    bytes.
    """
    up_s = float(np.max(latency_s + 8 * message_bytes / up_bps))
    down_s = float(np.max(latency_s + 8 * reply_bytes / down_bps))
    return ExchangeCost(up_s + down_s, len(up_bps) * (message_bytes + reply_bytes))


class Arrivals(NamedTuple):
    """What it costs to bring the messages of some devices to all others.

    Attributes:
        at_s: the stream time at which a device has all of them, -inf where it gets none, float64 ``[n]``.
        bytes_sent: by all devices together, and by the hub of a star.
    """

    at_s: np.ndarray
    bytes_sent: int


def share_directly(
    sizes: np.ndarray,
    sent_s: np.ndarray,
    senders: np.ndarray,
    up_bps: np.ndarray,
    down_bps: np.ndarray,
    latency_s: np.ndarray,
) -> Arrivals:
    """Return when messages are there that their senders send to each of the others themselves.

    Message i is at device j after ``latency + 8 max((n - 1) M_i / up_i, sum of what j gets / down_j)``: copies share
    the sender's link, and messages the receiver's.

    Args:
        sizes: of the messages, in bytes, ``[k]``.
        sent_s: stream time at which each leaves, float64 ``[k]``.
        senders: their places among the n devices, integer ``[k]``.

    >>> slow = np.full(3, 8e3)
    >>> share_directly(np.array([1000]), np.array([2.0]), np.array([1]), slow, slow, np.zeros(3))
    Arrivals(at_s=array([  4., -inf,   4.]), bytes_sent=2000)
    """
    n = len(up_bps)
    receiving_s = 8 * _incoming(sizes, senders, n) / down_bps
    at_s = np.full(n, -np.inf)
    for size, began_s, sender in zip(sizes.tolist(), sent_s.tolist(), senders.tolist(), strict=True):
        sending_s = 8 * (n - 1) * size / up_bps[sender]
        there_s = began_s + np.maximum(latency_s, latency_s[sender]) + np.maximum(receiving_s, sending_s)
        there_s[sender] = -np.inf
        np.maximum(at_s, there_s, out=at_s)
    return Arrivals(at_s, (n - 1) * int(sizes.sum()))


def share_by_hub(
    sizes: np.ndarray,
    sent_s: np.ndarray,
    senders: np.ndarray,
    up_bps: np.ndarray,
    down_bps: np.ndarray,
    latency_s: np.ndarray,
) -> Arrivals:
    """Return when messages are there that a server outside the devices passes on: up once, down to all others.

    Everything that device j gets leaves the hub when the last of it is there. Arguments are those of
    :func:`share_directly`.
    """
    n = len(up_bps)
    at_hub_s = sent_s + latency_s[senders] + 8 * sizes / up_bps[senders]
    last_s = np.full(n, at_hub_s.max())
    for sender in senders.tolist():
        last_s[sender] = at_hub_s[senders != sender].max(initial=-np.inf)
    return Arrivals(last_s + latency_s + 8 * _incoming(sizes, senders, n) / down_bps, n * int(sizes.sum()))


def _incoming(sizes: np.ndarray, senders: np.ndarray, n: int) -> np.ndarray:
    """Return the bytes that each of n devices gets."""
    incoming = np.full(n, float(sizes.sum()))
    incoming[senders] -= sizes
    return incoming


Collective = Callable[[int, np.ndarray, np.ndarray, np.ndarray], ExchangeCost]
COLLECTIVES: dict[str, Collective] = {"ring": ring, "tree": tree, "all-gather": all_gather, "star": star}


def _slowest_hop_s(nbytes: float, up_bps: np.ndarray, down_bps: np.ndarray, latency_s: np.ndarray) -> float:
    """Return the time of the slowest of the hops from each device to the next, the last one's to the first."""
    bandwidth = np.minimum(up_bps, np.roll(down_bps, -1))
    return float(np.max(np.maximum(latency_s, np.roll(latency_s, -1)) + 8 * nbytes / bandwidth))
