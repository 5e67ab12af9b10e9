"""Records of 3 KB from a real Kafka topic to batch tensors of 1,024, in three ways that take turns within one run.

``ours`` is the source of kafka:// with the raw codec: its fetching thread, offsets, event times, labels and one tensor
for each batch. ``bare`` is confluent-kafka's own ``consume`` in a loop that looks at nothing, on the same topic.
``one at a time`` polls a record, makes a tensor of it and appends it with ``torch.cat``, as the published code does.
Prints each way's median rate and processor time (all threads, those of the client included), and the ratio of rates to
the bare loop turn by turn.

    python benchmarks/ingest.py [--records 60000] [--turns 5] [--broker HOST:PORT]

Without --broker it starts one, as the tests do (KAFKA_HOME).
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple

import torch
from confluent_kafka import Consumer, Producer, TopicPartition

from scadles.clock import WallClock
from scadles.config import CodecConfig
from scadles.streams import open_source_url
from scadles.streams.codec import make_codec
from scadles.streams.kafka.topics import Topics
from scadles.streams.producing import Retention
from scadles.testing.brokers import kafka

SHAPE = (3, 32, 32)
BATCH = 1024
BULK = 1000
SLOW_SHARE = 10


class Taken(NamedTuple):
    """Records per wall second, and microseconds of processor time for each."""

    rate: float
    cpu_us: float


def ours(broker: str, topic: str, records: int) -> Taken:
    """The source, decoded."""
    codec = make_codec(CodecConfig(), SHAPE, torch.uint8, 10)
    source = open_source_url(
        f"kafka://{broker}/{topic}",
        codec=codec,
        clock=WallClock(),
        device=0,
        run_dir=None,
        capacity=16384,
        truncates=False,
    )
    source.open(0)

    def take() -> int:
        got = source.poll(BATCH, 10.0)
        assert got.x.shape == (len(got), *SHAPE), "the batch is no tensor of samples"
        return len(got)

    taken = timed(take, records)
    source.close()
    return taken


def bare(broker: str, topic: str, records: int) -> Taken:
    """A loop that only consumes."""
    consumer = assigned(broker, topic)
    taken = timed(lambda: len(consumer.consume(BULK, 10.0)), records)
    consumer.close()
    return taken


def one_at_a_time(broker: str, topic: str, records: int) -> Taken:
    """Each record appended by itself; fewer records, as it is slow."""
    consumer = assigned(broker, topic)

    def take() -> int:
        x, y = torch.empty((0, *SHAPE), dtype=torch.uint8), torch.empty(0, dtype=torch.int64)
        while len(x) < BATCH:
            message = consumer.poll(10.0)
            sample = torch.frombuffer(bytearray(message.value()), dtype=torch.uint8).view(1, *SHAPE)
            x = torch.cat([x, sample])
            y = torch.cat([y, torch.tensor([int(message.key())])])
        return len(x)

    taken = timed(take, max(4 * BATCH, records // SLOW_SHARE))
    consumer.close()
    return taken


WAYS: dict[str, Callable[[str, str, int], Taken]] = {"bare": bare, "ours": ours, "one at a time": one_at_a_time}


def timed(take: Callable[[], int], records: int) -> Taken:
    """What ``take`` takes, counted from when its first records are there."""
    take()
    start, cpu, done = time.perf_counter(), time.process_time(), 0
    while done < records - 2 * BATCH:
        done += take()
    return Taken(done / (time.perf_counter() - start), (time.process_time() - cpu) / done * 1e6)


def assigned(broker: str, topic: str) -> Consumer:
    """A consumer at the beginning of a topic, with the fetching options of the source."""
    options = {"fetch.wait.max.ms": 20, "fetch.queue.backoff.ms": 10, "queued.max.messages.kbytes": 32 * 1024}
    consumer = Consumer({"bootstrap.servers": broker, "group.id": "benchmark", "enable.auto.commit": False, **options})
    consumer.assign([TopicPartition(topic, 0, 0)])
    return consumer


def fill(broker: str, topic: str, records: int) -> None:
    """Send the records: 3,072 bytes, the label in the key."""
    producer = Producer({"bootstrap.servers": broker, "linger.ms": 20})
    value = bytes(range(256)) * 12
    for number in range(records):
        while True:
            try:
                producer.produce(topic, value, str(number % 10).encode(), 0)
                break
            except BufferError:
                producer.poll(0.1)
    producer.flush()


def report(taken: dict[str, list[Taken]]) -> None:
    """Print medians and ratios."""
    print(f"{'':16}{'records/s':>12}{'MB/s':>8}{'CPU us each':>13}{'of the bare loop':>19}{'of one at a time':>19}")
    for name, mine in taken.items():
        shares = [ratio(mine, taken[other]) for other in ("bare", "one at a time")]
        rate, cpu_us = (statistics.median(column) for column in zip(*mine, strict=True))
        print(f"{name:16}{rate:12,.0f}{rate * 3072 / 1e6:8.0f}{cpu_us:13.2f}{shares[0]:19.3f}{shares[1]:19.1f}")


def ratio(mine: list[Taken], other: list[Taken]) -> float:
    """The median of ratios of rates turn by turn."""
    return statistics.median(a.rate / b.rate for a, b in zip(mine, other, strict=True))


@contextmanager
def a_broker(given: str | None) -> Iterator[str]:
    """The broker's address; one is started where none is given."""
    if given:
        yield given
        return
    with TemporaryDirectory() as folder, kafka.KafkaBroker(Path(folder)) as broker:
        yield broker.address


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--records", type=int, default=60_000)
    parser.add_argument("--turns", type=int, default=5)
    parser.add_argument("--broker", metavar="HOST:PORT")
    options = parser.parse_args()
    if not options.broker and kafka.kafka_home() is None:
        print(f"skipped: {kafka.HOW_TO_PROVIDE}")
        return 0
    torch.set_num_threads(1)
    topic = f"scadles-ingest-{time.time_ns()}"
    taken: dict[str, list[Taken]] = {name: [] for name in WAYS}
    with a_broker(options.broker) as broker:
        topics = Topics(broker)
        topics.create([topic], Retention())
        fill(broker, topic, options.records)
        for _ in range(options.turns):
            for name, way in WAYS.items():
                taken[name].append(way(broker, topic, options.records))
        topics.delete([topic])
    print(f"{options.records:,} records of 3,072 bytes, batches of {BATCH}, {options.turns} turns")
    report(taken)
    return 0


if __name__ == "__main__":
    sys.exit(main())
