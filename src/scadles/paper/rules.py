"""The paper's formulas, from which the rule column of every table comes."""

from __future__ import annotations

from collections.abc import Sequence

from scadles.device.injection import Injection
from scadles.paper.published import BATCH, GB, SAMPLE_BYTES, Network


def extra_gathering_s(batch: int, rate_hz: float) -> float:
    """Return the seconds beyond one that a stream needs to bring a batch: ``b / S - 1`` (paper, section II).

    >>> round(extra_gathering_s(64, 12.0), 2)
    4.33
    """
    return batch / rate_hz - 1


def waiting_samples(steps: float, step_s: float, rate_hz: float, batch: float) -> float:
    """Return what waits after so many steps: ``Q = (t S - b) T + S`` where t S >= b (paper, section II).

    A stream that brings no more than is trained on keeps about one second of it.

    >>> waiting_samples(1000, 1.2, 100, 64)
    56100.0
    """
    return max(0.0, step_s * rate_hz - batch) * steps + rate_hz


def arrived_samples(steps: float, step_s: float, rate_hz: float) -> float:
    """Return what a stream brings in so many steps: ``t S T``, whether it is trained on or not."""
    return step_s * rate_hz * steps


def gigabytes(samples: float) -> float:
    """Return the size of samples of 3 KB in the paper's gigabytes, 2^30 bytes."""
    return samples * SAMPLE_BYTES / GB


def ddl_step_s(rates_hz: Sequence[float], network: Network) -> float:
    """Return the steady step of DDL: the slowest stream's batch, or the step itself where that takes longer.

    >>> from scadles.paper.published import NETWORKS
    >>> ddl_step_s([8.0, *15 * [100.0]], NETWORKS["vgg19"]), ddl_step_s(16 * [100.0], NETWORKS["vgg19"])
    (8.0, 1.6)
    """
    return max(BATCH / min(rates_hz), network.step_s(devices=len(rates_hz)))


def scadles_step_s(rates_hz: Sequence[float], network: Network) -> float:
    """Return the steady step of ScaDLES: one second of stream, or the step of the largest batch."""
    return max(1.0, network.step_s(max(rates_hz), len(rates_hz)))


def throughput_ratio(rates_hz: Sequence[float], network: Network) -> float:
    """Return how many more samples per second ScaDLES trains on than DDL.

    It would be the speed-up if every sample taught as much in a large batch as in a small one.
    """
    ddl = BATCH * len(rates_hz) / ddl_step_s(rates_hz, network)
    return sum(rates_hz) / scadles_step_s(rates_hz, network) / ddl


def floats_share(cnc: float, ratio: float) -> float:
    """Return the floats sent over those of dense steps alone: ``1 - CNC + CNC CR``, without indices (paper, section V).

    >>> round(floats_share(0.29, 0.1), 3)
    0.739
    """
    return 1 - cnc + cnc * ratio


def published_bytes_share(cnc: float, ratio: float, devices: int) -> float:
    """Return the bytes that the paper's program sends over those of dense steps alone.

    It gathers 32-bit values and 64-bit indices of all devices, 12 (N - 1) CR n bytes on a device's link, where a ring
    of dense gradients sends 8 (N - 1) / N n.

    >>> round(published_bytes_share(1.0, 0.1, 16), 2)
    2.4
    """
    return 1 - cnc + cnc * 1.5 * devices * ratio


def shared_kilobytes(rates_hz: Sequence[float], alpha: float, beta: float) -> tuple[float, float, float]:
    """Return mean, least and most KB that devices share in a step: 3 KB times the sum over ``ceil(alpha N)`` senders of
    ``int(beta S)``, each sample counted once (paper, section V).

    >>> shared_kilobytes([40.0, 20.0, 10.0, 10.0], alpha=0.5, beta=0.5)
    (60.0, 30.0, 90.0)
    """
    injection = Injection(alpha, beta, len(rates_hz), seed=0)
    counts, senders = sorted(injection.count(round(rate)) for rate in rates_hz), len(injection.senders(step=1))
    sample_kb = SAMPLE_BYTES / 1024
    mean = senders * sum(counts) / len(counts)
    return sample_kb * mean, sample_kb * sum(counts[:senders]), sample_kb * sum(counts[-senders:])
