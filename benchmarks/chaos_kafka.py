"""Topics of a real Kafka broker for devices that are killed: filled while a run goes, and counted by the broker."""

from __future__ import annotations

import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from chaos_processes import Process
from fleet_account import WHERE, last_ledger

from scadles.testing.brokers.kafka import KafkaBroker

_TOPIC = "chaos"
_TOPICS_THERE_S = 90.0


class Topics:
    """A topic for each device, of which record k is the k-th of the device's part of the data set.

    Args:
        broker: that is there.
        root: where the publisher writes to.
    """

    def __init__(self, broker: KafkaBroker, root: Path) -> None:
        self._broker = broker
        self._root = root
        self.url = f"kafka://{broker.address}/{_TOPIC}-{{device}}"

    def publish(self, config: Path) -> Process:
        """Begin to send records to each topic at the rate of its stream; return once the topics are there."""
        arguments = ["publish", str(config), "--create-topics"]
        publisher = Process("publisher", arguments, self._root, ends_with=128 + signal.SIGINT)
        publisher.start()
        deadline_s = time.monotonic() + _TOPICS_THERE_S
        while "publishing to" not in (publisher.said.read_text() if publisher.said.exists() else ""):
            if not publisher.runs or time.monotonic() > deadline_s:
                raise SystemExit(f"no topics: {publisher.said.read_text()}")
            time.sleep(0.05)
        return publisher

    def look(self, folders: dict[str, Path]) -> tuple[list[str], list[str]]:
        """Hold each device's ledger against the broker's end of its topic; return what is wrong, and a table."""
        rows = (line.split(":") for line in self._broker.tool("GetOffsetShell", "--time", "latest").splitlines())
        ends = {topic: int(end) for topic, _, end in rows}
        wrong: list[str] = []
        table = [f"{'':<8} {'topic':<8} {'end':>7} {'received':>9} " + " ".join(f"{what:>8}" for what in WHERE)]
        for name, folder in folders.items():
            for path in folder.glob("events-*.jsonl"):
                topic = f"{_TOPIC}-{path.stem.rsplit('-', 1)[1]}"
                end, ledger = ends.get(topic, -1), last_ledger(path)
                counts = " ".join(f"{ledger.get(what, -1):>8}" for what in WHERE)
                table.append(f"{name:<8} {topic:<8} {end:>7} {ledger.get('received', -1):>9} {counts}")
                if not 0 < end == ledger.get("received") == sum(ledger.get(what, 0) for what in WHERE):
                    wrong.append(f"{name}: {topic} ends at {end}, ledger: {ledger}")
        return wrong, table


@contextmanager
def topics_in(root: Path) -> Iterator[Topics]:
    """Yield topics of a broker that is started for them and ends with them."""
    with KafkaBroker(root / "kafka") as broker:
        yield Topics(broker, root)


def stream_settings(topics: Topics, rates: list[float], batch: int, wait_s: float, tests_s: float) -> dict[str, Any]:
    """Return what of a run's settings is otherwise than with replayed streams: live ones come by the wall clock."""
    return {
        "stream": {"url": topics.url, "rates": rates},
        "batch": {"size": batch, "max_wait_s": wait_s},
        "clock": {"speed": 1},
        "evaluation": {"every_s": tests_s},
    }
