import json
import math

import numpy as np
import pytest
import torch

from scadles import assembly
from scadles.config import load_config
from scadles.device.divergence import DivergenceGuard
from scadles.device.learner import Learner
from scadles.device.measuring import Measured, Measuring
from scadles.device.rate import AutoRate
from scadles.errors import ConfigError
from scadles.exchange.aggregation import GradientExchange, LearningRate, Report, Reports
from scadles.exchange.aggregation.noise_scale import SKETCH_SIZE
from scadles.fabric import LocalFabric

SAMPLES = 100


def descended(curvature, lr, *, momentum, steps, noise=0.1, scale=0):
    """Return the rate that followed a descent on a parabola of 200 dimensions with noise, and its factor by step."""
    rate, random, factors = AutoRate(momentum), np.random.default_rng(scale), []
    x, velocity = np.full(200, 1.0), np.zeros(200)
    for step in range(1, steps + 1):
        true = curvature * x
        gradient = true + noise * random.normal(size=200)
        rate.follow(step, gradient, float(true @ true), begins=True)
        rate.pass_by(step)
        velocity = momentum * velocity + gradient
        x = x - rate.factor * lr * velocity
        factors.append(rate.factor)
    return rate, factors


@pytest.mark.parametrize(("momentum", "lag"), [(0.0, 1), (0.5, 2), (0.9, 10), (0.99, 20)])
def test_gradients_are_one_horizon_of_momentum_apart(momentum, lag):
    rate = AutoRate(momentum)
    assert (rate.lag, rate.due) == (lag, math.inf)
    rate.follow(5, np.ones(3), 3.0, begins=True)
    assert rate.due == 5 + lag


@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_a_rate_far_too_low_is_doubled_at_most_every_ten_steps(momentum):
    rate, factors = descended(1.0, 1e-5, momentum=momentum, steps=60)
    assert rate.changes >= 3
    assert rate.factor == 2.0**rate.changes
    changed = np.flatnonzero(np.diff([1.0, *factors]))
    assert (np.diff(changed) >= 10).all()
    assert "too low" in rate.why
    assert f"{rate.lag} step" in rate.why


def test_steps_that_go_too_far_halve_it():
    rate, factors = descended(1.0, 1.9, momentum=0.0, steps=40, noise=0.0)
    assert rate.factor < 1.0 or 0.5 in factors
    assert "too far" in rate.why


def test_what_may_be_noise_changes_nothing():
    """The squared norm without noise is a guess without bias: of gradients that are all noise, 0 on average."""
    changes = 0
    for seed in range(5):
        random, rate = np.random.default_rng(seed), AutoRate(0.0)
        for step in range(1, 1000):
            rate.follow(step, random.normal(size=200), 20 * random.normal(), begins=True)
            rate.pass_by(step)
        changes += rate.changes
    assert changes <= 10, "two standard errors over few pairs are wrong now and then"


@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_pairs_say_nothing_where_the_gradient_is_not_seen_for_noise(sign):
    """They may agree all the same, or point the other way where samples are replayed in turns."""
    rate = AutoRate(0.0)
    for step in range(1, 100):
        rate.follow(step, sign**step * np.ones(3), 3.0 * (-1) ** (step // 2), begins=True)
        rate.pass_by(step)
    assert rate.changes == 0


def test_what_waits_for_its_pair_is_forgotten_once_that_is_past_or_the_model_is_an_earlier_one():
    rate = AutoRate(0.5)
    rate.follow(4, np.ones(3), 3.0, begins=True)
    rate.pass_by(6)
    assert rate.due == math.inf
    rate.follow(7, np.ones(3), 3.0, begins=True)
    rate.forget()
    assert rate.due == math.inf


def followed(rate, steps, sign=1.0):
    """Let a rate follow gradients that agree, or where ``sign`` is -1 point the other way each time."""
    for step in steps:
        rate.follow(step, sign**step * np.ones(3), 3.0, begins=True)
        rate.pass_by(step)
    return rate.factor


def test_pairs_before_a_change_say_nothing_of_the_rate_after_it():
    rate = AutoRate(0.0)
    assert followed(rate, range(1, 11)) == 2.0
    assert followed(rate, range(11, 14)) == 2.0
    assert followed(rate, range(14, 24), sign=-1.0) == 2.0 / 2


def test_pairs_before_another_window_say_nothing_of_the_rate_after_it():
    rate = AutoRate(0.0)
    followed(rate, range(1, 10))
    rate.begin_anew(9)
    assert followed(rate, range(10, 19)) == 1.0
    assert followed(rate, [19]) == 2.0


def test_it_may_fall_but_not_rise_after_training_has_diverged():
    rate = AutoRate(0.0)
    rate.may_rise = False
    assert followed(rate, range(1, 40)) == 1.0
    assert followed(rate, range(40, 51), sign=-1.0) == 0.5


def test_it_goes_on_from_a_checkpoint_as_if_nothing_had_been():
    random, rates = np.random.default_rng(1), [AutoRate(0.9), AutoRate(0.9)]
    for step in range(2, 80):
        mean = (1.0 + 0.1 * random.normal(size=SKETCH_SIZE)).astype(np.float32)
        said = {rate.follow(step, mean, SKETCH_SIZE * 1.0, begins=step % 5 == 0) for rate in rates}
        assert len(said) == 1
        for rate in rates:
            rate.pass_by(step)
        state = json.loads(json.dumps(rates[1].state()))
        rates[1] = AutoRate(0.9)
        rates[1].load(state)
    assert rates[0].state() == rates[1].state()
    assert rates[0].changes > 2


def test_it_begins_anew_where_a_resumed_run_asks_for_another_rate():
    rate = AutoRate(0.0, [0.01])
    for step in range(1, 20):
        rate.follow(step, np.ones(SKETCH_SIZE), SKETCH_SIZE * 1.0, begins=True)
    assert rate.changes > 0
    same, other = AutoRate(0.0, [0.01]), AutoRate(0.0, [0.02])
    for one in (same, other):
        one.load(rate.state())
        assert one.state() == rate.state(), "who comes to a hub goes by what the run was set up with"
        one.ask_again()
    assert same.factor == rate.factor
    assert other.state() == AutoRate(0.0, [0.02]).state()


@pytest.mark.parametrize(
    "wrong",
    [
        *({"factor": 0.0}, {"factor": math.nan}, {"factor": 1e9}, {"pairs": [[1.0]]}, {"pairs": [[1.0, math.inf]]}),
        *({"sketches": ["AAAA"]}, {"squares": []}, {"firsts": [1, 2]}),
    ],
)
def test_a_state_out_of_reason_is_refused(wrong):
    rate = AutoRate(0.9)
    rate.follow(2, np.ones(SKETCH_SIZE), 1.0, begins=True)
    with pytest.raises(ValueError, match=r"factor|finite|reshape|sketch|buffer|zip"):
        AutoRate(0.9).load({**rate.state(), **wrong})


def test_pairs_are_measured_by_one_seed_and_when_they_are_due():
    measuring = Measuring(rate=AutoRate(0.75))
    gradient = [torch.ones(300)]
    assert torch.equal(measuring.sketch(gradient, 2), measuring.sketch(gradient, 6))
    due = []
    for step in range(1, 100):
        if not measuring.is_due(step):
            continue
        due.append(step)
        sketch = measuring.sketch(gradient, step)
        rows = np.array([Measured(SAMPLES, float(sketch.square().sum()))] * 2, dtype=float)
        measuring.learn(step, rows, 2 * SAMPLES * sketch.double().numpy())
    assert due == [*range(2, 55), *range(56, 100, 2)], "at first each step is the first of a pair, then every other one"
    assert measuring.rate_factor == 256.0 or measuring.rate_factor == 2.0**measuring.rate.changes
    assert measuring.rate_news() is None or measuring.rate_news() is None


@pytest.mark.parametrize("kind", ["Adam", "RMSprop", "Adagrad", "Muon", "SGD, RMSprop"])
def test_what_makes_steps_of_a_length_of_its_own_is_refused(kind):
    config = load_config({"devices": 4, "steps": 1, "lr": {"rate": "auto"}})
    model, (fabric,) = torch.nn.Linear(2, 2, bias="," in kind), LocalFabric.create(1)
    parts = zip(kind.split(", "), model.parameters(), strict=True)
    chosen = assembly.choose_optimizer(config, model, [getattr(torch.optim, name)([p], lr=0.1) for name, p in parts])
    exchange = GradientExchange(model.parameters(), fabric.reduce, fabric.rank, fabric.size)
    with pytest.raises(ConfigError, match=rf"lr\.rate = auto: {kind.rpartition(', ')[-1]}: "):
        assembly.build_measuring(config, exchange, chosen)


def test_pairs_at_half_the_rate_say_nothing_of_the_rate_that_the_guard_doubles_again():
    model, (fabric,), rate = torch.nn.Linear(2, 2), LocalFabric.create(1), AutoRate(0.0)
    sgd = torch.optim.SGD(model.parameters(), lr=0.1)
    exchange = GradientExchange(model.parameters(), fabric.reduce, fabric.rank, fabric.size)
    learner = Learner(model, sgd, LearningRate("none", 1), exchange, lambda x: x, measuring=Measuring(rate=rate))
    learner.divergence = DivergenceGuard(learner.managed, sgd)
    learner.divergence.factor, learner.divergence._raised_after = 0.5, 25
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    factors = []
    for step in range(1, 40):
        learner.update(Reports(np.array([Report(batch=8, weight=8, loss=1.0)])))
        followed(rate, [step])
        factors.append((learner.divergence.factor, rate.factor))
    assert set(factors[:24]) == {(0.5, 1.0)}
    assert set(factors[24:33]) == {(1.0, 1.0)}, "both at once would be four times the rate within two steps"
    assert factors[-1] == (1.0, 2.0)
