import pytest
import torch
from torch import nn

from scadles.assembly.optimizer import build_optimizer
from scadles.config import OptimizerConfig

TORCHS = {
    "sgd": lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9, weight_decay=0.01),
    "adam": lambda p: torch.optim.Adam(p, lr=0.1, weight_decay=0.01),
    "adamw": lambda p: torch.optim.AdamW(p, lr=0.1, weight_decay=0.01),
}


def trained(make, steps=5):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(5, 4), nn.Tanh(), nn.Linear(4, 3))
    optimizer = make(model)
    hooked = []
    optimizer.register_step_post_hook(lambda *_: hooked.append(1))
    for _ in range(steps):
        optimizer.zero_grad()
        model(torch.randn(7, 5)).square().mean().backward()
        optimizer.step()
        state = optimizer.state_dict()
        optimizer.load_state_dict(state)
    return torch.cat([p.detach().flatten() for p in model.parameters()]), state, hooked, optimizer


@pytest.mark.parametrize("name", TORCHS)
def test_it_is_torchs_optimizer_to_the_bit(name):
    config = OptimizerConfig(name=name, lr=0.1, momentum=0.9 if name == "sgd" else 0.0, weight_decay=0.01)
    ours, state, hooked, optimizer = trained(lambda model: build_optimizer(config, model))
    theirs, their_state, _, their_optimizer = trained(lambda model: TORCHS[name](model.parameters()))
    assert torch.equal(ours, theirs)
    assert state["param_groups"] == their_state["param_groups"]
    assert [list(values) for values in state["state"].values()] == [list(v) for v in their_state["state"].values()]
    assert len(hooked) == 5
    assert isinstance(optimizer, type(their_optimizer))
    assert repr(optimizer) == repr(their_optimizer)


@pytest.mark.parametrize("name", TORCHS)
def test_training_loads_no_compiler(said_by, name):
    code = f"""if True:
        import sys, torch
        from scadles.assembly.optimizer import build_optimizer
        from scadles.config import OptimizerConfig
        model = torch.nn.Linear(3, 2)
        optimizer = build_optimizer(OptimizerConfig(name={name!r}, lr=0.1), model)
        optimizer.zero_grad()
        model(torch.ones(1, 3)).sum().backward()
        optimizer.step()
        optimizer.load_state_dict(optimizer.state_dict())
        print([name for name in ("torch._dynamo", "sklearn", "matplotlib", "sympy") if name in sys.modules])
    """
    assert said_by(code) == "[]\n"
