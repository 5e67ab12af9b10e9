"""``image``: JPEG and PNG, read by Pillow."""

from __future__ import annotations

import io

import numpy as np
import torch
from torch import Tensor

from scadles.errors import ConfigError, MissingExtraError
from scadles.streams.codec.labels import Labels
from scadles.streams.codec.one_by_one import OneByOneCodec
from scadles.streams.codec.sample import SampleType, UnreadableError, short
from scadles.streams.codec.target import read_target
from scadles.targets import TargetType

_MODES = {1: "L", 3: "RGB", 4: "RGBA"}
_EIGHT_BITS = {"1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "YCbCr"}


class ImageCodec(OneByOneCodec):
    """Pictures of exactly the configured height and width, which are looked at before anything is decoded.

    They become uint8 ``[channels, height, width]``: one channel is grey, three are red, green and blue, four have
    opacity as well. Where a picture has other channels it is converted; one of more than 8 bits a channel is rejected.
    Beside the picture itself Pillow unpacks at most 64 MB of text that a PNG may carry.

    Args:
        sample: shape (channels, height, width) and uint8.
        labels: where the label is.
        max_bytes: longer values are rejected.
        target: what belongs to a sample: a class label or nothing.

    Raises:
        ConfigError: samples are no such pictures, or have other targets.
    """

    __slots__ = ("_image", "_labels", "_mode")

    def __init__(self, sample: SampleType, labels: Labels, max_bytes: int, target: TargetType) -> None:
        super().__init__(sample, max_bytes, target)
        if not (target.is_label or target.is_none):
            raise ConfigError(
                f"stream.codec.format = image: a picture has no place for {target.describe()}; use raw, npy, "
                "safetensors or json"
            )
        if sample.layout is not None:
            raise ConfigError(
                "stream.codec.format = image: a picture is one part, and samples have the parts "
                f"{', '.join(sample.layout.names)}; use raw, npy, safetensors, json or avro"
            )
        if len(sample.shape) != 3 or sample.shape[0] not in _MODES or sample.dtype != torch.uint8:
            raise ConfigError(
                f"stream.codec.format = image makes uint8 samples of 1, 3 or 4 channels, height and width; expected "
                f"are {short(sample.dtype)} samples of shape {list(sample.shape)}"
            )
        try:
            from PIL import Image
        except ImportError:
            raise MissingExtraError("stream.codec.format = image", "images") from None
        self._image = Image
        self._labels = labels
        self._mode = _MODES[sample.shape[0]]

    def _read(self, value: bytes, key: bytes | None) -> tuple[Tensor, int | Tensor]:
        label = self._labels.of_message(value, key) if self._target.is_label else read_target(self._target, None)
        channels, height, width = self._sample.shape
        with self._image.open(io.BytesIO(value[self._labels.in_value :]), formats=("JPEG", "PNG")) as picture:
            if picture.size != (width, height):
                raise UnreadableError(f"{picture.width} x {picture.height} pixels, expected {width} x {height}")
            if picture.mode not in _EIGHT_BITS:
                raise UnreadableError(f"a picture of more than 8 bits a channel (mode {picture.mode})")
            # a palette may have opacity, which only this detour keeps without a warning
            pixels = picture.convert("RGBA") if picture.mode == "P" else picture
            rows = np.array(pixels.convert(self._mode)).reshape(height, width, channels)
        return torch.from_numpy(rows).permute(2, 0, 1), label

    def encode(self, x: Tensor, y: int | Tensor) -> tuple[bytes | None, bytes]:
        """Return a PNG, which loses nothing."""
        key, start = self._labels.write(int(y)) if self._target.is_label else (None, b"")
        rows = self._sample.check(x).permute(1, 2, 0).contiguous().numpy()
        file = io.BytesIO(start)
        file.seek(len(start))
        self._image.fromarray(rows[:, :, 0] if rows.shape[2] == 1 else rows).save(file, format="PNG")
        return key, file.getvalue()
