"""GroupNorm in place of BatchNorm: same parameters, same places, and no sample depends on another."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

import scadles
from scadles.errors import ConfigError
from scadles.models import BUILT_IN, build_model, convert_batchnorm
from scadles.models.normalization import groups_of
from scadles.simulation.gradients import mixes_samples


class Nested(nn.Module):
    """BatchNorm in lists and dictionaries, deep down, and one layer in two places."""

    def __init__(self):
        super().__init__()
        shared = nn.BatchNorm2d(16)
        self.stem = nn.Sequential(nn.Conv2d(1, 16, 3), nn.Sequential(nn.Sequential(shared)))
        self.again = shared
        self.parts = nn.ModuleList([nn.ModuleDict({"norm": nn.BatchNorm2d(16, eps=1e-3)})])
        self.head = nn.Linear(16, 3)

    def forward(self, x):
        x = self.parts[0]["norm"](self.again(self.stem(x)))
        return self.head(x.mean(dim=(2, 3)))


def norms(model):
    return [part for part in model.modules() if isinstance(part, nn.GroupNorm)]


@given(st.integers(1, 4096))
def test_groups_are_equal_few_and_not_too_small(channels):
    groups = groups_of(channels)
    assert channels % groups == 0
    assert 1 <= groups <= 32
    assert groups == 1 or channels // groups >= 8
    larger = [n for n in range(groups + 1, 33) if channels % n == 0 and channels // n >= 8]
    assert not larger, "the largest number of its kind"


@pytest.mark.parametrize(
    ("layer", "shape"),
    [
        (nn.BatchNorm1d(24), (5, 24)),
        (nn.BatchNorm1d(24), (5, 24, 7)),
        (nn.BatchNorm2d(24), (5, 24, 3, 4)),
        (nn.BatchNorm3d(24), (5, 24, 2, 3, 4)),
        (nn.BatchNorm2d(24, affine=False), (5, 24, 3, 4)),
        (nn.BatchNorm2d(24, track_running_stats=False), (5, 24, 3, 4)),
        (nn.SyncBatchNorm(24), (5, 24, 3, 4)),
    ],
)
def test_each_group_of_each_sample_is_normalised_by_itself(layer, shape):
    layer = layer.double()
    x = torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    weight, bias = torch.ones(24, dtype=torch.float64), torch.zeros(24, dtype=torch.float64)
    if layer.affine:
        with torch.no_grad():
            weight, bias = layer.weight.uniform_(0.5, 2), layer.bias.uniform_(-1, 1)
    grouped = x.reshape(5, 3, -1)
    normal = (grouped - grouped.mean(2, keepdim=True)) / (grouped.var(2, unbiased=False, keepdim=True) + 1e-5).sqrt()
    channel = (1, 24, *[1] * (x.dim() - 2))
    expected = normal.reshape(shape) * weight.reshape(channel) + bias.reshape(channel)
    torch.testing.assert_close(convert_batchnorm(layer)(x), expected)


def test_layers_are_replaced_wherever_they_are_and_parameters_stay():
    model = Nested()
    before = dict(model.named_parameters(remove_duplicate=False))
    assert convert_batchnorm(model) is model
    assert len(norms(model)) == 2
    assert model.again is model.stem[1][0][0]
    after = dict(model.named_parameters(remove_duplicate=False))
    assert after.keys() == before.keys()
    assert all(after[name] is before[name] for name in before), "an optimizer made before must stay valid"
    assert not list(model.buffers())
    assert model.parts[0]["norm"].eps == 1e-3


def test_what_is_not_trained_or_not_training_stays_so():
    model = nn.Sequential(nn.BatchNorm2d(8), nn.BatchNorm2d(8).requires_grad_(False).eval())
    convert_batchnorm(model)
    assert [part.training for part in model] == [True, False]
    assert [part.weight.requires_grad for part in model] == [True, False]


def test_a_model_without_batchnorm_is_left_alone():
    model = nn.Sequential(nn.Linear(3, 3), nn.InstanceNorm1d(3, affine=True), nn.LayerNorm(3))
    before = list(model)
    assert all(one is other for one, other in zip(convert_batchnorm(model), before, strict=True))


def test_half_precision_stays():
    layer = convert_batchnorm(nn.BatchNorm2d(16).bfloat16())
    assert layer.weight.dtype == torch.bfloat16


@pytest.mark.parametrize("name", ["cnn", "resnet8"])
def test_no_sample_depends_on_another(name):
    x = torch.randn(6, 3, 16, 16, generator=torch.Generator().manual_seed(1))
    model = build_model(name, (3, 16, 16), 10, seed=0)
    assert mixes_samples(model, x)
    assert not mixes_samples(convert_batchnorm(model), x)


@pytest.mark.parametrize("name", BUILT_IN)
def test_it_still_learns(name):
    x = torch.randn(12, 1, 8, 8, generator=torch.Generator().manual_seed(1))
    y = torch.arange(12) % 3
    model = convert_batchnorm(build_model(name, (1, 8, 8), 3, seed=0))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    losses = []
    for _ in range(30):
        optimizer.zero_grad()
        loss = nn.functional.cross_entropy(model(x), y)
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < 0.2 * losses[0]


@pytest.mark.parametrize(
    ("model", "to", "message"),
    [
        (nn.BatchNorm2d(4), "groups", r"to='groups'.*did you mean group\?"),
        (nn.BatchNorm2d(4), "batch", r"to='batch'.*there are group"),
        (nn.Sequential(nn.LazyBatchNorm2d()), "group", "lazy layers without a shape yet"),
        (nn.Sequential(nn.Linear(2, 1), nn.BatchNorm1d(1)), "group", "BatchNorm1d of one channel"),
    ],
)
def test_what_cannot_be_converted(model, to, message):
    with pytest.raises(ConfigError, match=message):
        convert_batchnorm(model, to)


BASE = {"devices": 3, "steps": 3, "picture": False, "stream": {"rates": [20, 12, 16]}, "evaluation": {"every_s": 2}}


def test_the_setting_converts_the_named_network_and_a_given_one(tmp_path):
    settings = {**BASE, "model": "cnn", "normalization": "group"}
    summary = scadles.simulate(settings, out=tmp_path / "named", quiet=True)
    assert summary.simulated.gradients == "fused", "one backward pass serves all devices"
    assert summary.simulated.trained.startswith("cnn with GroupNorm, ")
    mine = build_model("cnn", (1, 8, 8), 10, seed=0)
    optimizer = torch.optim.SGD(mine.parameters(), lr=0.05, momentum=0.9, weight_decay=1e-4)
    again = scadles.simulate(settings, model=mine, optimizer=optimizer, out=tmp_path / "given", quiet=True)
    assert len(norms(mine)) == 3
    assert again.model_sha256 == summary.model_sha256


def test_a_real_run_with_the_setting_trains_group_norm(tmp_path):
    settings = {**BASE, "devices": 1, "stream": {"rates": 400}, "clock": {"speed": 4}, "model": "cnn"}
    model = build_model("cnn", (1, 8, 8), 10, seed=0)
    before = model[1].weight
    summary = scadles.train({**settings, "normalization": "group"}, model=model, out=tmp_path / "run", quiet=True)
    assert summary.steps == 3
    assert isinstance(model[1], nn.GroupNorm)
    assert model[1].weight is before
    assert not torch.equal(before.detach(), torch.ones(16)), "it was trained"
