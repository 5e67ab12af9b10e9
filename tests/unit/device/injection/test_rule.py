import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from scadles.device.injection import Choice, Injection, Numbered, Passing, SampleSender, SharingPolicy
from scadles.records import Span


class TestInjection:
    @given(st.floats(0.01, 1), st.integers(2, 40), st.integers(1, 1000))
    def test_so_many_share_and_everybody_knows_who(self, alpha, devices, step):
        here, there = (Injection(alpha, 0.5, devices, seed=7) for _ in range(2))
        senders = here.senders(step)
        assert senders == there.senders(step) == tuple(sorted(set(senders)))
        assert len(senders) == math.ceil(alpha * devices - 1e-9)
        assert set(senders) <= set(range(devices))

    @pytest.mark.parametrize(
        ("alpha", "devices", "count"), [(0.1, 10, 1), (0.25, 10, 3), (0.05, 10, 1), (0.1, 30, 3), (0.7, 10, 7)]
    )
    def test_rounding_adds_nobody(self, alpha, devices, count):
        assert len(Injection(alpha, 0.5, devices, seed=0).senders(3)) == count

    def test_turns_are_drawn_anew_in_each_step_and_evenly(self):
        injection = Injection(0.5, 0.5, 10, seed=1)
        turns = np.zeros(10)
        for step in range(1, 401):
            turns[list(injection.senders(step))] += 1
        assert turns.sum() == 2000
        assert np.abs(turns - 200).max() < 5 * 10  # five deviations of a binomial of 400 with one half

    @given(st.floats(0.01, 1), st.integers(0, 300), st.integers(0, 9))
    def test_places_are_a_part_of_the_batch(self, beta, size, device):
        places = Injection(0.5, beta, 10, seed=3).indices(device, 5, size)
        assert len(places) == int(beta * size + 1e-9)
        assert places.tolist() == sorted(set(places.tolist()))
        assert not len(places) or (places[0] >= 0 and places[-1] < size)

    def test_devices_draw_apart(self):
        injection = Injection(0.5, 0.5, 10, seed=3)
        assert injection.indices(1, 5, 100).tolist() != injection.indices(2, 5, 100).tolist()
        assert injection.indices(1, 5, 100).tolist() != injection.indices(1, 6, 100).tolist()


class TestSharingPolicy:
    labels = np.array([0, 1, 2, 1])

    def allowed(self, device, **settings):
        return SharingPolicy(**settings).allowed(device, self.labels).tolist()

    def test_all_may_be_shared_where_nobody_says_anything(self):
        assert self.allowed(0) == [True] * 4
        assert not SharingPolicy().depends_on_labels(0)

    def test_an_allow_list_of_devices_shuts_out_the_others(self):
        assert self.allowed(1, allow_devices=[1]) == [True] * 4
        assert self.allowed(0, allow_devices=[1]) == [False] * 4
        assert self.allowed(0, allow_devices=[]) == [False] * 4

    def test_labels_are_allowed_and_refused(self):
        assert self.allowed(0, allow_labels=[1]) == [False, True, False, True]
        assert self.allowed(0, allow_labels=[0, 1], refuse_labels=[1]) == [True, False, False, False]
        assert self.allowed(0, allow_labels=[]) == [False] * 4

    def test_each_device_has_lists_of_its_own(self):
        settings = {"allow_labels": {0: [2]}, "refuse_labels": {1: [0, 2]}}
        assert self.allowed(0, **settings) == [False, False, True, False]
        assert self.allowed(1, **settings) == [False, True, False, True]
        assert self.allowed(2, **settings) == [True] * 4
        assert [SharingPolicy(**settings).depends_on_labels(device) for device in range(3)] == [True, True, False]


class TestSampleSender:
    def make(self, **settings):
        return SampleSender(0, Injection(1.0, 0.5, 4, seed=0), SharingPolicy(**settings), Passing())

    def test_what_is_refused_is_left_out_and_counted(self):
        labels = np.arange(20) % 4
        sender = self.make(refuse_labels=[3])
        places, withheld = sender.choose(1, 20, lambda drawn: labels[drawn])
        drawn = sender.injection.indices(0, 1, 20)
        assert places.tolist() == [place for place in drawn.tolist() if labels[place] != 3]
        assert withheld == len(drawn) - len(places) > 0

    def test_a_device_that_refuses_needs_no_labels(self):
        places, withheld = self.make(refuse_devices=[0]).choose(1, 20, None)
        assert (len(places), withheld) == (0, 10)

    def test_the_account_survives_a_crash(self):
        sender, again = self.make(), self.make()
        sender.book(Span(3, 9), Choice(np.array([0, 5]), 1), 500, copies=3)
        sender.end_step()
        sender.book(Span(3, 9), Choice(np.array([5, 6]), 0), 400, copies=3)
        again.load(sender.state())
        assert again.describe() == sender.describe()
        assert sender.describe() == {
            "samples": 4,
            "withheld": 1,
            "payload_bytes": 900,
            "sent_bytes": 2700,
            "distinct_records": 3,
        }
        assert (sender.latest.samples, again.latest.samples) == (2, 0)


class TestHistory:
    @given(st.lists(st.sets(st.integers(0, 400)), max_size=8), st.integers(1, 60))
    def test_numbered_counts_each_sample_of_the_data_set_once(self, steps, size):
        history, again = (Numbered(lambda offsets: offsets % size, size) for _ in range(2))
        for offsets in steps:
            history.add(np.array(sorted(offsets), dtype=np.int64), 0)
            again.load(history.state())
        assert history.distinct == again.distinct == len({offset % size for step in steps for offset in step})

    @given(st.data())
    def test_passing_counts_each_offset_once_though_batches_come_again(self, data):
        """Batches are consecutive; after a batch was given back, the next one begins where that one did."""
        history, sent, start = Passing(), set(), 0
        for _ in range(data.draw(st.integers(0, 10))):
            size = data.draw(st.integers(0, 12))
            chosen = sorted(data.draw(st.sets(st.integers(start, start + size - 1)))) if size else []
            history.add(np.array(chosen, dtype=np.int64), start)
            sent.update(chosen)
            resumed = Passing()
            resumed.load(history.state())
            history = resumed
            start += 0 if data.draw(st.booleans()) else size
        assert history.distinct == len(sent)
