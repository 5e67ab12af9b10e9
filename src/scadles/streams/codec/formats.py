"""From settings to a codec."""

from __future__ import annotations

import torch

from scadles.config import CodecConfig
from scadles.errors import ConfigError
from scadles.streams.codec.contract import Codec
from scadles.streams.codec.labels import Labels
from scadles.streams.codec.raw import RawCodec
from scadles.streams.codec.sample import SampleType


def make_codec(config: CodecConfig, shape: tuple[int, ...], dtype: torch.dtype, classes: int) -> Codec:
    """Return the codec that settings describe.

    Args:
        config: the settings.
        shape, dtype: of one raw sample of the data set, which stand where the settings name none.
        classes: labels are integers from 0 to ``classes - 1``.

    Raises:
        ConfigError: an unknown format, or one that cannot hold such samples.
    """
    sample = SampleType(config.shape or tuple(shape), getattr(torch, config.dtype) if config.dtype else dtype)
    labels = Labels(config.label_bytes if config.label == "first-bytes" else 0, classes)
    if config.format == "raw":
        return RawCodec(sample, labels)
    raise ConfigError(f"stream.codec.format = {config.format!r}: there is raw")
