"""Compression only where it saves time, by what was measured, and the reason in words."""

import math
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from scadles.errors import ConfigError
from scadles.exchange.compression import CostGate

SPARSE, DENSE = 1e6, 4e6


def known(sparse_s, dense_s, **settings):
    """Return a gate that has seen what both kinds of steps take."""
    gate = CostGate(**settings)
    for _ in range(2):
        gate.observe(compressed=False, transfer_s=dense_s)
        gate.observe(compressed=True, transfer_s=sparse_s / 4, coding_s=3 * sparse_s / 4)
    return gate


def drive(gate, steps, seconds):
    """Decide about steps, each measured one step late; return what was decided, and what ``seconds`` says it took."""
    late, took, decisions = None, [], []
    for step in range(steps):
        compressed = gate.decide(SPARSE, DENSE)
        if late is not None:
            gate.observe(compressed=late[0], transfer_s=late[1])
        late = compressed, seconds(step, compressed)
        took.append(late[1])
        decisions.append(compressed)
    return decisions, took


def test_it_looks_at_both_before_it_decides():
    gate = CostGate()
    assert not gate.decide(SPARSE, DENSE)
    assert gate.why == gate.reason == "dense, to see what it takes"
    for _ in range(2):
        gate.observe(compressed=False, transfer_s=4.0)
    assert gate.decide(SPARSE, DENSE)
    assert gate.why == gate.reason == "compressed, to see what it takes"
    for _ in range(2):
        gate.observe(compressed=True, transfer_s=1.0, coding_s=1.0)
    assert gate.decide(SPARSE, DENSE)
    assert gate.why == "compressed is faster: 1 s of coding and 1 s for 1 MB against 4 s for 4 MB dense"


def test_on_a_fast_link_it_sends_dense_and_says_why():
    gate = known(sparse_s=0.5, dense_s=0.004)
    assert not gate.decide(SPARSE, DENSE)
    assert gate.reason == "dense is faster"
    assert gate.why == "dense is faster: 0.375 s of coding and 0.125 s for 1 MB against 0.004 s for 4 MB dense"


@pytest.mark.parametrize(
    ("bandwidth_bps", "latency_s", "coding_s", "compresses"),
    [(1e9, 0.05, 0.5, False), (1e9, 0.05, 0.05, True), (20e6, 0.03, 3.0, False), (20e6, 0.03, 0.15, True)],
)
def test_latency_is_not_taken_for_bandwidth(bandwidth_bps, latency_s, coding_s, compresses):
    """Four devices: few bytes in two rounds, many in six; on fast links nearly all of that is latency."""

    def seconds(_, compressed):
        rounds, nbytes, coding = (2, SPARSE, coding_s) if compressed else (6, DENSE, 0.0)
        return coding + rounds * latency_s + 8 * nbytes / bandwidth_bps

    decisions, _ = drive(CostGate(), 150, seconds)
    assert set(decisions[10:]) == {compresses}


@given(st.floats(1e-4, 1e3), st.floats(1e-4, 1e3))
def test_it_is_hardly_slower_than_the_better_of_both(sparse_s, dense_s):
    steps = 1500
    _, took = drive(CostGate(), steps, lambda _, compressed: sparse_s if compressed else dense_s)
    looks = 6 * max(sparse_s, dense_s)
    assert sum(took) <= 1.02 * steps * min(dense_s, sparse_s / 0.9) + looks


@pytest.mark.parametrize("compressed_first", [True, False])
def test_a_link_that_changes_is_noticed(compressed_first):
    """Also where what has changed is the kind of step that is not taken."""

    def seconds(step, compressed):
        return 1.0 if compressed == (compressed_first == (step < 500)) else 5.0

    decisions, _ = drive(CostGate(), 1000, seconds)
    assert set(decisions[10:100]) == {compressed_first}
    assert set(decisions[-100:]) == {not compressed_first}


def test_a_slow_moment_changes_nothing():
    slow = {0: 50.0, 3: 40.0, 20: 100.0, 21: 100.0}  # the first dense and the first compressed step among them

    def seconds(step, compressed):
        return slow.get(step, 1.0 if compressed else 4.0)

    decisions, _ = drive(CostGate(), 100, seconds)
    assert decisions == [False] * 3 + [True] * 97


@pytest.mark.parametrize("sparse_bytes", [DENSE, 2 * DENSE])
def test_it_never_puts_more_bytes_on_the_link(sparse_bytes):
    gate = known(sparse_s=0.1, dense_s=9.0)
    for _ in range(300):
        assert not gate.decide(sparse_bytes, DENSE)
        assert gate.reason == "compressed is no smaller"
    assert gate.why == f"compressed is no smaller: {sparse_bytes / 1e6:g} MB against 4 MB dense"


def test_noise_does_not_switch_it():
    gate = known(sparse_s=3.8, dense_s=4.0, margin=0.1)
    assert not gate.decide(SPARSE, DENSE)  # saves 5 %: too little to begin
    for sparse_s, compresses in ((3.5, True), (3.8, True), (4.1, False)):
        for _ in range(5):
            gate.observe(compressed=True, transfer_s=sparse_s)
        assert gate.decide(SPARSE, DENSE) == compresses  # and enough to go on


@pytest.mark.parametrize("fast", [True, False])
def test_the_other_kind_is_looked_at_again_as_seldom_as_it_is_slow(fast):
    decisions, _ = drive(CostGate(retry_steps=5), 400, lambda _, compressed: 1.0 if compressed == fast else 4.0)
    looks = [step for step, compressed in enumerate(decisions) if step > 10 and compressed != fast]
    starts = [step for step in looks if step - 1 not in looks]
    assert len(looks) == 3 * len(starts) > 0
    assert {later - step for step, later in pairwise(starts)} == {5 * 4 * 2 + 3}


def test_numbers_that_are_none_change_nothing():
    gate = known(1.0, 4.0)
    before = gate.state()
    gate.observe(compressed=True, transfer_s=math.nan)
    gate.observe(compressed=True, transfer_s=1.0, coding_s=math.inf)
    gate.observe(compressed=False, transfer_s=-1.0)
    assert gate.state() == before


@given(st.lists(st.tuples(st.floats(0, 9), st.floats(0, 9)), max_size=20), st.integers(0, 20))
def test_a_state_goes_on_where_it_was(measured, saved_after):
    first, second = CostGate(retry_steps=1), CostGate(retry_steps=1)
    for number, (sparse_s, dense_s) in enumerate(measured):
        if number == saved_after:
            second.load(first.state())
        for gate in (first, second):
            compressed = gate.decide(SPARSE, DENSE)
            gate.observe(compressed=compressed, transfer_s=sparse_s if compressed else dense_s)
    assert saved_after >= len(measured) or (second.why, second.state()) == (first.why, first.state())


@pytest.mark.parametrize(
    ("settings", "message"), [({"margin": 1}, "margin = 1"), ({"retry_steps": 0}, "retry_steps = 0")]
)
def test_settings_that_cannot_be_are_refused(settings, message):
    with pytest.raises(ConfigError, match=message):
        CostGate(**settings)
