"""Networks: built-in ones, torchvision's, and the user's own by ``MODULE:CALLABLE``; and how they normalise."""

from __future__ import annotations

from scadles.models.built_in import Nothing, autoencoder, cnn, mlp, resnet8
from scadles.models.choice import BUILT_IN, NO_MODEL, build_model
from scadles.models.normalization import convert_batchnorm

__all__ = [
    "BUILT_IN",
    "NO_MODEL",
    "Nothing",
    "autoencoder",
    "build_model",
    "cnn",
    "convert_batchnorm",
    "mlp",
    "resnet8",
]
