"""Whatever comes in a stream, and however much of it, what a device keeps of it is bounded."""

import tracemalloc

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from scadles.clock import VirtualClock
from scadles.device.ahead import Ahead
from scadles.device.buffer import Buffer, Persistence, Truncation
from scadles.device.intake import Intake
from scadles.observe import EventLog, Header, Rejection, Thinned, read_events
from scadles.records import Records, Rejected
from scadles.streams import Inspector, RateMeter, Source
from scadles.streams.quarantine import Quarantine
from scadles.streams.rejections import RejectionLimit

CAPACITY = 32
EACH = 500


class Flood(Source):
    """A stream that brings 500 records with every poll, of which every ``good_every``-th can be trained on.

    Some are torn, each for a reason of its own and a long one; others have a label of their own that nobody knows.
    Where ``loses``, records before each poll are gone.
    """

    def __init__(self, good_every, *, loses=False):
        self._good_every, self._loses = good_every, loses
        self._next = 0

    def open(self, position, mark=None):
        self._next = position

    def poll(self, max_records, timeout_s):
        lost = 3 if self._loses else 0
        self._next += lost
        count = EACH
        if self._good_every:  # no more that can be held than was asked for
            count = min(count, max_records * self._good_every)
        offsets = np.arange(self._next, self._next + count)
        self._next += count
        is_good = offsets % self._good_every == 0 if self._good_every else np.zeros(count, dtype=bool)
        is_torn = ~is_good & (offsets % 2 == 0)
        rejected = tuple(Rejected(int(at), f"torn \x1b at {at} " + "x" * 1000) for at in offsets[is_torn])
        read = offsets[~is_torn]
        labels = torch.from_numpy(np.where(is_good[~is_torn], 0, read + 10))
        return Records(read, np.zeros(len(read)), torch.zeros(len(read), 1), labels, rejected, lost)

    def skip(self, keep):
        return 0

    def lag(self):
        return None

    @property
    def position(self):
        return self._next

    def commit(self, position):
        pass

    def close(self):
        pass


def make_intake(tmp_path, policy, source):
    intake = Intake(
        source,
        Inspector((1,), torch.float32, classes=2),
        Buffer(CAPACITY),
        policy,
        RateMeter(),
        VirtualClock(),
        quarantine=Quarantine(tmp_path / "quarantine-0.jsonl", 0.02, 0),
        limit=RejectionLimit(1.0),
    )
    intake.open()
    intake.start()
    return intake


def entries(intake):
    return sum(map(len, intake._counted_ahead.values()))


@pytest.mark.parametrize("loses", [False, True])
@pytest.mark.parametrize("good_every", [0, 2, 3, 400])
@pytest.mark.parametrize("policy", [Persistence(), Truncation(1.0)])
def test_within_a_step_of_any_length(tmp_path, policy, good_every, loses):
    """Nothing is taken, tested or saved meanwhile, and nobody asks for the reasons."""
    intake = make_intake(tmp_path, policy, Flood(good_every, loses=loses))
    for _ in range(100):
        intake.pull()
        assert entries(intake) <= 2 * (CAPACITY + 1)
    assert len(intake.rejected_since_last_time()) <= 17
    state, ledger = intake.state(), intake.describe()
    again = ledger["received"] - state.ledger["received"]
    assert again - ledger["held"] == ledger["rejected"] - state.ledger["rejected"] + (
        ledger["dropped"] - state.ledger["dropped"]
    )


def test_of_many_steps_without_a_checkpoint(tmp_path):
    """A simulation never makes one, and a run may have set them far apart."""
    intake = make_intake(tmp_path, Persistence(), Flood(50))
    for _ in range(300):
        intake.pull()
        intake.take(8)
        intake.settle(trained=True)
        intake.truncate()
        assert entries(intake) <= CAPACITY + 1
        assert len(intake.rejected_since_last_time()) <= 17
    assert intake.describe()["rejected"] > 20_000


def test_memory_does_not_grow_with_what_was_rejected(tmp_path):
    intake = make_intake(tmp_path, Persistence(), Flood(0))

    def grown_by(polls):
        before = tracemalloc.get_traced_memory()[0]
        for _ in range(polls):
            intake.pull()
            intake.rejected_since_last_time()
        return tracemalloc.get_traced_memory()[0] - before

    grown_by(60)  # until the quarantine is full
    tracemalloc.start()
    try:
        grown_by(20)
        assert grown_by(400) < 20_000  # of 200,000 records
    finally:
        tracemalloc.stop()
    assert (tmp_path / "quarantine-0.jsonl").stat().st_size <= 20_000
    assert intake.ledger.rejected == 480 * EACH


def test_events_of_a_flood_are_bounded(tmp_path):
    path = tmp_path / "events-0.jsonl"
    intake = make_intake(tmp_path, Persistence(), Flood(0))
    header = Header(
        step=0, time_s=0.0, device=0, devices=1, method="ddl", seed=0, clock="wall", started_at=None, versions={}
    )
    with EventLog(path, header, append=False, most_bytes=100_000) as log:
        for step in range(1, 200):
            intake.pull()
            for reason, count, first in intake.rejected_since_last_time():
                assert len(reason) <= 203
                log.write(Rejection(step=step, time_s=step, count=count, reason=reason, first_offset=first))
            assert path.stat().st_size < 100_000
    events = read_events(path)
    [thinned] = [event for event in events if isinstance(event, Thinned)]
    counted = sum(event.count for event in events if isinstance(event, Rejection)) + sum(thinned.rejected.values())
    assert counted == intake.ledger.rejected == 199 * EACH
    assert len(thinned.rejected) <= 17
    assert events[-1].step == 199


@given(st.lists(st.tuples(st.sampled_from(["good", "bad", "forget"]), st.integers(1, 5)), max_size=40), st.data())
def test_counts_are_those_of_a_list_of_all_offsets(parts, data):
    ahead, bad, good, following = Ahead(), [], [], 0
    kept = {"good": good, "bad": bad}
    while parts:
        now = [parts.pop(0) for _ in range(data.draw(st.integers(1, len(parts))))]
        fresh = {"good": [], "bad": []}
        for kind, size in now:
            if kind != "forget":
                fresh[kind] += range(following, following + size)
                kept[kind] += range(following, following + size)
                following += size
        ahead.note(fresh["bad"], np.array(fresh["good"], dtype=np.int64))
        if "forget" in dict(now):
            position = data.draw(st.sampled_from([*good, following]))
            ahead.forget_before(position)
            bad[:], good[:] = ([at for at in each if at >= position] for each in (bad, good))
        assert ahead.count == len(bad)
        assert len(ahead) <= len(good) + 1
