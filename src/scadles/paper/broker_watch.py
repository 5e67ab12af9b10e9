"""What a Kafka broker receives while somebody publishes to it, by the broker's own offsets."""

from __future__ import annotations

import resource
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from threading import Event, Thread
from typing import TYPE_CHECKING

import numpy as np

from scadles.clock import timestamp_number, wall_seconds
from scadles.config import RunConfig, load_config
from scadles.errors import RunError, ScadlesError
from scadles.seeding import numpy_generator

if TYPE_CHECKING:
    from scadles.streams.kafka.topics import Topics

WARM_UP_S = 1.0
_LOOK_EVERY_S = 0.2
_SAMPLES = 512
_RETENTION_S = 600.0


@dataclass(frozen=True)
class Observation:
    """What a broker received while a publisher sent to it.

    Attributes:
        rates_hz: records per second of each topic, by the broker's own offsets, float64 ``[topics]``.
        cpu: seconds of processor time per second that the publishing process took.
    """

    rates_hz: np.ndarray
    cpu: float


def observe(address: str, topics: int, rate_hz: float, seconds: float) -> Observation:
    """Publish records of 3 KB to so many new topics for so long, and look at their ends meanwhile.

    Args:
        address: ``host:port`` of the broker, perhaps with parameters as in ``stream.url``.
        topics: how many; they are removed afterwards.
        rate_hz: records per second on each.
        seconds: how long.

    Raises:
        ConfigError: the broker does not answer, or refuses.
        KeyboardInterrupt: somebody stopped it.
    """
    from scadles.publishing.publish import publish
    from scadles.streams.kafka.topics import Topics
    from scadles.streams.producing import Retention

    prefix = f"scadles-rates-{timestamp_number()}-{topics}x{rate_hz:g}-"
    names = [f"{prefix}{number}" for number in range(topics)]
    cluster = Topics(address)
    cluster.create(names, Retention(seconds=_RETENTION_S))
    try:
        with TemporaryDirectory() as folder, Observer(cluster, names) as observer:
            config = _config(address, f"{prefix}{{device}}", topics, rate_hz, Path(folder))
            before_s, cpu_s = wall_seconds(), _cpu_seconds()
            report = publish(config, duration_s=seconds)
            cpu = (_cpu_seconds() - cpu_s) / (wall_seconds() - before_s)
    finally:
        cluster.delete(names)
    if report.stopped:
        raise KeyboardInterrupt
    return Observation(observer.rates_hz(seconds), cpu)


class Observer:
    """Looks at the ends of topics every 0.2 s, in a thread of its own, while entered."""

    def __init__(self, cluster: Topics, topics: Sequence[str]) -> None:
        self._cluster = cluster
        self._topics = topics
        self._done = Event()
        self._looks: list[tuple[float, np.ndarray]] = []
        self._error: ScadlesError | None = None
        self._thread = Thread(target=self._work, daemon=True)

    def __enter__(self) -> Observer:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._done.set()
        self._thread.join()

    def rates_hz(self, seconds: float) -> np.ndarray:
        """Return each topic's rate between the first second after its first record and the end of publishing."""
        if self._error is not None:
            raise self._error
        times = np.array([time for time, _ in self._looks])
        ends = np.array([ends for _, ends in self._looks], dtype=np.float64)
        started = int(np.argmax(ends.sum(axis=1) > 0))
        first = int(np.searchsorted(times, times[started] + WARM_UP_S))
        last = int(np.searchsorted(times, times[started] + seconds - _LOOK_EVERY_S)) - 1
        if last <= first:
            raise RunError("too few records came to tell a rate: is the broker slow?")
        return np.asarray((ends[last] - ends[first]) / (times[last] - times[first]))

    def _work(self) -> None:
        try:
            while not self._done.wait(_LOOK_EVERY_S):
                before_s = wall_seconds()
                ends = self._cluster.ends(self._topics)
                self._looks.append(((before_s + wall_seconds()) / 2, ends))
        except ScadlesError as error:
            self._error = error


def _config(address: str, topic: str, topics: int, rate_hz: float, folder: Path) -> RunConfig:
    servers, mark, query = address.partition("?")
    return load_config(
        {
            "devices": topics,
            "steps": 1,
            "data": {"dataset": f"npz:{_pictures(folder / 'pictures.npz')}", "partition": "shared"},
            "stream": {"url": f"kafka://{servers}/{topic}{mark}{query}", "rates": float(rate_hz)},
        }
    )


def _pictures(path: Path) -> Path:
    """Write a few noisy pictures of 3,072 bytes, as large as those of the paper."""
    generator = numpy_generator(0, "pictures")
    x = generator.integers(0, 256, (_SAMPLES, 3, 32, 32), dtype=np.uint8)
    y = np.arange(_SAMPLES) % 10
    np.savez(path, train_x=x, train_y=y, test_x=x[:10], test_y=y[:10])
    return path


def _cpu_seconds() -> float:
    """Return the processor time that this process has taken."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime
