import itertools
import math

import pytest

from scadles.config import load_config
from scadles.paper import published
from scadles.paper.published import ACCUMULATED, COMPRESSION, GATHERING, HELD, NETWORKS, SETS, dense
from scadles.paper.rules import arrived_samples, extra_gathering_s, gigabytes
from scadles.streams import RATE_SETS

CELLS = set(itertools.product(NETWORKS, SETS))


@pytest.mark.parametrize("name", ["HELD", "CONVERGENCE", "OVERALL"])
def test_eight_cells_are_there(name):
    assert set(getattr(published, name)) == CELLS


def test_printed_reductions_are_those_of_the_printed_counts():
    for held in HELD.values():
        assert held.persistence / held.truncation == pytest.approx(held.reduction, rel=0.025)


def test_printed_accumulation_is_what_arrives():
    for (network, rate, steps), printed in ACCUMULATED.items():
        arrived = arrived_samples(steps, NETWORKS[network].step_s(), rate)
        assert printed == pytest.approx(gigabytes(arrived), rel=0.03)


@pytest.mark.parametrize(("batch", "name"), [key for key in GATHERING if RATE_SETS[key[1]].known])
def test_printed_latency_follows_the_rule_from_the_listed_rates(batch, name):
    rates = RATE_SETS[name].known
    expected = extra_gathering_s(batch, max(rates)), extra_gathering_s(batch, min(rates))
    assert GATHERING[batch, name] == pytest.approx(expected, rel=0.02, abs=0.01)


@pytest.mark.parametrize("network", NETWORKS.values(), ids=list(NETWORKS))
@pytest.mark.parametrize("devices", [8, 16])
def test_a_step_costs_what_the_simulator_is_told(network, devices):
    cost = load_config({"steps": 1, "cost": {"profile": network.cost_profile}}).cost
    sync_s = 2 * (devices - 1) / devices * cost.message_bytes * 8 / cost.link.up_bps
    assert network.step_s(100, devices) == pytest.approx(sync_s + 100 * cost.compute.sample_s, rel=2e-3)


def test_every_setting_of_compression_is_there():
    assert set(COMPRESSION) == set(itertools.product(NETWORKS, (0.1, 0.01), (0.1, 0.2, 0.3, 0.4)))


def test_more_may_stay_behind_the_more_steps_are_compressed():
    for network, ratio in itertools.product(NETWORKS, (0.1, 0.01)):
        printed = [COMPRESSION[network, ratio, delta] for delta in (0.1, 0.2, 0.3, 0.4)]
        assert sorted(run.cnc for run in printed) == [run.cnc for run in printed]
        assert sorted((run.floats for run in printed), reverse=True) == [run.floats for run in printed]


def test_no_compression_is_about_ten_thousand_dense_steps():
    for name, network in NETWORKS.items():
        assert dense(name).floats / network.parameters == pytest.approx(1e4, rel=0.1)


def test_parameters_are_those_that_the_simulator_charges():
    for network in NETWORKS.values():
        cost = load_config({"steps": 1, "cost": {"profile": network.cost_profile}}).cost
        assert cost.message_bytes == 4 * network.parameters


def test_what_never_came_is_infinite():
    never = {key for key, pair in published.CONVERGENCE.items() if math.isinf(pair[1].hours)}
    assert never == {("resnet152", "S2"), ("resnet152", "S2'"), ("vgg19", "S2")}
