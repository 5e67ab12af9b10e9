"""``arrow``: record batches of one row, as Arrow's IPC streams have them, read by pyarrow."""

from __future__ import annotations

import io
import struct
from typing import Any

from torch import Tensor

from scadles.errors import MissingExtraError
from scadles.layout import Layout
from scadles.streams.codec.one_by_one import OneByOneCodec
from scadles.streams.codec.records import field_name, sample_in, target_in
from scadles.streams.codec.sample import SampleType, UnreadableError
from scadles.streams.codec.target import check_target
from scadles.structures import map_tensors
from scadles.targets import TargetType

# Arrow's format: Message has its header in field 2, and a RecordBatch how it is compressed in field 3
_HEADER, _COMPRESSION = 2, 3


class ArrowCodec(OneByOneCodec):
    """Streams of a schema and one record batch of one row, with a column ``x``, the sample, and where there are targets
    ``y``.

    A column holds a list of numbers (nested, flat in the order of the dimensions with the last one fastest, or a
    tensor), one number where a shape is empty, or bytes: the numbers as they are, little-endian. Parts of samples and
    targets are structs with a field for each part. Other columns are left alone. Compressed batches are rejected before
    they are read, because nobody can tell how large they become.

    Args:
        sample: what each must hold.
        max_bytes: longer values are rejected.
        target: what belongs to a sample.

    Raises:
        MissingExtraError: pyarrow is not installed.
    """

    __slots__ = ("_pa",)

    def __init__(self, sample: SampleType, max_bytes: int, target: TargetType) -> None:
        super().__init__(sample, max_bytes, target)
        try:
            import pyarrow
        except ImportError:
            raise MissingExtraError("stream.codec.format = arrow", "arrow") from None
        self._pa: Any = pyarrow

    def _read(self, value: bytes, key: bytes | None) -> tuple[Tensor, int | Tensor]:
        batch = self._batch(value)
        columns = dict(zip(batch.schema.names, batch.columns, strict=True))
        needed = ("x",) if self._target.is_none else ("x", "y")
        if missing := [name for name in needed if name not in columns]:
            raise UnreadableError(f"there is no column {' or '.join(missing)}")
        found = {name: self._value(name, columns[name]) for name in needed}
        return sample_in(self._sample, found["x"]), target_in(self._target, found.get("y"))

    def _batch(self, value: bytes) -> Any:
        """Return the record batch of a message, all of whose buffers are within it."""
        ipc = self._pa.ipc
        try:
            messages = list(ipc.MessageReader.open_stream(value))
            if [message.type for message in messages] != ["schema", "record batch"]:
                raise UnreadableError("no schema and one record batch")
            if _is_compressed(bytes(messages[1].metadata)):
                raise UnreadableError("a compressed record batch")
            batch = ipc.read_record_batch(messages[1], ipc.read_schema(messages[0]))
            if batch.num_rows != 1:
                raise UnreadableError(f"{batch.num_rows:,} rows, expected 1")
            batch.validate(full=True)
        except (self._pa.ArrowException, OSError, ValueError, struct.error) as error:
            raise UnreadableError(f"no stream of Arrow's ({type(error).__name__})") from None
        return batch

    def _value(self, name: str, column: Any) -> Any:
        """Return what a column of one row holds: a number, bytes, an array, or those of a struct's fields by name."""
        types, kind = self._pa.types, column.type
        if column.null_count:
            raise UnreadableError(f"{name} holds nothing")
        if isinstance(column, self._pa.ExtensionArray):
            return self._value(name, column.storage)
        if types.is_struct(kind):
            fields = [kind.field(i).name for i in range(kind.num_fields)]
            return {field: self._value(f"part {field}", column.field(i)) for i, field in enumerate(fields)}
        if types.is_list(kind) or types.is_large_list(kind) or types.is_fixed_size_list(kind):
            inner = column.flatten()
            if types.is_primitive(inner.type) and not inner.null_count:
                return inner.to_numpy(zero_copy_only=False)
        return column.to_pylist()[0]

    def encode(self, x: Tensor, y: int | Tensor) -> tuple[bytes | None, bytes]:
        columns = {"x": self._written(self._sample.check(x), self._sample.layout)}
        if self._target.is_label:
            columns["y"] = self._pa.array([y], self._pa.int64())
        elif not self._target.is_none:
            layout = self._target.layout if self._target.parts else None
            columns["y"] = self._written(check_target(self._target, y), layout)
        batch, file = self._pa.record_batch(columns), io.BytesIO()
        with self._pa.ipc.new_stream(file, batch.schema) as stream:
            stream.write_batch(batch)
        return None, file.getvalue()

    def _written(self, whole: Tensor, layout: Layout | None) -> Any:
        if layout is None:
            return self._column(whole)
        parts = layout.values(map_tensors(lambda x: x[0], layout.unpack(whole[None])))
        names = [field_name(layout, name) for name in layout.names]
        return self._pa.StructArray.from_arrays([self._column(part) for part in parts], names)

    def _column(self, x: Tensor) -> Any:
        numbers = self._pa.array(x.reshape(-1).numpy())
        if not x.dim():
            return numbers
        return self._pa.ListArray.from_arrays(self._pa.array([0, len(numbers)], self._pa.int32()), numbers)


def _is_compressed(metadata: bytes) -> bool:
    """Whether a record batch's flatbuffer says that its buffers are compressed."""
    root = struct.unpack_from("<I", metadata)[0]
    header = _field(metadata, root, _HEADER)
    if header is None:
        raise UnreadableError("a message without a header")
    return _field(metadata, header + struct.unpack_from("<I", metadata, header)[0], _COMPRESSION) is not None


def _field(metadata: bytes, table: int, number: int) -> int | None:
    """Return where a field of a flatbuffer's table is; None where it is left out."""
    fields = table - struct.unpack_from("<i", metadata, table)[0]
    if fields < 0:
        raise UnreadableError("a table outside of its message")
    place = 4 + 2 * number
    if place + 2 > struct.unpack_from("<H", metadata, fields)[0]:
        return None
    offset: int = struct.unpack_from("<H", metadata, fields + place)[0]
    return table + offset if offset else None
