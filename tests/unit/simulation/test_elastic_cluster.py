"""Simulated devices that come and go as at a hub; that real ones do the same is proved in tests/parity."""

from itertools import pairwise

import numpy as np
import pytest

from scadles.observe import Evaluation, RunFolder
from scadles.simulation import simulate

ALWAYS = {"windows_s": [[0, 1000]]}


@pytest.fixture
def run(tmp_path):
    """Simulate three devices at a hub that are there at these times; return the folder, read back."""

    def simulated(*windows, least=1, rates=(40, 12, 8), **more):
        config = {"devices": 3, "steps": 8, "model": "none", "picture": False, "stream": {"rates": list(rates)}} | more
        config["fabric"] = {"backend": "hub", "min_devices": least}
        availability = [ALWAYS if window is None else {"windows_s": window} for window in windows]
        config["cost"] = {"availability": availability, "collective": "star"} | more.get("cost", {})
        out = tmp_path / f"run-{len(list(tmp_path.iterdir()))}"
        simulate(config, out=out, quiet=True)
        return RunFolder(out)

    return simulated


def steps_of(folder):
    return [[step.step for step in folder.steps(device)] for device in range(3)]


def assert_balanced(folder):
    for row in folder.summary.per_device:
        samples = row.samples
        assert samples.received == samples.trained + samples.dropped + samples.held + samples.rejected
        assert samples.trained == sum(step.batch for step in folder.steps(row.device))


class TestComing:
    def test_a_stream_begins_when_its_device_comes_for_the_first_time(self, run):
        folder = run(None, None, [[4.5, 1000]], buffer={"policy": "persistence"})
        assert steps_of(folder)[2] == [7, 8], "it follows in step 6, and its samples wait"
        assert folder.steps(2)[0].offsets[0] == 0
        assert folder.summary.per_device[2].samples.received <= 8 * 3
        assert_balanced(folder)

    @pytest.mark.parametrize("policy", ["persistence", "truncation"])
    def test_what_came_meanwhile_waits_for_who_comes_back(self, run, policy):
        folder = run(None, [[0, 2.5], [6.5, 1000]], None, steps=20, rates=(40, 40, 8), buffer={"policy": policy})
        steps = folder.steps(1)
        before, after = (next(s for s in steps if s.step == number) for number in (2, 9))
        assert after.rate_hz == pytest.approx(40), "measured anew"
        oldest, newest = (before.offsets[1] + 1, before.offsets[1] + 40), (280, 319)
        assert after.offsets == (newest if policy == "truncation" else oldest)
        assert (folder.summary.per_device[1].samples.dropped > 100) == (policy == "truncation")
        assert_balanced(folder)

    def test_waits_count_from_when_those_of_the_others_did(self, run):
        """Not from its own coming: nobody waits longer because somebody has come."""
        folder = run(None, None, [[2.5, 1000]], steps=6, rates=(40, 40, 1))
        ends = folder.column(0, "time_s")
        assert np.diff(ends) == pytest.approx(1.0)
        assert [step.wait_s for step in folder.steps(2)] == pytest.approx([1.0] * 2)

    def test_one_that_comes_follows_until_it_has_the_state_and_the_others_go_on(self, run):
        """Model and momentum, 2 x 1,200 bytes, take 4.8 s over the uplink of the device that gives them."""
        link = {"up_bps": [4e3, 1e9, 1e9], "down_bps": 1e9}
        settings = {"optimizer": {"momentum": 0.9}, "cost": {"link": link, "message_bytes": 1200}}
        folder = run(None, None, [[2.9, 1000]], steps=7, model="mlp", **settings)
        ends = folder.column(0, "time_s")
        came_s, first = ends[0], folder.steps(2)[0].step
        assert np.diff(ends)[: first - 2] == pytest.approx(np.diff(ends)[0], rel=1e-3), "nobody waits for it"
        assert ends[first - 2] >= came_s + 4.8 > ends[first - 3]


class TestGoing:
    def test_who_is_lost_before_the_others_are_ready_has_no_part_in_the_step(self, run):
        """It was ready itself, at 0.2 s; the slowest one is at 2.0 s."""
        settings = {"method": "ddl", "batch": {"size": 16}, "rates": (80, 12, 8), "steps": 2}
        folder = run([[0, 1.0]], None, None, **settings)
        assert steps_of(folder) == [[], [1, 2], [1, 2]]
        assert folder.steps(1)[0].total_batch == 32
        samples = folder.summary.per_device[0].samples
        assert (samples.trained, samples.held) == (0, samples.received)

    @pytest.mark.parametrize(
        ("until_s", "counts"), [(2.9, False), (4.2, False), (4.9, False), (5.1, True)], ids=lambda value: str(value)
    )
    def test_who_is_lost_before_the_hub_has_all_gradients_has_no_part_and_the_others_send_again(
        self, run, until_s, counts
    ):
        """All are ready at 3 s, the hub has all gradients at 5 s, and they have the sum at 6 s."""
        link = {"up_bps": 8e3, "down_bps": 16e3}
        cost = {"link": link, "message_bytes": 2000, "compute": {"step_s": 2.0}}
        folder = run([[0, until_s]], None, None, steps=2, cost=cost, rates=(40, 40, 40))
        first = folder.steps(1)[0]
        assert steps_of(folder)[0] == ([1] if counts else [])
        assert first.total_batch == (120 if counts else 80)
        assert first.time_s == pytest.approx(3.0 + (until_s - 3.0 if 3.0 < until_s < 5.0 else 0.0) + 3.0)
        assert_balanced(folder)

    def test_pieces_of_a_long_message_come_back_while_others_are_on_their_way(self, run):
        """5 MiB at 8 Mbit/s: 5.2 s up, and the last of five pieces 1 s down, after 1 s of gathering."""
        cost = {"link": {"up_bps": 8e6, "down_bps": 8e6}, "message_bytes": 5 << 20}
        folder = run(None, None, None, steps=1, cost=cost, rates=(40, 40, 40))
        assert folder.steps(0)[0].time_s == pytest.approx(1 + 6 * (1 << 20) / 1e6)

    def test_a_compressed_message_is_there_sooner(self, run):
        """481 of 4,810 entries take 0.7 s, all of them 19 s."""
        cost = {"link": {"up_bps": 8e3, "down_bps": 8e3}}
        settings = {"model": "mlp", "steps": 1, "cost": cost, "rates": (40, 40, 40)}
        for compression, steps in (({}, []), ({"ratio": 0.1, "gate": "always"}, [1])):
            assert steps_of(run([[0, 3.5]], None, None, compression=compression, **settings))[0] == steps

    def test_the_first_one_present_tells_the_time(self, run):
        folder = run([[0, 2.5]], None, None, steps=None, duration_s=7.5)
        assert folder.summary.ended_by == "duration"
        assert 7.5 <= folder.summary.time_s < 8.6
        assert {step.slowest for step in folder.steps(1)[3:]} <= {1, 2}

    def test_those_who_are_there_decide_that_all_streams_have_ended(self, run):
        ending = {"rates": [400, 120, 80], "end": "stop"}
        folder = run(None, None, [[0, 1.5], [900, 1000]], steps=None, model="mlp", stream=ending)
        assert folder.summary.ended_by == "streams"
        assert folder.summary.time_s < 60
        assert_balanced(folder)

    def test_who_is_away_is_not_tested(self, run):
        folder = run(
            None,
            None,
            [[0, 3.5]],
            model="cnn",
            aggregation={"batchnorm": "local"},
            batch={"min": 4},
            evaluation={"every_s": 2},
        )
        told = [[e for e in folder.events(device) if isinstance(e, Evaluation)] for device in range(3)]
        assert len(told[0]) == len(told[1]) > len(told[2]) > 0
        last = [events[-1] for events in told[:2]]
        assert last[0].accuracy == pytest.approx(np.mean([event.own_accuracy for event in last]))


class TestTooFew:
    def test_the_first_step_waits_for_enough(self, run):
        folder = run(None, [[3.0, 1000]], [[5.25, 1000]], least=3)
        assert steps_of(folder) == [list(range(1, 9))] * 3
        assert folder.column(0, "time_s")[0] == pytest.approx(6.25)
        assert folder.steps(0)[0].offsets[0] == 0

    def test_a_step_waits_for_enough_and_counts_without_what_had_been_gathered(self, run):
        folder = run(None, [[0, 2.5], [7.25, 1000]], None, least=3, buffer={"policy": "persistence"})
        assert steps_of(folder) == [list(range(1, 9))] * 3
        third = [folder.steps(device)[2] for device in range(3)]
        assert [step.batch for step in third] == [0, 8, 0]
        assert third[0].time_s >= 7.25
        following = 0
        for step in folder.steps(0):
            if step.offsets is not None:
                assert step.offsets[0] == following
                following = step.offsets[1] + 1
        assert_balanced(folder)

    def test_the_time_that_was_waited_counts(self, run):
        folder = run(None, [[0, 2.5], [7.25, 1000]], None, least=3, steps=None, duration_s=9)
        assert 9 <= folder.summary.time_s < 10.5, "to a step"

    def test_nobody_comes_any_more(self, run):
        folder = run(None, [[0, 2.5]], None, least=3)
        assert (folder.summary.ended_by, folder.summary.steps) == ("deserted", 2)

    def test_all_go_and_come_back(self, run):
        folder = run([[0, 2.5], [6, 1000]], [[0, 2.25], [7, 1000]], [[0, 2.75], [8, 1000]], least=2)
        times = folder.column(0, "time_s")
        assert steps_of(folder)[0] == list(range(1, 9))
        assert not any(2.1 < time < 7 for time in times)
        assert_balanced(folder)


def test_what_is_shared_is_void_where_a_device_is_lost_in_the_middle(run):
    """Nobody may share twice in a step: it is taken without a batch, and all that was gathered is for the next one."""
    settings = {"model": "mlp", "injection": {"alpha": 1, "beta": 0.5}, "buffer": {"policy": "persistence"}}
    folder = run(None, None, [[0, 2.5]], rates=(40, 40, 40), **settings)
    third = [folder.steps(device)[2] for device in range(2)]
    assert all(step.batch and step.injected for step in folder.steps(0)[3:])
    assert [(step.batch, step.total_batch, step.injected) for step in third] == [(0, 0, 0)] * 2
    for device in range(2):
        offsets = [step.offsets for step in folder.steps(device) if step.offsets is not None]
        assert all(first[1] + 1 == second[0] for first, second in pairwise(offsets))


def test_what_is_shared_counts_where_all_have_gone_and_others_come(run):
    settings = {"model": "mlp", "steps": 4, "injection": {"alpha": 1, "beta": 0.5}, "rates": (40, 40, 40)}
    folder = run([[0, 2.25]], [[0, 2.25], [4, 100]], [[4, 100]], **settings)
    assert steps_of(folder) == [[1, 2], [1, 2, 3, 4], [3, 4]]
    assert [step.injected for step in folder.steps(1)[:2]] == [20, 20]
    assert all(step.batch > step.injected for device in (1, 2) for step in folder.steps(device))
