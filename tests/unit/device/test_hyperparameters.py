import copy

import pytest
import torch

from scadles.device.hyperparameters import Hyperparameters
from scadles.device.optimizers import JointOptimizer


def optimizer_of(**settings):
    parameter = torch.nn.Parameter(torch.zeros(3, dtype=torch.float64))
    return parameter, torch.optim.SGD([parameter], **settings)


@pytest.mark.parametrize("momentum", [0.0, 0.5, 0.9, 0.99])
def test_as_part_of_the_rate_momentum_goes_as_far_with_a_gradient_that_stays(momentum):
    """Reference: torch's SGD."""
    plain, sgd = optimizer_of(lr=0.1, momentum=momentum)
    folded, other = optimizer_of(lr=0.1, momentum=momentum)
    hyperparameters = Hyperparameters(other)
    for step in range(50):
        for parameter in (plain, folded):
            parameter.grad = torch.tensor([1.0, -2.0, 0.5], dtype=torch.float64)
        sgd.step()
        with hyperparameters.scaled(1.0, folded_after=step):
            other.step()
        assert torch.allclose(plain, folded, rtol=1e-12, atol=0)
    assert not any(
        "momentum_buffer" in state and state["momentum_buffer"] is not None for state in other.state.values()
    )


def test_in_the_end_a_gradient_counts_for_lr_over_one_less_momentum():
    _, sgd = optimizer_of(lr=0.1, momentum=0.9)
    with Hyperparameters(sgd).scaled(0.5, folded_after=10_000) as lr:
        assert lr == pytest.approx(0.5)


@pytest.mark.parametrize("folded_after", [None, 0, 7])
@pytest.mark.parametrize("settings", [{"momentum": 0.9, "nesterov": True}, {"momentum": 0.5, "dampening": 0.5}, {}])
def test_groups_are_as_they_were_afterwards(settings, folded_after):
    _, sgd = optimizer_of(lr=0.1, **settings)
    before = copy.deepcopy(sgd.state_dict())
    hyperparameters = Hyperparameters(sgd)
    with hyperparameters.scaled(2.0, folded_after):
        assert sgd.param_groups[0]["momentum"] == (settings.get("momentum", 0.0) if folded_after is None else 0.0)
    assert sgd.state_dict() == before
    assert hyperparameters.news() == 0.0


def test_groups_have_momentum_of_their_own():
    parameters = [torch.nn.Parameter(torch.zeros(1)) for _ in range(3)]
    groups = [{"params": [parameters[0]], "momentum": 0.9}, {"params": [parameters[1]], "momentum": 0.5}]
    sgd = torch.optim.SGD([*groups, {"params": [parameters[2]]}], lr=1.0)
    with Hyperparameters(sgd).scaled(1.0, folded_after=10_000):
        assert [group["lr"] for group in sgd.param_groups] == pytest.approx([10.0, 2.0, 1.0])


@pytest.mark.parametrize("joint", [False, True])
@pytest.mark.parametrize("settings", [{}, {"nesterov": True}, {"dampening": 0.5}, {"foreach": True}, {"fused": True}])
def test_what_momentum_had_gathered_before_does_not_come_back_after_it(settings, joint):
    """A run may be resumed with a rate that is chosen, and again with one that is fixed."""
    (parameter, sgd), (fresh, other) = (optimizer_of(lr=0.1, momentum=0.9, **settings) for _ in range(2))
    hyperparameters = Hyperparameters(JointOptimizer([sgd]) if joint else sgd)
    parameter.grad = torch.full((3,), 100.0, dtype=torch.float64)
    sgd.step()
    parameter.grad = torch.zeros(3, dtype=torch.float64)
    with hyperparameters.scaled(1.0, folded_after=1):
        sgd.step()
    fresh.data.copy_(parameter.data)
    for one, its_optimizer in ((parameter, sgd), (fresh, other)):
        one.grad = torch.tensor([1.0, -2.0, 0.5], dtype=torch.float64)
        its_optimizer.step()
    assert torch.equal(parameter, fresh)


def test_a_group_is_given_no_name_that_its_optimizer_does_not_know():
    parameter = torch.nn.Parameter(torch.zeros(3))
    optimizer = torch.optim.RMSprop([parameter], momentum=0.9)
    before, hyperparameters = set(optimizer.param_groups[0]), Hyperparameters(optimizer)
    with hyperparameters.scaled(1.0, folded_after=5):
        pass
    assert set(optimizer.param_groups[0]) == before
    assert hyperparameters.news() == 0.0
