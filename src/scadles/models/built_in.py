"""The built-in networks, small enough for a CPU."""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor, nn

from scadles.errors import ConfigError


def mlp(shape: tuple[int, ...], outputs: int) -> nn.Module:
    """One hidden layer of 64, for samples of any shape."""
    inputs = int(torch.Size(shape).numel())
    flat = nn.Flatten() if shape else nn.Unflatten(0, (-1, 1))
    return nn.Sequential(flat, nn.Linear(inputs, 64), nn.ReLU(), nn.Linear(64, outputs))


def cnn(shape: tuple[int, ...], outputs: int) -> nn.Module:
    """Three convolutions with BatchNorm, for pictures of at least 8 x 8, or over time for windows (channels, time).

    Raises:
        ConfigError: samples of another number of dimensions.
    """
    if len(shape) not in (2, 3):
        raise ConfigError(
            f"model cnn takes windows [channels, time] or pictures [channels, height, width], not samples of shape "
            f"{list(shape)}; use mlp, or reshape them"
        )
    channels = [shape[0], 16, 32, 64]
    layers: list[nn.Module] = []
    for i, (before, after) in enumerate(pairwise(channels)):
        stride = 1 if i == 0 else 2
        if len(shape) == 2:
            layers += [nn.Conv1d(before, after, 5, stride=stride, padding=2, bias=False), nn.BatchNorm1d(after)]
        else:
            layers += [nn.Conv2d(before, after, 3, stride=stride, padding=1, bias=False), nn.BatchNorm2d(after)]
        layers.append(nn.ReLU())
    pool = nn.AdaptiveAvgPool1d(4) if len(shape) == 2 else nn.AdaptiveAvgPool2d(2)
    return nn.Sequential(*layers, pool, nn.Flatten(), nn.Linear(4 * channels[-1], outputs))


def autoencoder(shape: tuple[int, ...], outputs: int) -> nn.Module:
    """Through a layer of 8 values and back: for reconstruction of samples of any shape."""
    inputs = int(torch.Size(shape).numel())
    flat = nn.Flatten() if shape else nn.Unflatten(0, (-1, 1))
    sizes = [inputs, 64, 8, 64, outputs]
    layers: list[nn.Module] = [flat]
    for before, after in pairwise(sizes):
        layers += [nn.Linear(before, after), nn.Tanh()]
    return nn.Sequential(*layers[:-1])


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


def resnet8(shape: tuple[int, ...], outputs: int) -> nn.Module:
    """A residual network of eight layers (He and others, 2016, n = 1): three blocks of 16, 32 and 64 channels.

    Raises:
        ConfigError: samples that are no pictures (channels, height, width).
    """
    if len(shape) != 3:
        raise ConfigError(
            f"model resnet8 takes pictures [channels, height, width], not samples of shape {list(shape)}; use mlp "
            "or cnn"
        )
    return nn.Sequential(
        nn.Conv2d(shape[0], 16, 3, padding=1, bias=False),
        nn.BatchNorm2d(16),
        nn.ReLU(),
        ResidualBlock(16, 16, stride=1),
        ResidualBlock(16, 32, stride=2),
        ResidualBlock(32, 64, stride=2),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(64, outputs),
    )


class Nothing(nn.Module):
    """A network for a simulated cluster that learns nothing: one parameter and no outputs."""

    def __init__(self) -> None:
        super().__init__()
        self.unused = nn.Parameter(torch.zeros(1))

    def forward(self, x: Tensor) -> Tensor:
        raise ConfigError("model = none learns nothing: it is for scadles simulate; choose mlp or cnn")
