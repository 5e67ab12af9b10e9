"""The paper's rule, decided alike everywhere."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from scadles.errors import ConfigError
from scadles.exchange.compression import NormGate

ENERGIES = st.lists(st.tuples(st.floats(1e-6, 1e6), st.floats(0, 1)), min_size=1, max_size=30)


@given(ENERGIES, st.floats(0, 1), st.floats(0.01, 1))
def test_the_rule_is_the_papers(energies, delta, smoothing):
    gate = NormGate(delta, smoothing)
    average, decisions = None, []
    for norm_sq, share in energies:
        decisions.append(gate.decide())
        gate.observe(norm_sq, share * norm_sq)
        now = abs(norm_sq - share * norm_sq) / norm_sq
        average = now if average is None else smoothing * now + (1 - smoothing) * average
        assert gate.left_out == pytest.approx(average)
        if average != pytest.approx(delta):
            assert gate.decide() == (average <= delta)
    assert decisions[0] is False


def test_delta_divides_compressed_from_dense():
    gate = NormGate(delta=0.3)
    gate.observe(100.0, 71.0)
    assert gate.decide()
    assert gate.why == "little stays behind: 0.290 of the squared norm on average, delta = 0.3"
    gate = NormGate(delta=0.3)
    assert gate.why == gate.reason == "dense, to see what stays behind"
    gate.observe(100.0, 69.0)
    assert not gate.decide()
    assert gate.reason == "too much stays behind"


def test_a_gradient_of_zeros_leaves_nothing_out():
    gate = NormGate(delta=0.0)
    gate.observe(0.0, 0.0)
    assert gate.decide()
    assert gate.left_out == 0.0


def test_numbers_that_are_none_change_no_decision():
    gate = NormGate(delta=0.3)
    gate.observe(10.0, 9.0)
    gate.observe(math.nan, 1.0)
    gate.observe(math.inf, math.inf)
    assert gate.decide()
    assert gate.left_out == pytest.approx(0.1)


@given(ENERGIES, ENERGIES)
def test_a_state_goes_on_where_it_was(before, after):
    first = NormGate(0.3)
    for norm_sq, share in before:
        first.observe(norm_sq, share * norm_sq)
    second = NormGate(0.3)
    second.load(first.state())
    for norm_sq, share in after:
        for gate in (first, second):
            gate.observe(norm_sq, share * norm_sq)
        assert first.state() == second.state()
        assert first.decide() == second.decide()


def test_an_untouched_state_too():
    gate = NormGate(0.3)
    gate.load(NormGate(0.3).state())
    assert (gate.decide(), gate.left_out) == (False, None)


@pytest.mark.parametrize(
    ("settings", "message"),
    [({"delta": 1.5}, "delta = 1.5"), ({"delta": math.nan}, "delta = nan"), ({"smoothing": 0}, "smoothing = 0")],
)
def test_settings_that_cannot_be_are_refused(settings, message):
    with pytest.raises(ConfigError, match=message):
        NormGate(**{"delta": 0.3, **settings})
