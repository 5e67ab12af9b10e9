"""``avro``: records in Avro's binary encoding, read by fastavro with a schema from the settings."""

from __future__ import annotations

import io
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from scadles.errors import ConfigError, MissingExtraError
from scadles.layout import Layout
from scadles.streams.codec.one_by_one import OneByOneCodec
from scadles.streams.codec.records import field_name, sample_in, target_in
from scadles.streams.codec.sample import SampleType, UnreadableError
from scadles.streams.codec.target import check_target
from scadles.structures import map_tensors
from scadles.targets import TargetType

_NAME = "stream.codec.format = avro"
_FLOATS = {torch.float32: "float", torch.float64: "double", torch.float16: "float"}
_WIDE = (torch.int64,)


class AvroCodec(OneByOneCodec):
    """Records with a field ``x``, the sample, and where there are targets ``y``, without a header or a schema's number.

    Numbers are an array (nested, or flat in the order of the dimensions, the last one fastest), one number where a
    shape is empty, or bytes: the numbers as they are, little-endian. Parts of samples and targets are records, or maps,
    with a field for each part.

    Args:
        sample: what each must hold.
        max_bytes: longer values are rejected.
        target: what belongs to a sample.
        schema: that records were written with; None: uint8 as bytes, other numbers as flat arrays.

    Raises:
        ConfigError: it is no schema of such a record.
        MissingExtraError: fastavro is not installed.
    """

    __slots__ = ("_fastavro", "_schema")

    def __init__(
        self, sample: SampleType, max_bytes: int, target: TargetType, schema: Mapping[str, Any] | None = None
    ) -> None:
        super().__init__(sample, max_bytes, target)
        try:
            import fastavro
        except ImportError:
            raise MissingExtraError(_NAME, "avro") from None
        self._fastavro: Any = fastavro
        given = dict(schema) if schema is not None else schema_of(sample, target)
        fields = [field.get("name") for field in given.get("fields", ()) if isinstance(field, Mapping)]
        needed = ["x"] if target.is_none else ["x", "y"]
        if given.get("type") != "record" or not set(needed) <= set(fields):
            raise ConfigError(f"stream.codec.avro_schema: expected a record with the fields {' and '.join(needed)}")
        try:
            self._schema: Any = self._fastavro.parse_schema(given)
        except Exception as error:
            raise ConfigError(
                f"stream.codec.avro_schema is no schema of Avro: {type(error).__name__}: {error}"
            ) from error

    def _read(self, value: bytes, key: bytes | None) -> tuple[Tensor, int | Tensor]:
        file = io.BytesIO(value)
        try:
            record: Any = self._fastavro.schemaless_reader(file, self._schema, None)
        except Exception as error:  # noqa: BLE001 - it raises what it likes, and bad bytes must not end a run
            raise UnreadableError(f"no record of the schema ({type(error).__name__})") from None
        if more := len(value) - file.tell():
            raise UnreadableError(f"{more:,} bytes behind the record")
        return sample_in(self._sample, record["x"]), target_in(self._target, record.get("y"))

    def encode(self, x: Tensor, y: int | Tensor) -> tuple[bytes | None, bytes]:
        fields = {field["name"]: field["type"] for field in self._schema["fields"]}
        record: dict[str, Any] = {"x": _written(self._sample.check(x), self._sample.layout, fields["x"])}
        if self._target.is_label:
            record["y"] = y
        elif not self._target.is_none:
            layout = self._target.layout if self._target.parts else None
            record["y"] = _written(check_target(self._target, y), layout, fields["y"])
        file = io.BytesIO()
        try:
            self._fastavro.schemaless_writer(file, self._schema, record)
        except Exception as error:
            raise ConfigError(
                f"stream.codec.avro_schema does not fit a sample: {type(error).__name__}: {error}"
            ) from error
        return None, file.getvalue()


def schema_of(sample: SampleType, target: TargetType) -> dict[str, Any]:
    """Return the schema of records of such samples and targets, as Avro's JSON has it."""
    x = _type_of(sample) if sample.layout is None else _record("Sample", sample.layout)
    fields = [{"name": "x", "type": x}]
    if target.is_label:
        fields.append({"name": "y", "type": "long"})
    elif target.parts:
        fields.append({"name": "y", "type": _record("Target", target.layout)})
    elif not target.is_none:
        fields.append({"name": "y", "type": _type_of(SampleType(target.shape, target.dtype))})
    return {"type": "record", "name": "Message", "fields": fields}


def _record(name: str, layout: Layout) -> dict[str, Any]:
    fields = [
        {"name": field_name(layout, part.name), "type": _type_of(SampleType(part.shape, part.dtype))}
        for part in layout.parts
    ]
    return {"type": "record", "name": name, "fields": fields}


def _type_of(sample: SampleType) -> Any:
    kind = _FLOATS.get(sample.dtype) or ("boolean" if sample.dtype == torch.bool else None)
    kind = kind or ("long" if sample.dtype in _WIDE else "int")
    if not sample.shape:
        return kind
    return "bytes" if sample.dtype == torch.uint8 else {"type": "array", "items": kind}


def _written(whole: Tensor, layout: Layout | None, schema: Any) -> Any:
    """Return a sample or target as the field of a record has it."""
    if layout is None:
        return _as_written(whole, schema)
    known = {field["name"]: field["type"] for field in schema.get("fields", ())} if isinstance(schema, Mapping) else {}
    parts = layout.values(map_tensors(lambda x: x[0], layout.unpack(whole[None])))
    names = [field_name(layout, name) for name in layout.names]
    items = schema.get("values") if isinstance(schema, Mapping) else None
    return {name: _as_written(x, known.get(name, items)) for name, x in zip(names, parts, strict=True)}


def _as_written(x: Tensor, schema: Any) -> Any:
    if schema == "bytes" or (isinstance(schema, Mapping) and schema.get("type") == "bytes"):
        numbers = x.contiguous().numpy()
        return numbers.astype(numbers.dtype.newbyteorder("<")).tobytes()
    nested = isinstance(schema, Mapping) and isinstance(schema.get("items"), Mapping)
    return x.tolist() if nested or not x.dim() else x.reshape(-1).tolist()
