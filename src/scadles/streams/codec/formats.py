"""From settings to a codec."""

from __future__ import annotations

from collections.abc import Callable

import torch

from scadles.config import CodecConfig
from scadles.errors import ConfigError
from scadles.importing import blame, import_callable
from scadles.layout import Layout
from scadles.streams.codec.arrow import ArrowCodec
from scadles.streams.codec.avro import AvroCodec
from scadles.streams.codec.contract import Codec
from scadles.streams.codec.guarded import GuardedCodec
from scadles.streams.codec.image import ImageCodec
from scadles.streams.codec.json_text import JsonCodec
from scadles.streams.codec.labels import Labels
from scadles.streams.codec.npy import NpyCodec
from scadles.streams.codec.own import OwnCodec
from scadles.streams.codec.raw import RawCodec
from scadles.streams.codec.safe_tensors import SafetensorsCodec
from scadles.streams.codec.sample import SampleType, convertible, short
from scadles.targets import TargetType

_Make = Callable[[SampleType, Labels, CodecConfig, TargetType], Codec]
_FORMATS: dict[str, _Make] = {
    "raw": lambda sample, labels, config, target: RawCodec(sample, labels, target),
    "npy": lambda sample, labels, config, target: NpyCodec(sample, labels, config.max_bytes, target),
    "safetensors": lambda sample, labels, config, target: SafetensorsCodec(sample, config.max_bytes, target),
    "json": lambda sample, labels, config, target: JsonCodec(sample, config.max_bytes, target),
    "arrow": lambda sample, labels, config, target: ArrowCodec(sample, config.max_bytes, target),
    "avro": lambda sample, labels, config, target: AvroCodec(sample, config.max_bytes, target, config.avro_schema),
    "image": lambda sample, labels, config, target: ImageCodec(sample, labels, config.max_bytes, target),
}


def make_codec(
    config: CodecConfig,
    shape: tuple[int, ...],
    dtype: torch.dtype,
    classes: int = 0,
    *,
    target: TargetType | None = None,
    layout: Layout | None = None,
) -> Codec:
    """Return the codec that settings describe.

    ``MODULE:CALLABLE`` is a function ``(value, key) -> (x, y)``, or a subclass of :class:`Codec` that takes a
    :class:`~scadles.streams.codec.sample.SampleType`.

    Args:
        config: the settings.
        shape, dtype: of one raw sample of the data set; what a message holds must fit them.
        classes: labels are integers from 0 to ``classes - 1``.
        target: what belongs to a sample where that is no class label.
        layout: where the parts are in samples that have several.

    Raises:
        ConfigError: an unknown format, one that cannot hold such samples, or samples that do not fit the data set.
    """
    if layout is not None and (config.shape or config.dtype):
        raise ConfigError(
            f"stream.codec.{'shape' if config.shape else 'dtype'}: samples of the data set have the parts "
            f"{', '.join(layout.names)}, each with its own; leave it out"
        )
    own_dtype = getattr(torch, config.dtype) if config.dtype else dtype
    sample = SampleType(config.shape or tuple(shape), own_dtype, layout)
    _check(config, sample, SampleType(tuple(shape), dtype, layout))
    target = TargetType.label(classes) if target is None else target
    if config.label == "first-bytes" and not target.is_label:
        raise ConfigError(
            f"stream.codec.label = first-bytes: this stream has {target.describe()}, and no class labels; leave it out"
        )
    labels = Labels(config.label_bytes if config.label == "first-bytes" else 0, target.classes)
    if config.format in _FORMATS:
        return _FORMATS[config.format](sample, labels, config, target)
    own = import_callable("stream.codec.format", config.format, _FORMATS)
    if not isinstance(own, type):
        return OwnCodec(own, config.format, sample, config.max_bytes, target)
    if not issubclass(own, Codec):
        raise ConfigError(f"stream.codec.format = {config.format!r}: {own.__name__} is no subclass of Codec")
    return GuardedCodec(_made(own, config.format, sample), config.format, sample, config.max_bytes, target)


def _made(own: Callable[[SampleType], Codec], name: str, sample: SampleType) -> Codec:
    """Return the user's codec; what its constructor raises becomes a ConfigError."""
    try:
        return own(sample)
    except ConfigError:
        raise
    except KeyboardInterrupt:
        raise
    except BaseException as error:
        raise ConfigError(
            f"stream.codec.format = {name!r} cannot be made: {blame(error)}; its constructor is given "
            "one argument, the SampleType (shape, dtype) of a sample, and decode and encode must be there"
        ) from error


def _check(config: CodecConfig, sample: SampleType, expected: SampleType) -> None:
    if sample.shape != expected.shape:
        raise ConfigError(
            f"stream.codec.shape = {list(sample.shape)}: samples of the data set, on which the model is tested, have "
            f"shape {list(expected.shape)}"
        )
    if not convertible(sample.dtype, expected.dtype):
        raise ConfigError(
            f"stream.codec.dtype = {short(sample.dtype)}: samples of the data set, on which the model is tested, are "
            f"{short(expected.dtype)}"
        )
    if config.format == "raw" and sample.nbytes > config.max_bytes:
        raise ConfigError(
            f"stream.codec.max_bytes = {config.max_bytes}: a sample has {sample.nbytes} bytes, so that all would be "
            "rejected"
        )
