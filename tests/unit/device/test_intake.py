import json
from collections import Counter
from dataclasses import asdict, replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from scadles.clock import VirtualClock
from scadles.device.buffer import Buffer, Persistence, Truncation
from scadles.device.intake import Intake
from scadles.errors import RunError
from scadles.records import Records, Rejected
from scadles.streams import Arrivals, Inspector, RateMeter, RateProfile, ReplaySource, Source
from scadles.streams.quarantine import Quarantine
from scadles.streams.rejections import RejectionLimit


def samples(offsets):
    """Samples that carry their offset; now and then one with NaN or a label out of range."""
    x = torch.from_numpy(offsets).double()[:, None].clone()
    x[torch.from_numpy(offsets % 7 == 3)] = float("nan")
    y = torch.from_numpy(np.where(offsets % 11 == 5, 99, 0))
    return x, y


def good_samples(offsets):
    return torch.from_numpy(offsets).double()[:, None], torch.from_numpy(offsets * 0)


def is_bad(offset):
    return offset % 7 == 3 or offset % 11 == 5 or offset % 13 == 12


class Garbling(ReplaySource):
    """A source that cannot decode some of its records."""

    def poll(self, max_records, timeout_s):
        whole = super().poll(max_records, timeout_s)
        torn = whole.offsets % 13 == 12
        rejected = tuple(Rejected(int(offset), "torn") for offset in whole.offsets[torn])
        readable = torch.from_numpy(~torn)
        return Records(whole.offsets[~torn], whole.times[~torn], whole.x[readable], whole.y[readable], rejected)


class Unmeasured(Garbling):
    """A source that cannot tell how much waits, as MQTT cannot."""

    def lag(self):
        return None


class Ahead(Garbling):
    """A source that cannot go back."""

    def rewind(self, position, mark=None):
        return Source.rewind(self, position, mark)


class Leaky(Garbling):
    """A source that has forgotten the last five of each forty records before anybody could poll them."""

    def poll(self, max_records, timeout_s):
        lost = 0
        if self._position % 40 >= 35:
            lost = min(self._waiting(), 40 - self._position % 40)
            self._position += lost
        before_gap = 35 - self._position % 40
        if before_gap <= 0:
            return Records(np.empty(0, np.int64), np.empty(0), torch.empty(0, 1), torch.empty(0), lost=lost)
        return replace(super().poll(min(max_records, before_gap), timeout_s), lost=lost)


def make_intake(clock, policy, *, rate_hz=40.0, capacity=64, kind=Garbling, played=samples, poisson=None):
    arrivals = Arrivals(RateProfile.constant(rate_hz), poisson)
    inspector = Inspector((1,), torch.float64, classes=3)
    return Intake(kind(played, arrivals, clock), inspector, Buffer(capacity), policy, RateMeter(), clock)


def opened(clock, policy, **settings):
    intake = make_intake(clock, policy, **settings)
    intake.open()
    intake.start()
    return intake


counts = st.integers(0, 50)
schedules = st.lists(
    st.one_of(
        st.tuples(st.just("sleep"), st.floats(0, 3)),
        st.tuples(st.just("pull"), st.floats(0, 1), st.one_of(st.none(), st.integers(1, 50))),
        st.tuples(st.just("train"), counts),
        st.tuples(st.just("leave out"), counts),
        st.tuples(st.just("undo"), counts),
        st.tuples(st.just("truncate")),
        st.tuples(st.just("checkpoint")),
        st.tuples(st.just("crash")),
        st.tuples(st.just("go back")),
    ),
    max_size=40,
)


class Life:
    """An intake on which a schedule is played, and what its checkpoints promise to remember."""

    def __init__(self, policy, **settings):
        self.clock = VirtualClock()
        self.settings = settings
        self.policy = policy
        self.intake = opened(self.clock, policy, **settings)
        self.trained, self.left_out = [], []
        self.saved = (self.intake.state(), [], [])

    def do(self, kind, *arguments):
        getattr(self, kind.replace(" ", "_"))(*arguments)
        self.check()

    def sleep(self, seconds):
        self.clock.sleep(seconds)

    def pull(self, timeout_s, want):
        self.intake.pull(timeout_s, want)

    def train(self, count):
        self.trained += self.intake.take(count).offsets.tolist()
        self.intake.settle(trained=True)

    def leave_out(self, count):
        self.left_out += self.intake.take(count).offsets.tolist()
        self.intake.settle(trained=False)

    def undo(self, count):
        held = self.intake.held
        taken = self.intake.take(count)
        assert self.intake.held == held - len(taken)
        self.intake.undo_take()
        assert self.intake.held == held

    def truncate(self):
        self.intake.truncate()

    def checkpoint(self):
        self.saved = (self.intake.state(), list(self.trained), list(self.left_out))

    def crash(self):
        state, trained, left_out = self.saved
        self.trained, self.left_out = list(trained), list(left_out)
        self.intake = make_intake(self.clock, self.policy, **self.settings)
        self.intake.open(state)
        self.intake.start()

    def go_back(self):
        state, trained, left_out = self.saved
        self.trained, self.left_out = list(trained), list(left_out)
        self.intake.go_back(state)

    def check(self):
        ledger = self.intake.describe()
        parts = sum(ledger[name] for name in ("trained", "dropped", "held", "rejected"))
        assert ledger["received"] == parts == self.intake.source.position
        assert ledger["held"] == self.intake.held <= self.settings.get("capacity", 64)
        assert ledger["trained"] == len(self.trained)
        assert ledger["rejected"] >= len(self.left_out)
        assert not any(is_bad(offset) for offset in self.trained)
        assert self.trained == sorted(set(self.trained))


class TestLedger:
    @given(schedules, st.integers(1, 80), st.floats(1, 200), st.sampled_from([None, (1, 2)]))
    def test_balances_under_persistence_and_no_sample_is_lost(self, schedule, capacity, rate_hz, poisson):
        life = Life(Persistence(), capacity=capacity, rate_hz=rate_hz, poisson=poisson)
        for operation in schedule:
            life.do(*operation)
        assert life.intake.ledger.dropped == 0
        life.do("checkpoint")
        life.do("crash")
        while life.intake.held or life.intake.lag:
            life.do("pull", 0.0, None)
            life.do("train", 30)
        seen = Counter(life.trained + life.left_out)
        good = [offset for offset in range(life.intake.source.position) if not is_bad(offset)]
        assert seen == Counter(good), "every good sample exactly once"

    @given(schedules, st.integers(1, 80), st.floats(1, 200))
    def test_what_cannot_come_again_is_dropped_and_nothing_else(self, schedule, capacity, rate_hz):
        life = Life(Persistence(), capacity=capacity, rate_hz=rate_hz, kind=Ahead)
        dropped = saved = 0
        for operation in schedule:
            before = len(life.trained)
            life.do(*operation)
            if operation[0] == "go back":
                dropped += before - len(life.trained)
            elif operation[0] == "checkpoint":
                saved = dropped
            elif operation[0] == "crash":
                dropped = saved
            assert life.intake.ledger.dropped == dropped

    def test_going_back_is_the_same_as_a_restart(self):
        lives = [Life(Persistence(), kind=Leaky) for _ in range(2)]
        for life in lives:
            for operation in (("sleep", 1.0), ("pull", 0.0, None), ("train", 9), ("checkpoint",), ("train", 9)):
                getattr(life, operation[0])(*operation[1:])
        lives[0].go_back()
        lives[1].crash()
        for life in lives:
            life.pull(1.0, 60)
            life.train(31)
            life.check()
        assert lives[0].trained == lives[1].trained
        one, other = (asdict(life.intake.state()) for life in lives)
        assert one.pop("meter") != {}
        other.pop("meter")
        assert one == other

    def test_samples_that_cannot_come_again_are_told_of_once(self):
        life = Life(Persistence(), kind=Ahead)
        for operation in (("sleep", 1.5), ("pull", 0.0, None), ("train", 9), ("checkpoint",), ("train", 8)):
            life.do(*operation)
        held = life.intake.held
        life.do("go back")
        assert (life.intake.ledger.trained, life.intake.ledger.dropped, life.intake.held) == (9, 8, held)
        [said] = life.intake.notices()
        assert said.startswith("8 samples are counted as dropped: the steps")
        assert life.intake.notices() == []

    @given(schedules, st.integers(1, 80), st.floats(1, 200), st.floats(0.1, 3))
    def test_balances_under_truncation(self, schedule, capacity, rate_hz, window_s):
        life = Life(Truncation(window_s), capacity=capacity, rate_hz=rate_hz)
        for operation in schedule:
            life.do(*operation)
        before_hz = life.intake.rate_hz
        life.do("truncate")
        measured_hz = before_hz or life.intake.rate_hz  # only a rate that is not known yet is measured then
        assert life.intake.held + life.intake.lag <= max(1, round(measured_hz * window_s))

    @given(schedules, st.integers(1, 80), st.floats(1, 200), st.sampled_from([Persistence(), Truncation(0.5)]))
    def test_balances_where_the_stream_forgets(self, schedule, capacity, rate_hz, policy):
        life = Life(policy, capacity=capacity, rate_hz=rate_hz, kind=Leaky)
        for operation in schedule:
            life.do(*operation)
        life.do("checkpoint")
        life.do("crash")
        if isinstance(policy, Persistence):
            while life.intake.held or life.intake.lag:
                life.do("pull", 0.0, None)
                life.do("train", 30)
            end = life.intake.source.position
            assert life.intake.ledger.dropped == sum(offset % 40 >= 35 for offset in range(end))
            good = [offset for offset in range(end) if offset % 40 < 35 and not is_bad(offset)]
            assert Counter(life.trained + life.left_out) == Counter(good)

    @given(schedules, st.integers(1, 80), st.floats(1, 200), st.floats(0.1, 3))
    def test_balances_where_nobody_knows_what_waits(self, schedule, capacity, rate_hz, window_s):
        life = Life(Truncation(window_s), capacity=capacity, rate_hz=rate_hz, kind=Unmeasured)
        for operation in schedule:
            life.do(*operation)
        kept = max(1, round(life.intake.rate_hz * window_s))
        life.do("truncate")
        assert life.intake.held <= kept
        assert life.intake.lag is None

    def test_a_sample_counted_twice_is_noticed(self):
        intake = opened(VirtualClock(), Persistence())
        intake.ledger.trained += 1
        with pytest.raises(RunError, match="does not balance"):
            intake.describe()


class TestQueue:
    """The recurrences of the paper, section II and IV."""

    # One second of stream is there before the first step; with S >= b and t S >= b no batch has to wait for samples.
    @given(st.integers(1, 64), st.floats(1.0, 8.0), st.floats(0.05, 4.0), st.integers(1, 40))
    def test_persistence_grows_as_the_paper_says(self, b, excess, t, steps):
        rate_hz = excess * b * max(1.0, 1.0 / t)
        clock = VirtualClock()
        intake = opened(clock, Persistence(), rate_hz=rate_hz, capacity=4 * b, played=good_samples, kind=ReplaySource)
        clock.sleep(1.0)
        for _ in range(steps):
            intake.pull(want=b)
            assert len(intake.take(b)) == b
            intake.settle(trained=True)
            clock.sleep(t)
        intake.pull()
        waiting = intake.held + intake.lag
        assert abs(waiting - ((t * rate_hz - b) * steps + rate_hz)) <= 1.0 + 1e-6
        assert intake.max_waiting >= waiting
        assert intake.held <= 4 * b

    @given(st.integers(1, 64), st.floats(1, 300), st.floats(0.05, 4.0), st.floats(0.2, 3.0), st.integers(1, 40))
    def test_truncation_holds_one_window_and_what_came_during_the_step(self, b, rate_hz, t, window_s, steps):
        clock = VirtualClock()
        intake = opened(clock, Truncation(window_s), rate_hz=rate_hz, capacity=2000, kind=ReplaySource)
        for _ in range(steps):
            clock.sleep(t)
            intake.pull()
            intake.take(b)
            intake.settle(trained=True)
            intake.truncate()
            # regular arrivals are measured to the record: one may fall on either side of an observation
            window = (rate_hz + 1 / t) * window_s + 0.5
            assert intake.held + intake.lag <= max(1.0, window)
            assert intake.max_waiting <= max(1.0, window) + rate_hz * t + 1


class TestPull:
    def test_takes_what_is_there_and_waits_for_what_is_wanted(self):
        clock = VirtualClock()
        intake = opened(clock, Persistence(), rate_hz=10.0, played=good_samples, kind=ReplaySource)
        clock.sleep(1.0)
        intake.pull()
        assert (intake.held, clock.now()) == (10, 1.0)
        intake.pull(5.0, want=3)
        assert (intake.held, round(clock.now(), 6)) == (13, 1.3)
        intake.pull(0.25, want=30)
        assert (intake.held, round(clock.now(), 6)) == (15, 1.55)
        assert intake.rate_hz == pytest.approx(10.0, rel=0.05)

    def test_a_full_buffer_leaves_the_stream_at_its_source(self):
        clock = VirtualClock()
        intake = opened(clock, Persistence(), rate_hz=10.0, capacity=5, played=good_samples, kind=ReplaySource)
        clock.sleep(2.0)
        intake.pull()
        assert (intake.held, intake.lag, intake.ledger.dropped) == (5, 15, 0)
        intake.pull(1.0)
        assert (intake.held, intake.lag, clock.now()) == (5, 25, 3.0)
        assert intake.max_waiting == 30

    def test_truncation_takes_the_newest_where_not_all_fit(self):
        clock = VirtualClock()
        intake = opened(clock, Truncation(1.0), rate_hz=10.0, capacity=5, played=good_samples, kind=ReplaySource)
        clock.sleep(0.7)
        intake.pull(want=5)
        intake.pull(want=2)
        assert intake.take(9).offsets.tolist() == [2, 3, 4, 5, 6]
        assert intake.ledger.dropped == 2

    def test_rejected_samples_are_told_once_by_reason(self):
        clock = VirtualClock()
        intake = opened(clock, Persistence(), rate_hz=10.0)
        clock.sleep(2.0)
        intake.pull()
        assert intake.rejected_since_last_time() == [
            ("NaN or infinite values", 3, 3),
            ("label 99, expected 0 to 2", 2, 5),
            ("torn", 1, 12),
        ]
        assert intake.rejected_since_last_time() == []
        assert intake.ledger.rejected == 6


class TestState:
    def test_what_was_held_is_read_again(self):
        clock = VirtualClock()
        intake = opened(clock, Persistence(), rate_hz=20.0)
        clock.sleep(1.0)
        intake.pull()
        first = intake.take(4).offsets.tolist()
        intake.settle(trained=True)
        state = intake.state()
        assert first == [0, 1, 2, 4]
        # 3 was NaN and 5 has a wrong label, which the source brings again
        assert state.position == 6
        assert state.ledger == {
            "received": 6,
            "trained": 4,
            "dropped": 0,
            "held": 0,
            "rejected": 2,
            "injected": 0,
            "unlabelled": 0,
            "tested": 0,
        }
        again = make_intake(clock, Persistence(), rate_hz=20.0)
        again.open(state)
        again.start()
        again.pull()
        assert again.describe() == intake.describe()
        assert again.take(1).offsets.tolist() == intake.take(1).offsets.tolist()
        assert again.rate_hz == intake.rate_hz

    def test_what_was_lost_behind_the_position_will_be_missed_again(self):
        clock = VirtualClock()
        intake = opened(clock, Persistence(), rate_hz=20.0, played=good_samples, kind=Leaky)
        clock.sleep(3.0)
        intake.pull()
        intake.pull()
        assert (intake.held, intake.ledger.received, intake.ledger.dropped) == (52, 60, 5)
        assert intake.state().ledger["dropped"] == intake.state().ledger["received"] == 0
        intake.take(40)
        intake.settle(trained=True)
        state = intake.state()
        assert state.position == 47  # 12 and 25 cannot be decoded, 35 to 39 are lost
        assert {name: state.ledger[name] for name in ("received", "trained", "dropped", "rejected")} == {
            "received": 47,
            "trained": 40,
            "dropped": 5,
            "rejected": 2,
        }

    def test_the_mark_of_the_source_is_part_of_the_state(self):
        class Marked(ReplaySource):
            marks = ()

            def mark(self, position):
                return {"ids": [position, position + 1]}

            def open(self, position, mark=None):
                super().open(position)
                self.marks = (*self.marks, mark)

        clock = VirtualClock()
        first = opened(clock, Persistence(), kind=Marked, played=good_samples)
        clock.sleep(1.0)
        first.pull()
        first.take(7)
        first.settle(trained=True)
        assert first.source.marks == (None,)
        again = make_intake(clock, Persistence(), kind=Marked, played=good_samples)
        again.open(first.state())
        assert (again.source.position, again.source.marks) == (7, ({"ids": [7, 8]},))

    def test_a_state_is_json(self):
        state = opened(VirtualClock(), Persistence()).state()
        assert json.loads(json.dumps(asdict(state))) == asdict(state)


def drained(**parts):
    """An intake that has received 200 records, of which some are bad."""
    clock = VirtualClock()
    arrivals = Arrivals(RateProfile.constant(40.0))
    inspector = Inspector((1,), torch.float64, classes=3)
    source = Garbling(samples, arrivals, clock)
    intake = Intake(source, inspector, Buffer(500), Persistence(), RateMeter(), clock, **parts)
    intake.open()
    intake.start()
    clock.sleep(5.0)
    intake.pull()
    return intake


def test_every_rejected_record_is_kept_as_an_example_whoever_rejected_it(tmp_path):
    quarantine = Quarantine(tmp_path / "q.jsonl", 1.0, device=0)
    quarantine.keep(12, "torn", b"\x00")  # sources keep what they have: it is not lost when the intake hears of it
    drained(quarantine=quarantine)
    examples = [json.loads(line) for line in (tmp_path / "q.jsonl").read_text().splitlines()]
    assert sorted(example["offset"] for example in examples) == [n for n in range(200) if is_bad(n)]
    assert "value" in examples[0]
    assert {example["reason"] for example in examples} == {
        *("torn", "NaN or infinite values", "label 99, expected 0 to 2")
    }


def test_a_quarantine_that_cannot_be_written_is_told_of_once_and_changes_nothing(tmp_path):
    intake = drained(quarantine=Quarantine(tmp_path / "nowhere" / "q.jsonl", 1.0, device=0))
    assert intake.ledger.rejected == sum(is_bad(n) for n in range(200))
    assert intake.notices() == [
        "cannot keep examples of rejected records: No such file or directory; they are still counted"
    ]
    assert intake.notices() == []


@pytest.mark.parametrize(("share", "too_much"), [(0.2, True), (0.5, False)])
def test_too_much_rejected_is_noticed(share, too_much):
    assert drained(limit=RejectionLimit(share)).rejects_too_much is too_much


def test_nothing_is_too_much_without_a_limit():
    assert not drained().rejects_too_much


class Missed(Garbling):
    """A source that has missed some records."""

    missing = 0


def test_missing_records_are_told_once_they_are_not_only_late():
    intake = opened(VirtualClock(), Persistence(), kind=Missed)
    found = []
    for missing in (5, 5, 5, 9, 7, 7):
        intake.source.missing = missing
        found.append(intake.missing_since_last_time())
    assert found == [0, 5, 0, 0, 2, 0]
    intake.source.missing = 3  # four came after all
    assert [intake.missing_since_last_time() for _ in range(2)] == [0, 0]
    intake.source.missing = 10
    assert intake.missing_since_last_time(at_the_end=True) == 7
    assert intake.ledger.balanced


def test_a_first_batch_that_waits_already_does_not_cost_a_window_of_newer_samples():
    """Of a device that comes back: no time passes before its batch is there, none in which a rate is measured."""
    clock = VirtualClock(start_s=30.0)
    source = ReplaySource(good_samples, Arrivals(RateProfile.constant(10.0)), clock)
    intake = Intake(source, Inspector((1,), torch.float64, 1), Buffer(64), Truncation(1.0), RateMeter(), clock)
    intake.open()
    intake.start()
    intake.pull()
    assert len(intake.take(8)) == 8
    clock.sleep(1.0)
    intake.settle(trained=True)
    intake.truncate()
    assert intake.held + intake.lag == 10
    assert intake.describe() == {
        "received": 310 - intake.lag,
        "trained": 8,
        "dropped": 310 - 8 - 10,
        "held": intake.held,
        "rejected": 0,
        "injected": 0,
        "unlabelled": 0,
        "tested": 0,
    }
