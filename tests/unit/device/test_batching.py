import pytest
from hypothesis import given
from hypothesis import strategies as st

from scadles.device.batching import FixedBatch, RateBatch


@given(st.floats(0, 1e5))
def test_a_fixed_batch_looks_at_no_rate(rate_hz):
    assert FixedBatch(64, max_wait_s=60.0).target(rate_hz) == 64


@given(st.floats(0, 1e5), st.floats(0.01, 20.0), st.integers(1, 64), st.integers(64, 2048))
def test_a_rate_batch_is_one_window_within_its_bounds(rate_hz, window_s, minimum, maximum):
    target = RateBatch(window_s, minimum, maximum).target(rate_hz)
    assert minimum <= target <= maximum
    if minimum < rate_hz * window_s < maximum:
        assert abs(target - rate_hz * window_s) <= 0.5


@pytest.mark.parametrize(("most", "target"), [(64, 64), (2000, 1000), (None, 1000), (4, 4)])
def test_a_window_may_take_less_than_it_has_for_a_step(most, target):
    rule = RateBatch(1.0, minimum=8, maximum=1024)
    rule.resize(2.0, most)
    assert (rule.target(500.0), rule.deadline_s(10.0)) == (target, 12.0)
    rule.resize(2.0)
    assert rule.target(500.0) == 1000


@pytest.mark.parametrize(
    ("rule", "deadline_s"), [(FixedBatch(64, max_wait_s=60.0), 70.0), (RateBatch(2.5, minimum=8, maximum=1024), 12.5)]
)
def test_nobody_waits_for_ever(rule, deadline_s):
    assert rule.deadline_s(10.0) == deadline_s
