"""How the messages of a live stream are read, as settings."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import Field, model_validator

from scadles.config.names import CODE, PLAIN
from scadles.config.section import Section

if TYPE_CHECKING:
    from typing_extensions import Self

Size = Annotated[int, Field(ge=1, le=1_000_000)]
DType = Literal["uint8", "int8", "int16", "int32", "int64", "float16", "float32", "float64"]


class CodecConfig(Section):
    """How a message of kafka:// or mqtt:// becomes a sample and its label."""

    format: Annotated[str, CODE] = Field(
        default="raw", description="raw | npy | safetensors | json | arrow | avro | image | MODULE:CALLABLE"
    )
    shape: tuple[Size, ...] | None = Field(default=None, description="of one sample; none: the data set's")
    dtype: DType | None = Field(default=None, description="of a sample's numbers; none: the data set's")
    label: Literal["key", "first-bytes"] = Field(
        default="key",
        description="raw, npy, image: the label is the message's key, in decimal digits, or the value's first bytes",
    )
    label_bytes: Literal[1, 2, 4, 8] = Field(
        default=1, description="first-bytes: how many, an unsigned little-endian number"
    )
    avro_schema: Annotated[dict[str, Any] | None, PLAIN] = Field(
        default=None,
        description="avro: the schema that messages are written with, a record with fields x and y; none: one that is "
        "made of the data set's samples",
    )
    max_bytes: int = Field(default=1_048_576, ge=1, description="a longer message is rejected unread")

    @model_validator(mode="after")
    def _schema_of_avro(self) -> Self:
        if self.avro_schema is not None and self.format != "avro":
            raise ValueError(f"avro_schema: it belongs to format avro, and format is {self.format}; leave it out")
        return self
