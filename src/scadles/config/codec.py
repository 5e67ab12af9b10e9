"""How the messages of a live stream are read, as settings."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from scadles.config.section import Section

Size = Annotated[int, Field(ge=1, le=1_000_000)]
DType = Literal["uint8", "int8", "int16", "int32", "int64", "float16", "float32", "float64"]


class CodecConfig(Section):
    """How a message of kafka:// or mqtt:// becomes a sample and its label."""

    format: str = Field(default="raw", description="raw | npy | safetensors | json | image | MODULE:CALLABLE")
    shape: tuple[Size, ...] | None = Field(default=None, description="of one sample; none: the data set's")
    dtype: DType | None = Field(default=None, description="of a sample's numbers; none: the data set's")
    label: Literal["key", "first-bytes"] = Field(
        default="key",
        description="raw, npy, image: the label is the message's key, in decimal digits, or the value's first bytes",
    )
    label_bytes: Literal[1, 2, 4, 8] = Field(
        default=1, description="first-bytes: how many, an unsigned little-endian number"
    )
    max_bytes: int = Field(default=1_048_576, ge=1, description="a longer message is rejected unread")
