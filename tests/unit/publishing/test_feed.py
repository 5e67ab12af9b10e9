import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from scadles.assembly import build_dataset, build_partition, samples_of
from scadles.clock import VirtualClock
from scadles.config import load_config
from scadles.publishing import Feed
from scadles.publishing.target_feed import TargetFeed
from scadles.streams import Arrivals, RateProfile, ReplaySource
from scadles.streams.late import TargetCodec
from scadles.targets import TargetType


def counted(offsets):
    return torch.from_numpy(offsets), torch.from_numpy(offsets)


def text(x, y):
    return str(y).encode(), str(int(x)).encode()


def taken(feed, count):
    """The next records as (number, due, key, value)."""
    records = []
    for _ in range(count):
        records.append((feed.number, feed.due_s, feed.key, feed.value))
        feed.advance()
    return records


@pytest.mark.parametrize("profile", ["constant", "poisson", "bursts", "day", "outage"])
@pytest.mark.parametrize("partition", ["iid", "shared"])
def test_a_feed_sends_what_a_replayed_device_would_get_and_when(profile, partition):
    config = load_config(
        {"devices": 3, "steps": 1, "seed": 5, "data": {"partition": partition}, "stream": {"profile": profile}}
    )
    dataset = build_dataset(config)
    samples = samples_of(dataset, build_partition(config, dataset), 2)

    def arrivals():
        poisson = (5, 2) if config.stream.profile.arrivals == "poisson" else None
        return Arrivals(RateProfile.of(config.stream.profile, 40.0), poisson)

    clock = VirtualClock()
    source = ReplaySource(samples, arrivals(), clock)
    source.open(0)
    replayed = source.poll(300, 1000.0)
    seen = []
    feed = Feed(samples, arrivals(), lambda x, y: (None, seen.append((x.clone(), y)) or b""), phase=17)
    sent = taken(feed, 300)
    assert [number for number, *_ in sent] == replayed.offsets.tolist()
    assert [due_s for _, due_s, *_ in sent] == pytest.approx(replayed.times.tolist())
    assert torch.equal(torch.stack([x for x, _ in seen[:300]]), replayed.x)
    assert [y for _, y in seen[:300]] == replayed.y.tolist()


@given(records=st.integers(1, 200), phase=st.integers(0, 300))
def test_all_records_come_once_in_order_and_then_no_more(records, phase):
    feed = Feed(counted, Arrivals(RateProfile.constant(10.0)), text, records, phase)
    assert feed.last_due_s == pytest.approx(records / 10)
    sent = taken(feed, records)
    assert [(int(key), int(value)) for _, _, key, value in sent] == [(k, k) for k in range(records)]
    assert feed.due_s == math.inf
    assert feed.due_by(1e9) == records


def test_feeds_of_different_phases_look_up_at_different_records():
    looked_up = {0: [], 20: []}
    for phase, mine in looked_up.items():

        def samples(offsets, mine=mine):
            mine.append(int(offsets[0]))
            return counted(offsets)

        taken(Feed(samples, Arrivals(RateProfile.constant(1.0)), text, phase=phase), 150)
    assert looked_up == {0: [0, 64, 128], 20: [0, 44, 108]}


def test_a_silent_stream_is_never_due():
    feed = Feed(counted, Arrivals(RateProfile.constant(0.0)), text)
    assert feed.due_s == math.inf
    assert feed.due_by(1000.0) == 0
    assert np.isinf(feed.last_due_s)


class TestTargets:
    """Targets leave later than their samples, each once, in the order in which they are due."""

    @staticmethod
    def feed(records, rate_hz=20.0, delay_s=3.0):
        samples = lambda offsets: (torch.from_numpy(offsets), torch.from_numpy(offsets % 7))  # noqa: E731
        codec = TargetCodec(TargetType.label(7), 100)
        return TargetFeed(samples, Arrivals(RateProfile.constant(rate_hz)), codec.encode, records, delay_s, 1, 2)

    @pytest.mark.parametrize("records", [1, 64, 200])
    def test_each_once(self, records):
        feed, due, sent = self.feed(records), [], {}
        while feed.due_s < math.inf:
            assert feed.due_by(feed.due_s) == feed.number + 1
            due.append(feed.due_s)
            sent[int(feed.key)] = int(feed.value)
            feed.advance()
        assert due == sorted(due)
        assert sent == {number: number % 7 for number in range(records)}
        arrived = Arrivals(RateProfile.constant(20.0)).times(0, records)
        assert due[-1] <= arrived[-1] + 3.0 <= feed.last_due_s + 1e-9
        assert feed.due_by(feed.last_due_s) == feed.number == records

    def test_without_end_and_without_records(self):
        assert self.feed(None).due_s < 3.1
        assert math.isinf(self.feed(None, rate_hz=0.0).due_s)
