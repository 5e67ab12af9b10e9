import numpy as np
import pytest

from scadles.errors import ConfigError
from scadles.streams import RATE_SETS, draw_rates


@pytest.mark.parametrize("name", ["S1", "S2", "S1'", "S2'"])
def test_drawn_rates_have_the_mean_and_deviation_of_the_set(name):
    rates = np.array(draw_rates(name, 4000, seed=0))
    assert abs(rates.mean() - RATE_SETS[name].mean) < 0.05 * RATE_SETS[name].mean
    assert abs(rates.std() - RATE_SETS[name].std) < 0.1 * RATE_SETS[name].std
    assert rates.min() >= 8


def test_s2_is_uniform_between_its_bounds():
    rates = draw_rates("S2", 4000, seed=1)
    assert 106 <= min(rates) < 108
    assert 492 < max(rates) <= 494


def test_a_device_keeps_its_rate_when_others_join():
    assert draw_rates("S1", 8, seed=3)[:4] == draw_rates("S1", 4, seed=3)
    assert draw_rates("S1", 4, seed=3) != draw_rates("S1", 4, seed=4)


def test_known_rates():
    assert draw_rates("S1:known", 8, seed=0) == (50, 38, 12, 36, 34, 13, 82, 40)
    assert draw_rates("S2':known", 2, seed=0) == (270, 218)
    mixed = "92 22 62 42 48 36 18 38 84 60 108 40 58 16 44 78 92 28 30 52 84 20 16 38 66"
    assert draw_rates("mixed25:known", 25, seed=0) == tuple(map(float, mixed.split()))


def test_given_rates_stay():
    assert draw_rates(5, 3, seed=0) == (5.0, 5.0, 5.0)
    assert draw_rates([1.0, 0.0], 2, seed=0) == (1.0, 0.0)


@pytest.mark.parametrize(
    ("spec", "devices", "message"),
    [
        ("S3", 2, "unknown set.*S1, S2, S1', S2', S1:known"),
        ("S1:all", 2, "unknown set"),
        ("S1:known", 9, "8 rates are known and devices is 9.*draw them with 'S1'"),
        ("S2:known", 1, "0 rates are known"),
        ("mixed25", 2, "mixed25:known"),
        ("mixed25:known", 26, "25 rates are known"),
        (-1.0, 2, "rates = -1"),
        (float("inf"), 2, "rates = inf"),
        ([1.0], 2, "1 entries for 2 devices"),
    ],
)
def test_what_cannot_be_is_refused(spec, devices, message):
    with pytest.raises(ConfigError, match=message):
        draw_rates(spec, devices, seed=0)
