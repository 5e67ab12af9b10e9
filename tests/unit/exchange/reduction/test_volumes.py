import math

import pytest

from scadles.errors import ConfigError
from scadles.exchange.compression import budget_bytes
from scadles.exchange.reduction import choose_reducer, dense_volume, gather_volume, split_volume

SCALARS = 9


def test_a_ring_sends_nearly_twice_the_vector():
    assert dense_volume(1000, 4) == ("dense", 0, 4000, 6, 6000, 6)
    assert dense_volume(1000, 1).bytes_sent == 0


def test_gathering_grows_with_devices():
    message = budget_bytes(1_000_000, 10_000, "int8", SCALARS)
    for size in (1, 2, 16):
        volume = gather_volume(1_000_000, 10_000, size, "int8", SCALARS)
        assert volume == ("gather", 0, message, size - 1, (size - 1) * message, 1 if size > 1 else 0)


@pytest.mark.parametrize("n", [1_000_000, 60_000_000])
@pytest.mark.parametrize(("ratio", "part"), [(0.1, 12), (0.01, 100)])
def test_sixteen_devices_send_a_small_part_of_dense(n, ratio, part):
    dense = dense_volume(n, 16).bytes_sent
    assert split_volume(n, int(n * ratio), 16, "int8", SCALARS).bytes_sent * part <= dense


@pytest.mark.parametrize("n", [1_000_000, 60_000_000])
def test_the_volume_of_a_split_hardly_grows_with_devices(n):
    few, many = (split_volume(n, n // 100, size, "int8", SCALARS).bytes_sent for size in (16, 256))
    assert many <= 1.5 * few


@pytest.mark.parametrize("size", [4, 16, 64, 256])
@pytest.mark.parametrize("ratio", [0.1, 0.01, 0.001])
def test_the_choice_never_sends_more_than_dense(size, ratio):
    k = int(1_000_000 * ratio)
    choice = choose_reducer(1_000_000, k, size, "int8", SCALARS)
    volumes = [way(1_000_000, k, size, "int8", SCALARS) for way in (gather_volume, split_volume)]
    chosen, _ = sorted(volumes, key=lambda volume: volume.gloo_bytes)
    assert choice.name == chosen.name
    assert chosen.gloo_bytes < dense_volume(1_000_000, size).gloo_bytes


@pytest.mark.parametrize(
    ("size", "bandwidth_bps", "latency_s", "expected"),
    [
        (1, math.inf, 0.0, "gather"),
        (2, 20e6, 0.0, "split"),
        (2, 20e6, 0.01, "gather"),
        (16, math.inf, 0.0, "split"),
        (16, math.inf, 0.05, "gather"),
        (4, 20e6, 0.05, "gather"),
        (4, 20e6, 0.005, "split"),
        (16, 20e6, 0.05, "split"),
        (16, 10e9, 0.05, "gather"),
    ],
)
def test_bytes_and_rounds_decide(size, bandwidth_bps, latency_s, expected):
    choice = choose_reducer(1_000_000, 10_000, size, "int8", SCALARS, bandwidth_bps=bandwidth_bps, latency_s=latency_s)
    assert choice.name == expected
    assert choice.why.startswith(f"{expected} ")


def test_the_choice_says_why_in_numbers():
    choice = choose_reducer(1_000_000, 10_000, 4, bandwidth_bps=20e6, latency_s=0.05)
    gather, split = (way(1_000_000, 10_000, 4).seconds(20e6, 0.05) for way in (gather_volume, split_volume))
    assert choice.why == f"gather is faster at 20 Mbit/s and 50 ms: {gather:.3g} s against {split:.3g} s by split"
    sent = gather_volume(1_000_000, 10_000, 4)
    assert gather == pytest.approx(0.05 + 8 * (sent.bytes_sent + 3 * 144) / 20e6)


def test_an_unknown_value_type_is_refused():
    with pytest.raises(ConfigError, match="did you mean int8"):
        choose_reducer(1000, 10, 4, "int4")
