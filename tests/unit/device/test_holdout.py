"""Samples that are kept for tests alone, and tests of batches before they are trained on."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from scadles.clock import VirtualClock
from scadles.device.buffer import Buffer, Persistence, Truncation
from scadles.device.holdout import Holdout, held_out
from scadles.device.intake import Intake
from scadles.device.sliding_sums import SlidingSums
from scadles.records import Records
from scadles.streams import Arrivals, Inspector, RateMeter, RateProfile, ReplaySource

RATE_HZ = 20.0


@given(every=st.integers(2, 50), first=st.integers(0, 10**15), blocks=st.integers(1, 40))
def test_one_of_every_so_many_is_held_out(every, first, blocks):
    offsets = np.arange(first * every, (first + blocks) * every)
    chosen = held_out(offsets, every)
    assert (chosen.reshape(blocks, every).sum(axis=1) == 1).all()
    # whoever reads the stream in other pieces holds out the same
    assert [bool(held_out(offsets[i : i + 1], every)[0]) for i in range(len(offsets))] == chosen.tolist()


@pytest.mark.parametrize("every", [2, 3, 10])
def test_labels_that_come_in_turn_are_all_held_out(every):
    offsets = np.arange(3000)
    labels = (offsets % every)[held_out(offsets, every)]
    assert (np.bincount(labels, minlength=every) > len(labels) / every / 2).all()


def records(first, count):
    offsets = np.arange(first, first + count)
    return Records(offsets, np.zeros(count), torch.from_numpy(offsets)[:, None].float(), torch.from_numpy(offsets % 3))


@given(sizes=st.lists(st.integers(0, 30), max_size=12), capacity=st.integers(1, 20))
def test_the_newest_are_kept(sizes, capacity):
    holdout, first, expected = Holdout(every=3, capacity=capacity), 0, []
    for size in sizes:
        rest, tested = holdout.split(records(first, size)) if size else (records(first, 0), np.empty(0))
        expected += tested.tolist()
        assert len(rest) + len(tested) == size
        assert not held_out(rest.offsets, 3).any()
        first += size
    assert holdout.records.offsets.tolist() == expected[-capacity:]
    assert len(holdout) == len(expected[-capacity:])
    cut = first // 2
    holdout.forget_from(cut)
    assert [offset for offset in expected[-capacity:] if offset < cut] == holdout.records.offsets.tolist()


def samples(offsets):
    """Every seventh cannot be trained on."""
    x = torch.from_numpy(offsets).double()[:, None]
    x[torch.from_numpy(offsets % 7 == 0)] = torch.nan
    return x, torch.from_numpy(offsets % 3)


class Life:
    """An intake between two crashes."""

    def __init__(self, clock, policy, state=None):
        source = ReplaySource(samples, Arrivals(RateProfile.constant(RATE_HZ)), clock)
        inspector, buffer = Inspector((1,), torch.float64, 3), Buffer(60)
        self.intake = Intake(source, inspector, buffer, policy, RateMeter(), clock, holdout=Holdout(4, 10))
        self.intake.open(state)
        self.intake.start()

    def do(self, action, clock):
        if action == "wait":
            clock.sleep(0.7)
        elif action == "pull":
            self.intake.pull()
        elif action == "step":
            self.intake.pull()
            taken = self.intake.take(9)
            assert not len(taken) or not held_out(taken.offsets, 4).any()
            self.intake.settle(trained=True)
            self.intake.truncate()
        else:
            self.intake.pull()
            self.intake.take(5)
            self.intake.undo_take()


ACTIONS = st.lists(st.sampled_from(["wait", "wait", "pull", "step", "undo", "crash", "back"]), max_size=40)


@pytest.mark.parametrize("policy", [Persistence(), Truncation(1.0)], ids=["persistence", "truncation"])
@given(actions=ACTIONS)
def test_the_ledger_counts_what_is_held_out_once(policy, actions):
    clock = VirtualClock()
    life = Life(clock, policy)
    saved, trained = life.intake.state(), 0
    for action in actions:
        if action == "crash":
            life = Life(clock, policy, saved)
        elif action == "back":
            life.intake.go_back(saved)
            held = life.intake.holdout.records.offsets
            assert not len(held) or held.max() < saved.position
        else:
            life.do(action, clock)
            if action != "wait":
                saved = life.intake.state()
        ledger = life.intake.describe()
        fates = ("trained", "dropped", "held", "rejected", "tested", "unlabelled")
        assert ledger["received"] == sum(ledger[fate] for fate in fates) == life.intake.source.position
        assert saved.ledger["received"] == saved.position
        trained = max(trained, ledger["trained"])
    if policy.drops:
        return
    # of all that was received each was held out, or rejected, or may be trained on: none twice, none not at all
    offsets = np.arange(life.intake.source.position)
    bad = offsets % 7 == 0
    ledger = life.intake.describe()
    assert ledger["rejected"] == bad.sum()
    assert ledger["tested"] == (held_out(offsets, 4) & ~bad).sum()


@given(
    steps=st.lists(st.tuples(st.integers(0, 9), st.booleans(), st.booleans()), max_size=30), intervals=st.integers(1, 4)
)
def test_sums_slide_over_intervals_and_count_what_was_trained_on(steps, intervals):
    sums, expected = SlidingSums(intervals), [0]
    for value, trained, tested in steps:
        sums.note(torch.tensor([float(value), 1.0], dtype=torch.float64))
        sums.settle(trained=trained)
        sums.settle(trained=True)  # nothing is pending any more
        expected[-1] += value * trained
        again = SlidingSums(intervals)
        again.load(sums.state())
        for one in (sums, again):
            total = one.total
            assert (0.0 if total is None else float(total[0])) == sum(expected[-intervals:])
        if tested:
            sums.next_interval()
            expected.append(0)
    sums.clear()
    assert sums.total is None
