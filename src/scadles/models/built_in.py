"""The built-in networks, small enough for a CPU."""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor, nn

from scadles.errors import ConfigError


def mlp(shape: tuple[int, ...], classes: int) -> nn.Module:
    """One hidden layer of 64."""
    inputs = int(torch.Size(shape).numel())
    return nn.Sequential(nn.Flatten(), nn.Linear(inputs, 64), nn.ReLU(), nn.Linear(64, classes))


def cnn(shape: tuple[int, ...], classes: int) -> nn.Module:
    """Three convolutions with BatchNorm, for images of at least 8 x 8."""
    channels = [shape[0], 16, 32, 64]
    layers: list[nn.Module] = []
    for i, (inputs, outputs) in enumerate(pairwise(channels)):
        layers += [
            nn.Conv2d(inputs, outputs, 3, stride=1 if i == 0 else 2, padding=1, bias=False),
            nn.BatchNorm2d(outputs),
            nn.ReLU(),
        ]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(4 * channels[-1], classes))


class ResidualBlock(nn.Module):
    """Two convolutions beside a shortcut, which is a convolution of one pixel where sizes differ."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.path = nn.Sequential(
            nn.Conv2d(inputs, outputs, 3, stride=stride, padding=1, bias=False),
            nn.BatchNorm2d(outputs),
            nn.ReLU(),
            nn.Conv2d(outputs, outputs, 3, padding=1, bias=False),
            nn.BatchNorm2d(outputs),
        )
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or inputs != outputs:
            narrow = nn.Conv2d(inputs, outputs, 1, stride=stride, bias=False)
            self.shortcut = nn.Sequential(narrow, nn.BatchNorm2d(outputs))

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(self.path(x) + self.shortcut(x))


def resnet8(shape: tuple[int, ...], classes: int) -> nn.Module:
    """A residual network of eight layers (He and others, 2016, n = 1): three blocks of 16, 32 and 64 channels."""
    return nn.Sequential(
        nn.Conv2d(shape[0], 16, 3, padding=1, bias=False),
        nn.BatchNorm2d(16),
        nn.ReLU(),
        ResidualBlock(16, 16, stride=1),
        ResidualBlock(16, 32, stride=2),
        ResidualBlock(32, 64, stride=2),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(64, classes),
    )


class Nothing(nn.Module):
    """A network for a simulated cluster that learns nothing: one parameter and no outputs."""

    def __init__(self) -> None:
        super().__init__()
        self.unused = nn.Parameter(torch.zeros(1))

    def forward(self, x: Tensor) -> Tensor:
        raise ConfigError("model = none learns nothing: it is for scadles simulate; choose mlp or cnn")
