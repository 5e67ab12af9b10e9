import pytest
from hypothesis import given
from hypothesis import strategies as st

from scadles.paper import rules
from scadles.paper.published import NETWORKS

RATES = st.lists(st.floats(8, 600), min_size=1, max_size=16)


@given(st.integers(1, 500), st.floats(0.1, 3.0), st.floats(1, 600), st.integers(1, 128))
def test_waiting_samples_are_within_a_batch_of_a_queue_played_through(steps, step_s, rate_hz, batch):
    time_s = 0.0
    for number in range(1, steps + 1):
        time_s = max(time_s, number * batch / rate_hz) + step_s
    played = rate_hz * time_s - steps * batch
    assert abs(rules.waiting_samples(steps, step_s, rate_hz, batch) - played) <= max(batch, rate_hz * (1 + step_s))


@given(RATES, st.sampled_from(list(NETWORKS.values())))
def test_ddl_is_as_fast_as_its_slowest_stream_and_its_network_allow(rates_hz, network):
    step_s = rules.ddl_step_s(rates_hz, network)
    assert step_s >= network.step_s(devices=len(rates_hz))
    assert all(step_s * rate >= 64 - 1e-9 for rate in rates_hz)


@given(st.floats(8, 600), st.integers(2, 16))
def test_throughput_of_equal_streams_differs_by_batch_and_step_only(rate_hz, devices):
    network = NETWORKS["vgg19"]
    scadles = rate_hz / max(1.0, network.step_s(rate_hz, devices))
    expected = scadles / (64 / max(64 / rate_hz, network.step_s(64, devices)))
    assert rules.throughput_ratio([rate_hz] * devices, network) == pytest.approx(expected)


def test_a_gigabyte_is_two_to_the_thirty():
    assert rules.gigabytes(2**20) == pytest.approx(3.0)
    assert rules.gigabytes(rules.arrived_samples(1_000, 1.2, 100)) == pytest.approx(0.343, abs=0.001)


@given(st.floats(0, 1), st.floats(0.001, 1), st.integers(2, 256))
def test_the_papers_program_sends_less_than_dense_where_the_ratio_is_below_two_thirds_over_devices(cnc, ratio, devices):
    share = rules.published_bytes_share(cnc, ratio, devices)
    assert share <= 1 + 1e-9 if ratio <= 2 / (3 * devices) else share >= 1 - 1e-9
    assert rules.floats_share(cnc, ratio) <= 1
