"""What tests of Kafka streams share: topics with records in them, and sources over them."""

import itertools
import time

import torch
from confluent_kafka import Producer
from confluent_kafka.admin import AdminClient, NewPartitions, NewTopic

from scadles.config import CodecConfig
from scadles.streams import SourceURL, make_codec
from scadles.streams.kafka.address import KafkaAddress
from scadles.streams.kafka.connection import Complaints
from scadles.streams.kafka.source import KafkaSource

EPOCH_S = 1_700_000_000
CODEC = make_codec(CodecConfig(), (1,), torch.float32, 10)

_numbers = itertools.count()


class Cluster:
    """A cluster to write to: ``host:port`` with topics of numbered records, the n-th of which holds n."""

    def __init__(self, servers):
        self.servers = servers
        self._options = {"bootstrap.servers": servers, "log_level": 0}
        self.admin = AdminClient(self._options)
        # in order: the first requests to a new topic may fail, and must not be repeated behind later ones
        in_order = {"enable.idempotence": True, "max.in.flight": 1}
        self.producer = Producer(self._options | in_order | {"linger.ms": 1, "batch.num.messages": 500})

    def new_topic(self, partitions=1, **settings):
        """Make a topic with a name of its own, which keeps records however old they are."""
        settings = {"retention.ms": -1} | {key.replace("_", "."): value for key, value in settings.items()}
        name = f"numbers-{next(_numbers)}"
        wishes = [NewTopic(name, partitions, config={key: str(value) for key, value in settings.items()})]
        for made in self.admin.create_topics(wishes).values():
            made.result(30)
        return name

    def grow(self, topic, partitions):
        """Let a topic have so many partitions, and wait until they can be written to."""
        for grown in self.admin.create_partitions([NewPartitions(topic, partitions)]).values():
            grown.result(30)
        deadline_s = time.monotonic() + 30
        while True:  # the producer itself must know
            known = self.producer.list_topics(topic, timeout=30).topics[topic].partitions
            if len(known) == partitions and all(part.leader >= 0 for part in known.values()):
                return
            assert time.monotonic() < deadline_s, f"{topic} has {len(known)} partitions that can be used"
            time.sleep(0.1)

    def write(self, topic, numbers, partitions=1, producer=None):
        """Write records; the n-th goes to partition n modulo ``partitions``, 10 ms younger than the one before."""
        producer = producer or self.producer
        for number in numbers:
            key, value = CODEC.encode(torch.tensor([float(number)]), number % 10)
            stamp = EPOCH_S * 1000 + 10 * number
            producer.produce(topic, value, key, partition=number % partitions, timestamp=stamp)
        assert producer.flush(30) == 0


def kafka_source(servers, topic, parameters="", started_unix_s=EPOCH_S, quarantine=None, **more):
    """A source over a topic, not opened."""
    complaints = Complaints()
    url = SourceURL.parse(f"kafka://{servers}/{topic}?{parameters}" if parameters else f"kafka://{servers}/{topic}")
    address = KafkaAddress.of(url, complaints, group=f"scadles-{topic}", client="test")
    return KafkaSource(address, complaints, CODEC, quarantine, started_unix_s, **more)


def drain(source, count, timeout_s=20.0):
    """Poll until ``count`` records are there; return them as a list of Records."""
    got, parts = 0, []
    while got < count:
        records = source.poll(count - got, timeout_s)
        assert len(records) or records.lost or records.rejected, f"{got} of {count} records came"
        got += len(records)
        parts.append(records)
    return parts


def numbers_of(parts):
    """What the records hold."""
    return [int(value) for records in parts for value in torch.as_tensor(records.x).flatten().tolist()]
