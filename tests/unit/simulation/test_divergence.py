"""Simulated training at rates that are too high, on streams that change, and at rates that are right."""

import pytest
import torch

from scadles import assembly
from scadles.config import load_config
from scadles.observe import Divergence, Notice, events_path, read_events
from scadles.simulation.gradients import Lookup
from scadles.simulation.simulator import Simulator


def simulated(out=None, *, drift_after=None, before=None, **more):
    """Run eight devices for 120 steps; labels are others after one of them."""
    tree = {
        "model": "mlp",
        "devices": 8,
        "steps": 120,
        "picture": False,
        "lr": {"guard": True},
        "evaluation": {"every_s": 20},
        **more,
    }
    config = load_config(tree)
    dataset = assembly.build_dataset(config)
    simulator = Simulator(config, dataset, assembly.build_network(config, dataset), run_dir=out)
    if before is not None:
        before(simulator)
    look_up = Lookup.__call__
    with pytest.MonkeyPatch.context() as patched:
        if drift_after is not None:

            def drifted(self, *what):
                x, y = look_up(self, *what)
                return x, (y + 1) % 10 if simulator.learner.step_number >= drift_after else y

            patched.setattr(Lookup, "__call__", drifted)
        return simulator.run()


def found(out, kind=Divergence):
    return [event for event in read_events(events_path(out, 0)) if isinstance(event, kind)]


@pytest.mark.parametrize("more", [{}, {"compression": {"ratio": 0.1, "gate": "always"}}], ids=str)
def test_a_rate_that_is_too_high_is_halved_until_it_is_not(tmp_path, more):
    more = {"optimizer": {"lr": 5}, **more}
    summary = simulated(tmp_path, **more)
    assert summary.final_accuracy > 0.8
    assert summary.diverged.went_back == [one.what for one in found(tmp_path)].count("back") > 0
    assert summary.diverged.lr_factor == 0.5**summary.diverged.went_back
    assert summary.samples.balanced
    assert summary.samples.rejected == 0, "what was trained on stays trained"
    assert [notice.message for notice in found(tmp_path, Notice)] == [one.why for one in found(tmp_path)]
    assert simulated(**{**more, "lr": {"guard": False}}).final_accuracy < 0.5


@pytest.mark.parametrize("lr", [0.05, 0.3])
def test_streams_that_change_are_no_divergence(tmp_path, lr):
    summary = simulated(tmp_path, drift_after=60, optimizer={"lr": lr})
    assert [one.what for one in found(tmp_path)] == ["tried", "on"]
    assert (summary.diverged.tried, summary.diverged.went_back, summary.diverged.lr_factor) == (1, 0, 1.0)


@pytest.mark.parametrize(
    "more",
    [{}, {"optimizer": {"name": "adam", "lr": 0.003}}, {"compression": {"ratio": 0.1, "gate": "always"}, "steps": 40}],
    ids=str,
)
def test_where_nothing_diverges_nothing_is_changed(more):
    looked, plain = simulated(**more), simulated(**more, lr={"guard": False})
    assert looked.model_sha256 == plain.model_sha256
    assert looked.model_dump(exclude={"wall_s"}) == plain.model_dump(exclude={"wall_s"})


def test_a_run_ends_where_going_back_does_not_help(tmp_path):
    summary = simulated(tmp_path, optimizer={"lr": 1e6})
    assert summary.ended_by == "diverged"
    assert [one.what for one in found(tmp_path)][-1] == "hopeless"
    assert summary.diverged.went_back == 6


@pytest.mark.parametrize("model", ["mlp", "cnn"])
def test_parameters_that_are_not_finite_are_those_of_before(tmp_path, model):
    def spoil(simulator):
        on_step = simulator._cluster._on_step

        def then_spoil(done):
            if simulator.learner.step_number == 50:
                with torch.no_grad():
                    for parameter in simulator.learner.model.parameters():
                        parameter.fill_(torch.nan)
            return on_step(done)

        simulator._cluster._on_step = then_spoil

    summary = simulated(tmp_path, before=spoil, model=model, batch={"max": 24})
    assert [(one.what, one.step, one.back_to) for one in found(tmp_path)] == [("tried", 53, 40), ("back", 54, 40)]
    assert summary.final_accuracy > 0.9
    assert summary.samples.rejected > 0, "of batches without a finite gradient"
