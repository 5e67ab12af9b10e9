"""One simulated device of eight lies about its gradients."""

import json

import pytest

from scadles import assembly
from scadles.config import load_config
from scadles.exchange.reduction import answer_bytes, packed_bytes
from scadles.observe import Evaluation, Notice, SetAside, Step, events_path, read_events
from scadles.simulation.simulator import Simulator

LIAR, BATCH = 5, 16


def settings(devices=8, **more):
    return {
        "method": "ddl",
        "model": "mlp",
        "devices": devices,
        "picture": False,
        "stream": {"rates": [BATCH] * devices},
        "batch": {"size": BATCH, "max_wait_s": 60},
        "evaluation": {"every_s": 1.0},
        "aggregation": {"outliers": "reject"},
        "target_accuracy": 0.9,
        "steps": 200,
        **more,
    }


def simulated(tree, spoil=None, out=None):
    """Run a cluster in which one device spoils what it sends after its own checks."""
    config = load_config(tree)
    dataset = assembly.build_dataset(config)
    simulator = Simulator(config, dataset, assembly.build_network(config, dataset), run_dir=out)
    exchange = simulator.learner.exchange
    if spoil is not None:
        take = exchange.take_update

        def take_and_lie(device):
            take(device)
            if device == LIAR:
                spoil(exchange.updates[device])

        exchange.take_update = take_and_lie
    return simulator.run()


ATTACKS = {
    "norm": lambda update: update.mul_(1000.0),
    "a norm that is no number": lambda update: update.fill_(float("nan")),
    "against the others": lambda update: update.neg_(),
}


@pytest.mark.parametrize("why", ATTACKS)
@pytest.mark.parametrize("seed", range(3))
def test_the_target_is_reached_as_by_the_others_alone(why, seed):
    alone = simulated(settings(7, seed=seed, aggregation={"outliers": "accept"}))
    found = simulated(settings(seed=seed), ATTACKS[why])
    assert found.ended_by == alone.ended_by == "target"
    assert found.steps <= 1.2 * alone.steps + 2, "a single seed varies by some steps"
    [outlier] = found.outliers
    assert (outlier.device, outlier.action, outlier.of_steps) == (LIAR, "reject", found.steps)
    assert outlier.why.startswith(why)
    assert outlier.steps >= found.steps - 6


@pytest.mark.parametrize("why", ATTACKS)
def test_ledgers_and_events_say_what_was_set_aside(tmp_path, why):
    summary = simulated(settings(), ATTACKS[why], tmp_path)
    [outlier] = summary.outliers
    told = list(read_events(events_path(tmp_path, LIAR)))
    aside = [event for event in told if isinstance(event, SetAside)]
    row = summary.per_device[LIAR]
    assert row.samples.rejected == sum(event.batch for event in aside) == BATCH * outlier.steps
    assert row.samples.trained == sum(event.batch for event in told if isinstance(event, Step))
    assert summary.samples.rejected == row.samples.rejected
    assert row.non_finite_steps == 0
    said = [event.message for event in read_events(events_path(tmp_path, 0)) if isinstance(event, Notice)]
    assert any(message.startswith(f"device {LIAR}: gradient set aside in 10 of") for message in said)
    assert json.loads(summary.model_dump_json())["outliers"][0]["device"] == LIAR


def test_what_is_set_aside_is_in_no_test(tmp_path):
    """Test, then train: a batch that was not trained on counts in no test, as it is told in the ledger."""
    tested = {"on": "stream", "every_s": 1.0, "window_s": 1000.0}
    summary = simulated(settings(evaluation=tested), ATTACKS["against the others"], tmp_path)
    told = [event for event in read_events(events_path(tmp_path, 0)) if isinstance(event, Evaluation)]
    assert told[-1].samples == summary.samples.trained
    assert summary.per_device[LIAR].samples.rejected > 0
    assert summary.samples.balanced


def test_nobody_honest_is_set_aside_and_nothing_is_said(tmp_path):
    summary = simulated(settings(), out=tmp_path)
    assert summary.outliers == ()
    assert "outliers" not in summary.model_dump()
    assert summary.samples.rejected == 0


@pytest.mark.parametrize("backend", ["hub", "gloo"])
def test_the_bytes_that_move_are_charged(backend):
    cost = {"collective": "star"} if backend == "hub" else {}
    steps = 5
    tree = settings(4, steps=steps, target_accuracy=None, fabric={"backend": backend}, cost=cost)
    summary = simulated(tree)
    nbytes = summary.simulated.message_bytes
    each = {"hub": packed_bytes(nbytes) + answer_bytes(nbytes, 4), "gloo": 3 * (nbytes + 144)}  # gloo adds 144
    assert summary.bytes_sent == 4 * each[backend] * steps
