"""Gradients that are unlike all others: which ones are found, which are not, and what is remembered."""

import json
import math

import pytest
import torch

from scadles.exchange.aggregation.outliers import MOST_TIMES, Judge, described

N = 200


class Given:
    """Gradients as vectors."""

    def __init__(self, vectors):
        self._vectors = vectors

    def norms(self):
        return {one: float(vector.norm()) for one, vector in self._vectors.items()}

    def products(self, among):
        total = sum(self._vectors[one] for one in among)
        return {one: float(vector @ total) for one, vector in self._vectors.items()}, float(total @ total)


def gradients(devices, seed, noise=1.0, weight=8.0):
    """Honest ones: a common direction and noise of each device's own."""
    generator = torch.Generator().manual_seed(seed)
    common = torch.randn(N, generator=generator, dtype=torch.float64)
    own = torch.randn(devices, N, generator=generator, dtype=torch.float64)
    return {one: weight * (common + noise * own[one]) for one in range(devices)}


def judge_steps(judge, steps, spoil=lambda vectors: None, devices=8, noise=1.0):
    """Judge so many steps in which ``spoil`` changes what honest devices send; return the last judgement."""
    judgement = None
    for seed in range(steps):
        vectors = gradients(devices, seed, noise)
        spoil(vectors)
        judgement = judge.judge(Given(vectors), dict.fromkeys(vectors, 8.0))
    return judgement


def times(factor, device=5):
    def spoil(vectors):
        vectors[device] = vectors[device] * factor

    return spoil


@pytest.mark.parametrize("action", ["reject", "clip"])
@pytest.mark.parametrize("noise", [0.1, 3.0])
def test_nothing_is_found_among_honest_devices(action, noise):
    judge = Judge(action)
    for steps in range(1, 40):
        assert judge_steps(judge, 1, noise=noise) == ({}, {}), steps


@pytest.mark.parametrize("factor", [20.0, 1000.0, -1e30])
def test_a_norm_far_out_is_set_aside_at_once(factor):
    factors, found = judge_steps(Judge("reject"), 1, times(factor))
    assert factors == {5: 0.0}
    assert found[5] == pytest.approx(min(abs(factor), MOST_TIMES), rel=0.2)


@pytest.mark.parametrize("value", [math.nan, math.inf])
@pytest.mark.parametrize("action", ["reject", "clip"])
def test_what_is_no_number_is_always_set_aside(value, action):
    factors, found = judge_steps(Judge(action), 1, times(value))
    assert (factors, found) == ({5: 0.0}, {5: MOST_TIMES})


def test_clipping_leaves_ten_times_the_median():
    vectors = gradients(8, 0, noise=0.0)
    times(1000.0)(vectors)
    factors, found = Judge("clip").judge(Given(vectors), dict.fromkeys(vectors, 8.0))
    assert factors == {5: pytest.approx(0.01, rel=1e-6)}
    assert found == {5: pytest.approx(1000.0)}


def test_norms_are_per_sample():
    vectors = gradients(4, 0, noise=0.0)
    weights = dict.fromkeys(vectors, 8.0)
    vectors[2], weights[2] = 100 * vectors[2], 800.0  # a batch that is 100 times as large
    assert Judge("reject").judge(Given(vectors), weights).factors == {}


def test_a_gradient_without_any_weight_is_set_aside():
    vectors = gradients(4, 0)
    assert Judge("reject").judge(Given(vectors), {0: 8.0, 1: 8.0, 2: 8.0, 3: 0.0}).factors == {3: 0.0}


def test_nobody_is_judged_where_there_are_two():
    assert judge_steps(Judge("reject"), 10, times(1000.0, device=1), devices=2) == ({}, {})


def test_zeros_say_nothing():
    assert judge_steps(Judge("reject"), 10, times(0.0)) == ({}, {})
    assert Judge("reject").judge(Given({0: torch.zeros(3)}), {0: 0.0}) == ({}, {})


@pytest.mark.parametrize("devices", [4, 8, 16])
def test_a_device_that_pulls_back_is_set_aside_after_some_steps_until_it_does_no_more(devices):
    judge, backwards = Judge("reject"), times(-1.0, device=1)
    assert judge_steps(judge, 4, backwards, devices) == ({}, {})
    factors, found = judge_steps(judge, 10, backwards, devices)
    assert factors == {1: 0.0}
    assert -1 < found[1] < -0.3
    assert judge_steps(judge, 60, devices=devices) == ({}, {})


def test_clipping_does_not_look_at_directions():
    assert judge_steps(Judge("clip"), 20, times(-1.0)) == ({}, {})


def test_honest_devices_with_labels_of_their_own_pull_against_each_other_and_stay():
    """Each has a direction of its own less the mean of all: the sum of the others points the other way."""

    def spoil(vectors):
        generator = torch.Generator().manual_seed(1)
        own = torch.randn(len(vectors), N, generator=generator, dtype=torch.float64)
        own -= own.mean(dim=0)
        for one in vectors:
            vectors[one] = 8.0 * own[one] + 0.1 * vectors[one]

    judge = Judge("reject")
    for _ in range(30):
        assert judge_steps(judge, 1, spoil) == ({}, {})


def test_one_device_with_a_label_of_its_own_stays():
    """Its gradients have nothing to do with those of the others, which agree."""

    def spoil(vectors):
        generator = torch.Generator().manual_seed(int(vectors[0][0] * 1000) % 1000)
        vectors[5] = 8.0 * torch.randn(N, generator=generator, dtype=torch.float64)

    judge = Judge("reject")
    for _ in range(60):
        assert judge_steps(judge, 3, spoil, noise=0.2) == ({}, {})


def test_what_is_remembered_goes_through_json():
    judge, again = Judge("reject"), Judge("reject")
    judge_steps(judge, 10, times(-1.0))
    again.load(json.loads(json.dumps(judge.state())))
    assert again.state() == judge.state()
    assert judge_steps(again, 1, times(-1.0)) == judge_steps(judge, 1, times(-1.0))


def test_what_is_said():
    assert described(MOST_TIMES) == "a norm that is no number"
