"""torchvision's ResNets and VGGs, with first layers and heads that fit the data set. No weights are downloaded.

Pictures whose shorter side is at most 64 get what is usual for CIFAR: a ResNet begins with a 3 x 3 convolution of
stride 1 and no max-pool, and a VGG ends with one linear layer on the mean of its last map (0.5 M parameters in place
of 120 M). Larger ones get torchvision's own layers. In either case the first convolution takes the picture's channels.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import Any

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from scadles.data.torchvision import import_torchvision
from scadles.errors import ConfigError, did_you_mean

RESNETS = ("resnet18", "resnet34", "resnet50", "resnet101", "resnet152")
VGGS = tuple(f"vgg{depth}{norm}" for depth in (11, 13, 16, 19) for norm in ("", "_bn"))
SMALL = 64
_VGG_HALVES = 2**5


def torchvision_network(name: str, shape: tuple[int, ...], outputs: int) -> nn.Module:
    """Return a network of torchvision by name, not trained, for pictures of ``shape``.

    Args:
        name: one of ``RESNETS`` or ``VGGS``.
        shape: (channels, height, width).
        outputs: values in an answer.

    Raises:
        ConfigError: an unknown name, or pictures too small for the network.
        MissingExtraError: torchvision is not installed.
    """
    if name not in RESNETS + VGGS:
        raise ConfigError(f"model 'torchvision:{name}': unknown network{did_you_mean(name, RESNETS + VGGS)}")
    if len(shape) != 3:
        raise ConfigError(f"model 'torchvision:{name}' takes pictures (channels, height, width), not {shape}")
    network: nn.Module = _resnet(name, shape, outputs) if name in RESNETS else _vgg(name, shape, outputs)
    return network


def _resnet(name: str, shape: tuple[int, ...], classes: int) -> Any:
    network = _make(name, classes)
    if min(shape[1:]) <= SMALL:
        network.conv1 = nn.Conv2d(shape[0], 64, kernel_size=3, padding=1, bias=False)
        network.maxpool = nn.Identity()
        _initialise(network.conv1)
    elif shape[0] != 3:
        network.conv1 = nn.Conv2d(shape[0], 64, kernel_size=7, stride=2, padding=3, bias=False)
        _initialise(network.conv1)
    return network


def _vgg(name: str, shape: tuple[int, ...], classes: int) -> Any:
    if min(shape[1:]) < _VGG_HALVES:
        raise ConfigError(
            f"model 'torchvision:{name}' halves a picture five times, so it needs {_VGG_HALVES} x {_VGG_HALVES} pixels "
            f"or more, not {shape[1]} x {shape[2]}; choose a ResNet, or resnet8 or cnn"
        )
    if min(shape[1:]) > SMALL:
        network = _make(name, classes)
        if shape[0] != 3:
            network.features[0] = nn.Conv2d(shape[0], 64, kernel_size=3, padding=1)
            _initialise(network.features[0])
        return network
    with torch.device("meta"):  # its own head would take half a gigabyte, to be thrown away
        features = _make(name, classes).features
    features[0] = nn.Conv2d(shape[0], 64, kernel_size=3, padding=1, device="meta")
    features.to_empty(device="cpu")
    head = nn.Linear(512, classes)
    nn.init.normal_(head.weight, 0, 0.01)
    nn.init.zeros_(head.bias)
    for layer in features:
        _initialise(layer)
    parts = {"features": features, "avgpool": nn.AdaptiveAvgPool2d(1), "flatten": nn.Flatten(), "classifier": head}
    return nn.Sequential(OrderedDict(parts))


def _make(name: str, classes: int) -> Any:
    models = import_torchvision("models", f"model = torchvision:{name}")
    return models.get_model(name, weights=None, num_classes=classes)


def _initialise(layer: nn.Module) -> None:
    """Give a layer the initial weights that torchvision gives to those of its kind."""
    if isinstance(layer, nn.Conv2d):
        nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu")
        if layer.bias is not None:
            nn.init.zeros_(layer.bias)
    elif isinstance(layer, _BatchNorm):
        layer.reset_parameters()
