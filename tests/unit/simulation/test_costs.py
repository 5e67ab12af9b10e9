import math
import tracemalloc

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from scadles.config import CostConfig, QuantityConfig, cost_profiles
from scadles.simulation.collectives import COLLECTIVES
from scadles.simulation.costs import Availability, Costs, ExchangeCost
from scadles.simulation.quantities import Quantity


def costs(devices, seed=0, **settings):
    return Costs(CostConfig.model_validate(settings), devices, seed)


def quantity(given, devices=4, seed=0, name="link"):
    return Quantity(given, devices, seed, name)


class TestThePaper:
    @pytest.mark.parametrize(
        ("profile", "iteration_s", "exchange_s", "mib"),
        [("k80-resnet152", 1.2, 1.05, 230), ("k80-vgg19", 1.6, 1.45, 548)],
    )
    def test_a_ddl_step_of_16_devices(self, profile, iteration_s, exchange_s, mib):
        k80 = costs(16, profile=profile)
        compute_s = k80.compute_s(np.full(16, 64), 0, np.zeros(16))
        message_bytes = k80.charged_bytes(1000)
        exchange = k80.dense(np.arange(16), message_bytes, 0, 0.0)
        assert compute_s.max() == pytest.approx(0.15, rel=1e-9)
        assert exchange.seconds == pytest.approx(exchange_s, rel=1e-4)
        assert compute_s.max() + exchange.seconds == pytest.approx(iteration_s, rel=0.005)
        assert message_bytes / 2**20 == pytest.approx(mib, rel=0.005)
        assert exchange.bytes_sent == 30 * message_bytes


class TestCompute:
    def test_a_step_and_its_samples(self):
        some = costs(3, compute={"step_s": 0.5, "sample_s": [0.1, 0.2, 0.3]})
        seconds = some.compute_s(np.array([10, 1, 0]), 0, np.zeros(3))
        assert seconds.dtype == np.float64
        assert seconds.tolist() == [1.5, 0.7, 0]

    def test_each_device_starts_at_its_own_time(self):
        slower = {"value": 1.0, "times_s": [0, 60, 120], "factors": [1, 2, 3], "period_s": 200}
        some = costs(5, compute={"step_s": slower})
        starts_s = np.array([0, 59.9, 60, 199, 265])
        assert some.compute_s(np.ones(5), 0, starts_s).tolist() == [1, 1, 2, 3, 2]

    def test_free_computing_takes_no_time(self):
        assert costs(4).compute_s(np.array([0, 1, 64, 1024]), 0, np.zeros(4)).tolist() == [0, 0, 0, 0]


class TestExchange:
    def test_the_members_links_count(self):
        some = costs(4, link={"up_bps": [8e6, 8e6, 8, 8e6], "down_bps": 8e6, "latency_s": [0, 0.5, 9, 0.25]})
        assert some.dense(np.array([0, 1, 3]), 3_000_000, 0, 0.0) == (4 * 1.5, 12_000_000)

    @pytest.mark.parametrize("collective", COLLECTIVES)
    @pytest.mark.parametrize("members", [[], [2]])
    def test_nothing_to_exchange(self, collective, members):
        some = costs(4, collective=collective, link={"up_bps": 1.0, "latency_s": 1.0})
        assert some.dense(np.array(members, dtype=int), 10**9, 0, 0.0) == ExchangeCost(0.0, 0)

    @pytest.mark.parametrize("collective", COLLECTIVES)
    def test_it_is_the_collective_that_was_chosen(self, collective):
        some = costs(6, collective=collective, link={"up_bps": 5e6, "latency_s": 0.1})
        columns = (np.full(6, 5e6), np.full(6, math.inf), np.full(6, 0.1))
        assert some.dense(np.arange(6), 1000, 0, 0.0) == COLLECTIVES[collective](1000, *columns)

    def test_free_links_still_count_bytes(self):
        assert costs(3).dense(np.arange(3), 1000, 0, 0.0) == (0.0, 4000)

    def test_a_link_varies_in_time(self):
        fading = {"value": 8e6, "times_s": [0, 60], "factors": [1, 0.5]}
        some = costs(2, collective="star", link={"up_bps": fading})
        seconds = [some.dense(np.arange(2), 1_000_000, 0, now_s).seconds for now_s in (0.0, 59.0, 60.0)]
        assert seconds == [1, 1, 2]

    def test_its_size_may_be_set(self):
        assert costs(2).charged_bytes(1000) == 1000
        assert costs(2, message_bytes=5).charged_bytes(1000) == 5
        assert costs(2, message_bytes=0).charged_bytes(1000) == 0


class TestFetch:
    def test_latency_and_the_down_link(self):
        some = costs(2, link={"down_bps": [8e6, 4e6], "up_bps": 1.0, "latency_s": 0.5})
        assert [some.fetch_s(device, 1_000_000, 0, 0.0) for device in (0, 1)] == [1.5, 2.5]
        assert costs(2).fetch_s(1, 1_000_000, 0, 0.0) == 0

    def test_it_has_the_draw_of_its_step(self):
        some = costs(3, link={"latency_s": {"normal": [1, 0.1], "per": "step"}})
        steps = [[some.fetch_s(device, 0, step, 0.0) for device in range(3)] for step in (0, 1, 0)]
        assert steps[0] == steps[2] != steps[1]


class TestQuantities:
    @pytest.mark.parametrize("kind", ["uniform", "normal", "lognormal"])
    def test_draws_have_their_mean_and_spread(self, kind):
        drawn = quantity(QuantityConfig(**{kind: (2, 3) if kind == "uniform" else (2, 0.25)}), devices=20_000).at(
            0, 0.0
        )
        if kind == "uniform":
            assert 2 <= drawn.min() <= drawn.max() <= 3
            assert (drawn.mean(), drawn.std()) == pytest.approx((2.5, 12**-0.5), rel=0.02)
        elif kind == "normal":
            assert (drawn.mean(), drawn.std()) == pytest.approx((2, 0.25), rel=0.02)
        else:
            assert (np.median(drawn), np.log(drawn).std()) == pytest.approx((2, 0.25), rel=0.02)

    @pytest.mark.parametrize("config", [QuantityConfig(normal=(1, 5)), QuantityConfig(uniform=(0, 2))])
    def test_no_draw_is_below_one_percent_of_the_mean(self, config):
        assert quantity(config, devices=5000).at(0, 0.0).min() == 0.01

    @given(st.sampled_from(["uniform", "normal", "lognormal"]), st.sampled_from(["device", "step"]), st.integers(1, 30))
    def test_a_device_does_not_see_how_many_there_are(self, kind, per, devices):
        config = QuantityConfig(**{kind: (0.5, 1), "per": per})
        many = quantity(config, devices=40).at(7, 0.0)
        assert quantity(config, devices=devices).at(7, 0.0).tolist() == many[:devices].tolist()

    def test_per_device_or_per_step(self):
        once, anew = (quantity(QuantityConfig(uniform=(1, 2), per=per)) for per in ("device", "step"))
        assert once.at(0, 0.0).tolist() == once.at(1, 0.0).tolist()
        assert anew.at(0, 0.0).tolist() != anew.at(1, 0.0).tolist()
        assert anew.at(0, 0.0).tolist() == quantity(QuantityConfig(uniform=(1, 2), per="step")).at(0, 5.0).tolist()

    def test_seeds_and_names_draw_apart(self):
        config = QuantityConfig(uniform=(1, 2))
        first = quantity(config).at(0, 0.0).tolist()
        assert first == quantity(config).at(0, 0.0).tolist()
        assert first != quantity(config, seed=1).at(0, 0.0).tolist()
        assert first != quantity(config, name="other").at(0, 0.0).tolist()

    def test_up_and_down_are_drawn_apart(self):
        spread = {"lognormal": [1e6, 0.5]}
        some = costs(2, collective="star", link={"up_bps": spread, "down_bps": spread})
        both = some.dense(np.arange(2), 125_000, 0, 0.0).seconds
        assert both != 2 * max(some.fetch_s(device, 125_000, 0, 0.0) for device in range(2))

    def test_factors_stay_after_the_last_time(self):
        varied = quantity(QuantityConfig(value=10, times_s=(0, 60, 120), factors=(1, 0.2, 0.5)), devices=2)
        assert [varied.at(0, time_s).tolist() for time_s in (0.0, 60.0, 1e9)] == [[10, 10], [2, 2], [5, 5]]
        assert varied.at(0, np.array([59.0, 61.0])).tolist() == [10, 2]


class TestManyDevices:
    def test_constants_take_no_memory_per_device(self):
        tracemalloc.start()
        try:
            before, _ = tracemalloc.get_traced_memory()
            kept = costs(1_000_000, profile="k80-vgg19")
            after, _ = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
        assert isinstance(kept.availability, Availability)
        assert kept.availability.always
        assert after - before < 1_000_000

    @pytest.mark.parametrize("profile", cost_profiles())
    def test_every_profile_costs_ten_thousand_devices_something_finite(self, profile):
        many = costs(10_000, profile=profile)
        seconds = many.compute_s(np.full(10_000, 16), 3, np.linspace(0, 100, 10_000))
        exchange = many.dense(np.arange(0, 10_000, 2), many.charged_bytes(1000), 3, 100.0)
        assert seconds.shape == (10_000,)
        assert np.isfinite(seconds).all()
        assert math.isfinite(exchange.seconds)
        assert (seconds.min() > 0) == (exchange.seconds > 0) == (profile != "free")
