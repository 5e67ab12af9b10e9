"""torchvision's networks, made to fit the pictures."""

import importlib.util
import sys

import pytest
import torch
from torch import nn

from scadles.errors import ConfigError, MissingExtraError
from scadles.models import build_model, convert_batchnorm
from scadles.models.from_torchvision import RESNETS, VGGS

needs_torchvision = pytest.mark.skipif(
    importlib.util.find_spec("torchvision") is None, reason="torchvision is not installed: pip install scadles[vision]"
)
CIFAR = (3, 32, 32)


def sizes(model):
    return sum(p.numel() for p in model.parameters())


def make(name, shape=CIFAR, classes=10, seed=0):
    return build_model(f"torchvision:{name}", shape, classes, seed)


@needs_torchvision
@pytest.mark.parametrize("name", ["resnet18", "resnet50", "vgg11", "vgg11_bn"])
@pytest.mark.parametrize("shape", [(1, 32, 32), (3, 48, 40), (4, 32, 32)])
def test_a_score_for_each_class_whatever_the_channels(name, shape):
    model = make(name, shape, classes=7).eval()
    with torch.no_grad():
        assert model(torch.zeros(2, *shape)).shape == (2, 7)


@needs_torchvision
def test_a_small_picture_is_not_made_smaller_before_the_first_block():
    model = make("resnet18", (3, 32, 32))
    x = torch.zeros(1, 3, 32, 32)
    assert model.maxpool(model.conv1(x)).shape == (1, 64, 32, 32)
    assert make("resnet18", (1, 8, 8)).eval()(torch.zeros(1, 1, 8, 8)).shape == (1, 10)
    assert make("resnet18", (3, 96, 96)).conv1.kernel_size == (7, 7)
    assert make("resnet18", (1, 96, 96)).conv1.weight.shape == (64, 1, 7, 7)


@needs_torchvision
@pytest.mark.parametrize(
    ("name", "millions"),
    [("resnet18", 11.17), ("resnet152", 58.16), ("vgg11", 9.23), ("vgg19", 20.03), ("vgg19_bn", 20.04)],
)
def test_the_sizes_that_are_usual_for_cifar(name, millions):
    assert sizes(make(name)) / 1e6 == pytest.approx(millions, abs=0.01)


@needs_torchvision
def test_first_layers_and_heads_begin_like_torchvisions_own():
    """Same spread of initial weights as in the layers that torchvision made itself."""
    for layer, inputs in ((make("resnet18").conv1, 64 * 9), (make("vgg11").features[0], 64 * 9)):
        assert float(layer.weight.detach().std()) == pytest.approx((2 / inputs) ** 0.5, rel=0.1)
    assert float(make("vgg11").classifier.weight.detach().std()) == pytest.approx(0.01, rel=0.05)
    assert all(torch.isfinite(tensor).all() for tensor in make("vgg11_bn").state_dict().values())


@needs_torchvision
@pytest.mark.parametrize("name", ["resnet18", "vgg11_bn"])
def test_initial_weights_depend_on_the_seed_alone(name):
    torch.manual_seed(1)
    one = make(name, seed=3).state_dict()
    torch.manual_seed(2)
    again, other = make(name, seed=3).state_dict(), make(name, seed=4).state_dict()
    assert all(torch.equal(one[key], again[key]) for key in one)
    assert any(not torch.equal(one[key], other[key]) for key in one)


@needs_torchvision
@pytest.mark.parametrize("name", ["resnet18", "vgg11_bn"])
def test_all_of_batchnorm_can_be_converted(name):
    model = convert_batchnorm(make(name))
    kinds = [type(part) for part in model.modules()]
    assert nn.GroupNorm in kinds
    assert not {nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d} & set(kinds)
    loss = model(torch.randn(2, *CIFAR, generator=torch.Generator().manual_seed(0))).square().mean()
    loss.backward()
    assert all(p.grad is not None and bool(torch.isfinite(p.grad).all()) for p in model.parameters())


def test_the_names_are_those_of_the_paper_and_their_kin():
    assert len(RESNETS) == 5
    assert VGGS[:2] == ("vgg11", "vgg11_bn")
    assert len(VGGS) == 8


@pytest.mark.parametrize(
    ("name", "shape", "message"),
    [
        ("resnet20", CIFAR, r"'torchvision:resnet20': unknown network; did you mean resnet\d+\?"),
        ("zebra", CIFAR, "there are resnet18, resnet34"),
        ("vgg11", (1, 28, 28), r"halves a picture five times, so it needs 32 x 32 pixels or more, not 28 x 28"),
        ("resnet18", (12,), r"takes pictures \(channels, height, width\), not \(12,\)"),
    ],
)
def test_what_cannot_be_made_is_refused(name, shape, message):
    with pytest.raises(ConfigError, match=message):
        make(name, shape)


def test_without_torchvision(monkeypatch):
    monkeypatch.setitem(sys.modules, "torchvision.models", None)
    with pytest.raises(MissingExtraError, match=r"model = torchvision:resnet18.*scadles\[vision\]"):
        make("resnet18")


def test_importing_the_package_imports_no_torchvision(said_by):
    code = "import sys, scadles.models; print('torchvision' in sys.modules)"
    assert said_by(code) == "False\n"
