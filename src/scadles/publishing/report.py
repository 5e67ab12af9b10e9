"""What became of what was published: wanted and observed rates, topic by topic."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from scadles.observe.console import human_count, human_seconds, print_table
from scadles.publishing.pace import LATE_S, Line

if TYPE_CHECKING:
    from typing_extensions import Self


@dataclass(frozen=True)
class TopicReport:
    """One topic.

    Attributes:
        topic: its address.
        wanted_hz: records per second that were due.
        observed_hz: records per second that the server acknowledged, up to the last acknowledgement.
        sent: records that left.
        acknowledged: records that the server has said it holds.
        late: records that left more than 50 ms after they were due.
        latest_s: by how much the latest one did.
        failed: records that the server did not take.
        problem: why the last failed one failed.
    """

    topic: str
    wanted_hz: float
    observed_hz: float
    sent: int
    acknowledged: int
    late: int
    latest_s: float
    failed: int
    problem: str

    @classmethod
    def of(cls, topic: str, line: Line, elapsed_s: float) -> Self:
        """Look at a line that was sent for ``elapsed_s`` stream seconds."""
        counted = line.producer.counts[line.topic]
        span_s = min(elapsed_s, line.feed.last_due_s)
        observed_s = max(span_s, counted.last_s)
        return cls(
            topic=topic,
            wanted_hz=line.feed.due_by(span_s) / span_s if span_s > 0 else 0.0,
            observed_hz=counted.acknowledged / observed_s if observed_s > 0 else 0.0,
            sent=line.feed.number,
            acknowledged=counted.acknowledged,
            late=line.late,
            latest_s=line.latest_s,
            failed=counted.failed,
            problem=counted.problem,
        )


@dataclass(frozen=True)
class PublishReport:
    """All topics.

    Attributes:
        topics: one for each device's stream.
        elapsed_s: seconds of publishing.
        stopped: whether somebody ended it before its time.
    """

    topics: Sequence[TopicReport]
    elapsed_s: float
    stopped: bool

    @property
    def lost(self) -> int:
        """How many records left and are not known to be at the server."""
        return sum(topic.sent - topic.acknowledged for topic in self.topics)

    @property
    def share(self) -> float:
        """The observed rate of the topic that fell behind most, as a share of the wanted one."""
        return min((t.observed_hz / t.wanted_hz for t in self.topics if t.wanted_hz > 0), default=1.0)

    def print(self) -> None:
        """Print a row for each topic to standard output, and the sum where there are several."""
        rows = [_row(topic) for topic in self.topics]
        if len(self.topics) > 1:
            rows.append(_row(self._sum()))
        headings = ("topic", "wanted /s", "observed /s", "sent", "acknowledged", "late", "latest", "failed", "problem")
        title = (
            f"Published for {human_seconds(self.elapsed_s)}; late: more than {human_seconds(LATE_S)} after it was due"
        )
        shown = headings if any(topic.problem for topic in self.topics) else headings[:-1]
        print_table(title, shown, [row[: len(shown)] for row in rows])

    def _sum(self) -> TopicReport:
        return TopicReport(
            topic="all",
            wanted_hz=sum(topic.wanted_hz for topic in self.topics),
            observed_hz=sum(topic.observed_hz for topic in self.topics),
            sent=sum(topic.sent for topic in self.topics),
            acknowledged=sum(topic.acknowledged for topic in self.topics),
            late=sum(topic.late for topic in self.topics),
            latest_s=max(topic.latest_s for topic in self.topics),
            failed=sum(topic.failed for topic in self.topics),
            problem="",
        )


def _row(topic: TopicReport) -> tuple[str, ...]:
    return (
        topic.topic,
        f"{topic.wanted_hz:.1f}",
        f"{topic.observed_hz:.1f}",
        human_count(topic.sent),
        human_count(topic.acknowledged),
        human_count(topic.late),
        human_seconds(topic.latest_s),
        human_count(topic.failed),
        topic.problem,
    )
