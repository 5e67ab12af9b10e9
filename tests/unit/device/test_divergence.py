"""Training that diverges goes back; training whose streams have changed, or that is only noisy, goes on."""

import copy
import json
import math

import numpy as np
import pytest
import torch
from torch import nn

from scadles.device.divergence import Action, DivergenceGuard, LossWatch
from scadles.device.managed import Managed
from scadles.device.optimizers import adopt

OPTIMIZERS = {
    "sgd": lambda p: torch.optim.SGD(p, lr=0.01),
    "momentum": lambda p: torch.optim.SGD(p, lr=0.01, momentum=0.9),
    "adam": lambda p: torch.optim.Adam(p, lr=0.01, amsgrad=True),
    "adagrad": lambda p: torch.optim.Adagrad(p, lr=0.01),
    "rprop": lambda p: torch.optim.Rprop(p, lr=0.01),
    "asgd": lambda p: torch.optim.ASGD(p, lr=0.01),
}


class Training:
    """A small model in training, whose losses a test says."""

    def __init__(self, kind="momentum"):
        torch.manual_seed(0)
        self.model = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 2))
        parameters = list(self.model.parameters())
        if kind == "two":
            both = [torch.optim.SGD(parameters[:2], lr=0.01, momentum=0.9), torch.optim.Adam(parameters[2:])]
            self.optimizer = adopt(both, self.model)
        else:
            self.optimizer = adopt(OPTIMIZERS[kind](parameters), self.model)
        self.guard = self.new_guard()
        self.step = 0

    def new_guard(self):
        return DivergenceGuard(Managed(self.model, self.optimizer), self.optimizer)

    def state(self):
        return copy.deepcopy((dict(self.model.state_dict()), self.optimizer.state_dict()["state"]))

    def take(self, *losses):
        """Take a step for each loss; return the actions and what was found."""
        actions = []
        for loss in losses:
            self.step += 1
            self.model.train()(torch.randn(8, 3)).square().mean().backward()
            action = self.guard.look(self.step, loss)
            if action.trains:
                self.optimizer.step()
            self.optimizer.zero_grad()
            if action.copies:
                self.guard.keep_buffers(self.model)
            elif action is Action.SWAP:
                self.guard.swap_buffers(self.model)
            actions.append(action)
        return actions


def assert_same(one, other):
    (model, slots), (again, others) = one, other
    assert model.keys() == again.keys()
    for name, tensor in model.items():
        assert torch.equal(tensor, again[name]), name
    assert slots.keys() == others.keys()
    for index, kept in slots.items():
        assert kept.keys() == others[index].keys()
        for name, value in kept.items():
            assert torch.equal(torch.as_tensor(value), torch.as_tensor(others[index][name])), (index, name)


@pytest.mark.parametrize("seed", range(5))
def test_noise_is_no_divergence(seed):
    random = np.random.default_rng(seed)
    watch, heavy = LossWatch(), LossWatch()
    usual = 2.3 * np.exp(-np.arange(4000) / 500) + 0.02
    assert not any(watch.look(loss) for loss in usual * random.lognormal(0, 0.3, 4000))
    assert not any(heavy.look(loss) for loss in usual * (1 + 0.1 * random.pareto(2.5, 4000)))


def test_single_bad_batches_are_no_divergence():
    watch = LossWatch()
    assert not any(watch.look(1e6 if step % 4 in (1, 2) else 1.0) for step in range(400))
    assert watch.mean == pytest.approx(1)


@pytest.mark.parametrize("kind", [*OPTIMIZERS, "two"])
@pytest.mark.parametrize("worse", [[1.65] * 5, [9.0, 80.0, 700.0], [math.inf] * 3])
def test_training_that_has_diverged_goes_back(kind, worse):
    training = Training(kind)
    training.take(*[1.0] * 20)
    assert training.guard._copy.is_due(21)
    expected = training.state()
    assert training.take(1.0)[0] is Action.KEEP
    training.take(*[1.0] * 3)
    *high, tried = training.take(*worse)
    assert high == [Action.TRAIN] * (len(worse) - 1)
    assert tried is Action.SWAP
    assert training.guard.finding.what == "tried"
    assert training.take(1.1) == [Action.STAY]
    found = training.guard.finding
    assert (found.what, found.back_to, found.lr_factor, training.guard.factor) == ("back", 20, 0.5, 0.5)
    # the running statistics are those after the step that began at the copy, and of this step's pass
    mine, theirs = training.state(), expected
    assert_same(
        *(({n: t for n, t in m.items() if "running" not in n and "num_" not in n}, s) for m, s in (mine, theirs))
    )
    assert all(tensor.isfinite().all() for tensor in mine[0].values())
    assert training.take(1.0) == [Action.TRAIN]
    assert training.guard.finding is None


@pytest.mark.parametrize("kind", [*OPTIMIZERS, "two"])
def test_training_goes_on_from_where_it_was_where_the_streams_have_changed(kind):
    training = Training(kind)
    training.take(*[0.3] * 30, 7.0, 6.0)
    expected = training.state()[1], {n: p.clone() for n, p in training.model.named_parameters()}
    training.step += 1
    assert training.guard.look(training.step, 5.5) is Action.SWAP
    training.step += 1
    assert training.guard.look(training.step, 6.9) is Action.SWAP, "the earlier model's loss is no lower"
    found = training.guard.finding
    assert (found.what, found.lr_factor, training.guard.went_back) == ("on", 1.0, 0)
    assert_same((dict(training.model.named_parameters()), training.state()[1]), (expected[1], expected[0]))
    assert not any(action is Action.SWAP for action in training.take(*np.linspace(5.5, 2.5, 40)))


def test_the_first_step_has_nothing_to_go_back_to():
    training = Training()
    assert training.take(*[math.inf] * 5) == [Action.TRAIN] * 5
    assert training.take(2.3) == [Action.KEEP]


def test_streams_that_are_not_finite_are_tried_once():
    training = Training()
    training.take(*[1.0] * 25)
    actions = training.take(*[math.inf] * 30)
    assert actions.count(Action.SWAP) == 2
    assert training.guard.went_back == 0
    assert training.take(1.0, 1.0)[-1] is Action.TRAIN
    assert Action.SWAP in training.take(*[math.inf] * 3)


def test_a_halved_rate_is_doubled_again_and_later_each_time():
    training = Training()
    raised_after = []
    for _ in range(3):
        training.take(*[1.0] * 30, *[50.0] * 3, 1.0)
        assert training.guard.factor == 0.5
        steps = 0
        while training.guard.factor < 1:
            training.take(1.0)
            steps += 1
        raised_after.append(steps)
    assert raised_after == [200, 400, 800]


def test_a_run_is_given_up_where_going_back_does_not_help():
    training = Training()
    training.take(*[1.0] * 30)
    for _ in range(6):
        assert not training.guard.hopeless
        training.take(1.0, 1.0, 9.0, 80.0, 700.0, 1.0)
    assert training.guard.hopeless
    assert training.guard.finding.what == "hopeless"
    assert training.guard.factor == 0.5**6


@pytest.mark.parametrize("kind", [*OPTIMIZERS, "two"])
@pytest.mark.parametrize("after", [0, 12, 32, 34, 36, 40])
def test_it_goes_on_from_a_checkpoint(kind, after):
    losses = [*[1.0] * 32, 9.0, 80.0, math.inf, 1.0, *[1.1] * 30, 70.0, 80.0, 90.0, 60.0, 1.0]
    training = Training(kind)
    training.take(*losses[:after])
    state, tensors = json.loads(json.dumps(training.guard.state())), copy.deepcopy(training.guard.tensors())
    again = Training(kind)
    again.model.load_state_dict(training.model.state_dict())
    again.optimizer.load_state_dict(copy.deepcopy(training.optimizer.state_dict()))
    again.guard.load(state, tensors)
    again.step = training.step
    for one in (training, again):
        torch.manual_seed(1)
        one.actions = one.take(*losses[after:])
    assert training.actions == again.actions
    assert_same(training.state(), again.state())
    assert training.guard.state() == again.guard.state()


def test_a_copy_of_another_model_is_refused():
    training = Training()
    training.take(1.0)
    tensors = training.guard.tensors()
    tensors["parameter/0.weight"] = torch.zeros(2, 2)
    with pytest.raises(ValueError, match=r"the copy of 0\.weight has shape"):
        training.new_guard().load(training.guard.state(), tensors)


def test_parameters_that_come_later_are_copied_at_once():
    training = Training("sgd")
    training.take(1.0, 1.0)
    training.optimizer.add_param_group({"params": [nn.Parameter(torch.ones(2))]})
    training.guard._copy._managed.refresh()
    assert training.take(1.0) == [Action.KEEP]
