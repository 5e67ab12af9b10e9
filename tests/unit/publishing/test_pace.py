"""Pacing on a virtual clock, against a producer in memory."""

import math

import pytest
import torch

from scadles.clock import VirtualClock
from scadles.errors import SourceError
from scadles.publishing import Feed, Line, Pacer, PublishReport, TopicReport
from scadles.publishing.pace import GRACE_S, LATE_S, TICK_S
from scadles.streams import Arrivals, RateProfile
from scadles.streams.producing import DeliveryCounts, Producer


class InMemory(Producer):
    """Takes up to ``room`` records at a time and acknowledges ``serves_hz`` of them a second."""

    def __init__(self, clock, topics=1, room=1000, serves_hz=math.inf):
        self.counts = [DeliveryCounts() for _ in range(topics)]
        self.sent = []
        self._clock, self._room, self._serves_hz = clock, room, serves_hz
        self._queue, self._served_s = [], 0.0

    def open(self, create):
        pass

    def send(self, topic, number, key, value):
        if len(self._queue) >= self._room:
            return False
        self.sent.append((topic, number, self._clock.now()))
        self._queue.append(topic)
        return True

    def serve(self, timeout_s):
        self._clock.sleep(timeout_s)
        now_s = self._clock.now()
        count = len(self._queue) if math.isinf(self._serves_hz) else int((now_s - self._served_s) * self._serves_hz)
        if count:
            self._served_s = now_s
        for topic in self._queue[:count]:
            self.counts[topic].acknowledged += 1
            self.counts[topic].last_s = now_s
        del self._queue[:count]

    def waiting(self):
        return len(self._queue)

    def close(self):
        pass


class Drowsy(VirtualClock):
    """A clock that oversleeps once."""

    def __init__(self, at_s, by_s):
        super().__init__()
        self._at_s, self._by_s = at_s, by_s

    def sleep(self, seconds):
        super().sleep(seconds)
        if self.now() >= self._at_s:
            super().sleep(self._by_s)
            self._by_s = 0.0


def numbers(offsets):
    return torch.from_numpy(offsets), torch.from_numpy(offsets)


def lines_to(producer, *rates, records=None):
    return [
        Line(Feed(numbers, Arrivals(RateProfile.constant(rate)), lambda x, y: (None, b"x"), records), producer, topic)
        for topic, rate in enumerate(rates)
    ]


def paced(lines, clock, until_s, stopped=lambda: False):
    pacer = Pacer(lines, [lines[0].producer], clock, stopped, lambda now_s: None)
    pacer.run(until_s)
    pacer.drain()
    return pacer


def test_every_record_leaves_when_it_is_due_and_no_delay_adds_up():
    clock = VirtualClock()
    producer = InMemory(clock, 3)
    paced(lines_to(producer, 50.0, 7.0, 300.0), clock, 20.0)
    for topic, rate in enumerate((50.0, 7.0, 300.0)):
        mine = [(number, time_s) for where, number, time_s in producer.sent if where == topic]
        assert [number for number, _ in mine] == list(range(int(20 * rate)))
        assert all(-1e-9 <= time_s - (number + 1) / rate <= 1.01 * TICK_S for number, time_s in mine)
    assert [counted.acknowledged for counted in producer.counts] == [1000, 140, 6000]


def test_late_records_leave_at_once_and_are_counted():
    clock = Drowsy(at_s=2.0, by_s=1.0)
    producer = InMemory(clock)
    [line] = lines_to(producer, 100.0)
    paced([line], clock, 10.0)
    times = [time_s for _, _, time_s in producer.sent]
    assert len(times) == 1000
    assert times[250] == pytest.approx(3.0, abs=0.02)
    assert times[-1] == pytest.approx(10.0, abs=0.02)
    assert line.late == pytest.approx((1.0 - LATE_S) * 100, abs=2)
    assert line.latest_s == pytest.approx(1.0, abs=0.02)


def test_a_full_queue_delays_and_loses_nothing():
    clock = VirtualClock()
    producer = InMemory(clock, room=20, serves_hz=80.0)
    [line] = lines_to(producer, 100.0, records=400)
    paced([line], clock, math.inf)
    assert [number for _, number, _ in producer.sent] == list(range(400))
    assert producer.counts[0].acknowledged == 400
    assert clock.now() > 4.5
    report = TopicReport.of("t", line, clock.now())
    assert (report.wanted_hz, report.sent, report.failed) == (pytest.approx(100), 400, 0)
    assert report.observed_hz == pytest.approx(80, rel=0.1)  # the stand-in serves whole records only
    assert report.late > 200


def test_what_is_much_too_late_at_the_end_never_leaves():
    clock = VirtualClock()
    producer = InMemory(clock, room=20, serves_hz=50.0)
    [line] = lines_to(producer, 100.0)
    paced([line], clock, 5.0)
    last_s = producer.sent[-1][2]
    assert 5.0 + GRACE_S - 0.1 < last_s <= 5.0 + GRACE_S + 0.1
    report = TopicReport.of("t", line, 5.0)
    assert report.wanted_hz == 100
    assert report.observed_hz == pytest.approx(50, rel=0.1)
    assert PublishReport([report], 5.0, stopped=False).lost == 0


def test_it_ends_with_its_last_record():
    clock = VirtualClock()
    producer = InMemory(clock, 2)
    paced(lines_to(producer, 10.0, 5.0, records=10), clock, math.inf)
    assert clock.now() == pytest.approx(2.0, abs=0.01)
    assert len(producer.sent) == 20


def test_it_stops_when_it_is_told_to():
    clock = VirtualClock()
    producer = InMemory(clock)
    paced(lines_to(producer, 10.0), clock, math.inf, stopped=lambda: clock.now() >= 3.0)
    assert len(producer.sent) == pytest.approx(30, abs=1)
    assert producer.waiting() == 0


def test_a_server_that_acknowledges_nothing_is_given_up():
    clock = VirtualClock()
    producer = InMemory(clock, serves_hz=0.0)
    with pytest.raises(SourceError, match=r"records wait, and none was acknowledged for 60 s"):
        paced(lines_to(producer, 10.0), clock, 1000.0)
    assert 60 < clock.now() < 61


def test_a_quiet_stream_is_no_silent_server():
    clock = VirtualClock()
    producer = InMemory(clock)
    paced(lines_to(producer, 0.01), clock, 350.0)
    assert producer.counts[0].acknowledged == 3


def test_the_table_adds_topics_up(capsys):
    clock = VirtualClock()
    producer = InMemory(clock, 2)
    lines = lines_to(producer, 50.0, 38.0)
    paced(lines, clock, 10.0)
    producer.counts[1].failed, producer.counts[1].problem = 2, "message too odd"
    report = PublishReport([TopicReport.of(f"t{line.topic}", line, 10.0) for line in lines], 10.0, stopped=False)
    report.print()
    printed = capsys.readouterr().out
    rows = {line.split()[0]: line.split() for line in printed.splitlines() if line.startswith(" t") or " all" in line}
    assert rows["t0"][1:5] == ["50.0", "50.0", "500", "500"]
    assert rows["all"][1:5] == ["88.0", "88.0", "880", "880"]
    assert "message too odd" in printed
    assert report.share == pytest.approx(1.0, abs=0.001)
