"""Compression only where it saves time, and the reason in words."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from scadles.compression import CostGate
from scadles.errors import ConfigError

SPARSE, DENSE = 1e6, 4e6


def known(coding_s, bandwidth_bps=8e6, **settings):
    gate = CostGate(bandwidth_bps, **settings)
    gate.observe(coding_s=coding_s)
    return gate


def test_it_measures_before_it_compresses():
    gate = CostGate()
    assert not gate.decide(SPARSE, DENSE)
    assert gate.why == "dense: the bandwidth is not known yet"
    gate.observe(transfer_s=4.0, transfer_bytes=DENSE)
    assert gate.bandwidth_bps == pytest.approx(8e6)
    assert gate.decide(SPARSE, DENSE)
    assert gate.why == "compressed: to learn what coding takes"
    gate.observe(coding_s=1.0, transfer_s=1.0, transfer_bytes=SPARSE)
    assert gate.decide(SPARSE, DENSE)
    assert gate.why == "compressed: 1 s of coding and 1 s for 1 MB against 4 s for 4 MB dense at 8 Mbit/s"


def test_on_a_fast_link_it_sends_dense_and_says_why():
    gate = known(coding_s=0.5, bandwidth_bps=8e9)
    assert not gate.decide(SPARSE, DENSE)
    assert gate.why == "dense: 0.5 s of coding and 0.001 s for 1 MB against 0.004 s for 4 MB dense at 8e+03 Mbit/s"


@given(st.floats(1e3, 1e12), st.floats(0, 100), st.floats(1, 1e10), st.floats(1, 1e10))
def test_it_never_chooses_what_takes_longer(bandwidth_bps, coding_s, sparse_bytes, dense_bytes):
    gate = known(coding_s, bandwidth_bps)
    for _ in range(2):
        if gate.decide(sparse_bytes, dense_bytes):
            assert coding_s + 8 * sparse_bytes / bandwidth_bps <= 8 * dense_bytes / bandwidth_bps * (1 + 1e-9)
            assert gate.why.startswith("compressed: ")
        else:
            assert gate.why.startswith("dense: ")


@pytest.mark.parametrize("sparse_bytes", [DENSE, 2 * DENSE])
def test_it_never_puts_more_bytes_on_the_link(sparse_bytes):
    gate = CostGate(8e6)
    for _ in range(300):
        assert not gate.decide(sparse_bytes, DENSE)
        assert "are no fewer than" in gate.why


def test_noise_does_not_switch_it():
    gate = known(coding_s=2.8, margin=0.1, smoothing=1.0)
    assert not gate.decide(SPARSE, DENSE)  # saves 5 %: too little to begin
    gate.observe(coding_s=2.5)
    assert gate.decide(SPARSE, DENSE)
    gate.observe(coding_s=2.8)
    assert gate.decide(SPARSE, DENSE)  # and enough to go on
    gate.observe(coding_s=3.1)
    assert not gate.decide(SPARSE, DENSE)


def test_a_slow_moment_is_forgotten():
    gate = known(coding_s=60.0, retry_steps=5)
    assert [gate.decide(SPARSE, DENSE) for _ in range(6)] == [False] * 5 + [True]
    gate.observe(coding_s=0.5)
    assert gate.decide(SPARSE, DENSE)


def test_a_configured_bandwidth_is_not_measured_away():
    gate = known(coding_s=0.5)
    gate.observe(transfer_s=1.0, transfer_bytes=1.0)
    assert gate.bandwidth_bps == pytest.approx(8e6)


def test_numbers_that_are_none_change_nothing():
    gate = CostGate()
    gate.observe(transfer_s=4.0, transfer_bytes=DENSE, coding_s=1.0)
    before = gate.state()
    gate.observe(coding_s=math.nan, transfer_s=0.0, transfer_bytes=0.0)
    gate.observe(transfer_s=math.nan, transfer_bytes=5.0)
    gate.observe(transfer_s=math.inf, transfer_bytes=5.0)
    gate.observe()
    assert gate.state() == before


@given(st.lists(st.tuples(st.floats(0, 9), st.floats(0.01, 9)), max_size=20))
def test_a_state_goes_on_where_it_was(measured):
    first, second = CostGate(), CostGate()
    for coding_s, transfer_s in measured:
        first.observe(coding_s=coding_s, transfer_s=transfer_s, transfer_bytes=DENSE)
        first.decide(SPARSE, DENSE)
    second.load(first.state())
    assert second.decide(SPARSE, DENSE) == first.decide(SPARSE, DENSE)
    assert (second.why, second.state()) == (first.why, first.state())


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"bandwidth_bps": 0}, "bandwidth_bps = 0: above 0"),
        ({"bandwidth_bps": math.inf}, "bandwidth_bps = inf"),
        ({"margin": 1}, "margin = 1"),
        ({"smoothing": 2}, "smoothing = 2"),
        ({"retry_steps": 0}, "retry_steps = 0"),
    ],
)
def test_settings_that_cannot_be_are_refused(settings, message):
    with pytest.raises(ConfigError, match=message):
        CostGate(**settings)
