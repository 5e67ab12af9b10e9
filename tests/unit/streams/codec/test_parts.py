"""Messages with samples and targets of several parts."""

import io
import json

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load, save

from scadles.config import CodecConfig
from scadles.errors import ConfigError
from scadles.layout import Layout, Part
from scadles.records import Records
from scadles.streams import Inspector
from scadles.streams.codec import Codec, Decoded, make_codec
from scadles.targets import TargetType

LAYOUT = Layout(
    [
        Part("picture", (1, 2, 3), torch.uint8),
        Part("telemetry", (2,), torch.float32),
        Part("zone", (), torch.int64, below=5),
        Part("on", (3,), torch.bool),
    ]
)
TARGET = TargetType.of_parts(
    {
        "kind": TargetType.label(3),
        "box": TargetType.numbers((2, 2)),
        "marks": TargetType((4,), torch.uint8, 2),
    }
)
IN_ORDER = Layout([Part("0", (2,), torch.float32), Part("1", (3,), torch.int32)])
TARGETS = {
    "parts": TARGET,
    "in order": TargetType.of_parts({"0": TargetType.label(3), "1": TargetType.numbers(())}),
    "numbers": TargetType.numbers((3,)),
    "none": TargetType.none(),
    "label": TargetType.label(10),
}
FORMATS = ("raw", "npy", "safetensors", "json", "arrow", "avro")
LIBRARY = {"arrow": "pyarrow", "avro": "fastavro"}
MAX_BYTES = 20_000


def parts_of(layout, seed=0):
    rng = np.random.default_rng(seed)
    kinds = {
        torch.float32: lambda shape: rng.normal(size=shape).astype(np.float32),
        torch.bool: lambda shape: rng.random(shape) < 0.5,
    }
    found = []
    for part in layout.parts:
        dtype = np.dtype(str(part.dtype).removeprefix("torch."))
        found.append(np.asarray(kinds.get(part.dtype, lambda s: rng.integers(2, size=s))(part.shape), dtype=dtype))
    return layout.structure(found)


def row(layout=LAYOUT, seed=0, **changes):
    parts = parts_of(layout, seed)
    return layout.pack_one(parts if layout.in_order else parts | changes)


def target(kind, seed=0):
    if kind.parts:
        return row(kind.layout, seed)
    if kind.is_label:
        return seed
    return torch.full(kind.shape, float(seed))


def codec_of(name, kind=TARGET, layout=LAYOUT, **more):
    if name in LIBRARY:
        pytest.importorskip(LIBRARY[name])
    config = CodecConfig(format=name, max_bytes=MAX_BYTES, **more)
    return make_codec(config, (layout.nbytes,), torch.uint8, target=kind, layout=layout)


@pytest.mark.parametrize("kind", TARGETS)
@pytest.mark.parametrize("layout", [LAYOUT, IN_ORDER], ids=["by name", "in order"])
@pytest.mark.parametrize("name", FORMATS)
def test_what_is_written_is_read(name, layout, kind):
    codec = codec_of(name, TARGETS[kind], layout)
    x, y = [row(layout, i) for i in range(3)], [target(TARGETS[kind], i) for i in range(3)]
    messages = [codec.encode(*pair) for pair in zip(x, y, strict=True)]
    values, keys = [value for _, value in messages], [key for key, _ in messages]
    decoded = codec.decode([*values, b"no such message"], [*keys, None])
    assert torch.equal(decoded.x, torch.stack(x))
    assert torch.equal(decoded.y, torch.stack([torch.as_tensor(one) for one in y]))
    assert [i for i, _ in decoded.rejected] == [3]
    empty = codec.decode([], [])
    assert (len(empty.x), len(empty.y)) == (0, 0)


@pytest.mark.parametrize("name", FORMATS)
@given(data=st.data())
@settings(max_examples=60)
def test_damaged_messages_are_kept_or_rejected_and_never_an_error(name, data):
    codec = codec_of(name)
    value = bytearray(codec.encode(row(), row(TARGET.layout))[1])
    for _ in range(data.draw(st.integers(1, 4))):
        value[data.draw(st.integers(0, len(value) - 1))] = data.draw(st.integers(0, 255))
    cut = bytes(value[: data.draw(st.integers(0, len(value)))])
    decoded = codec.decode([bytes(value), cut, None], [None] * 3)
    assert sorted([*decoded.kept.tolist(), *(i for i, _ in decoded.rejected)]) == [0, 1, 2]
    assert tuple(decoded.x.shape) == (len(decoded.kept), LAYOUT.nbytes)
    assert tuple(decoded.y.shape) == (len(decoded.kept), TARGET.layout.nbytes)


def test_raw_is_the_parts_and_nothing_else():
    x, y = parts_of(LAYOUT), parts_of(TARGET.layout)
    dense = b"".join(np.asarray(part).tobytes() for part in [*x.values(), *y.values()])
    _, value = codec_of("raw").encode(LAYOUT.pack_one(x), TARGET.layout.pack_one(y))
    assert value == dense
    decoded = codec_of("raw").decode([dense, dense[:-1]], [None] * 2)
    assert decoded.rejected == [(1, f"{len(dense) - 1} bytes, expected {len(dense)}")]


def test_a_label_may_be_in_the_key_or_the_first_bytes_beside_parts():
    x = row()
    key, value = codec_of("raw", TARGETS["label"]).encode(x, 7)
    assert (key, len(value)) == (b"7", LAYOUT.packed_nbytes)
    codec = codec_of("npy", TARGETS["label"], label="first-bytes")
    decoded = codec.decode([codec.encode(x, 7)[1]], [None])
    assert (decoded.y.tolist(), torch.equal(decoded.x[0], x)) == ([7], True)


def test_arrays_behind_each_other_as_numpy_writes_them():
    file = io.BytesIO()
    x, y = parts_of(LAYOUT), parts_of(TARGET.layout)
    for part in [*x.values(), *y.values()]:
        np.save(file, np.asfortranarray(part) if part.ndim > 1 else part)
    whole = file.getvalue()
    np.save(file, np.zeros(2))
    second = whole.index(b"\x93NUMPY", 6)
    decoded = codec_of("npy").decode([whole, file.getvalue(), whole[:second]], [None] * 3)
    assert torch.equal(decoded.x[0], LAYOUT.pack_one(x))
    assert torch.equal(decoded.y[0], TARGET.layout.pack_one(y))
    (_, more), (_, missing) = decoded.rejected
    assert more.startswith("part marks: ")
    assert missing == "part telemetry is missing"


def tensors(**changes):
    given = {f"x.{name}": torch.as_tensor(part) for name, part in parts_of(LAYOUT).items()}
    given |= {f"y.{name}": torch.as_tensor(part) for name, part in parts_of(TARGET.layout).items()}
    return save({name: part for name, part in (given | changes).items() if part is not None})


BAD_TENSORS = {
    "part telemetry is missing": {"x.telemetry": None},
    "1 part beyond picture, telemetry, zone, on": {"x.depth": torch.zeros(1)},
    "part telemetry: shape [3], expected [2]": {"x.telemetry": torch.zeros(3)},
    "part picture: dtype int64, expected uint8": {"x.picture": torch.zeros(1, 2, 3, dtype=torch.int64)},
    "target: part box is missing": {"y.box": None},
    "part kind: the label is no integer": {"y.kind": torch.zeros(2)},
    "part box: target of shape [4], expected [2, 2]": {"y.box": torch.zeros(4)},
}


@pytest.mark.parametrize("reason", BAD_TENSORS)
def test_named_tensors_that_do_not_fit_are_rejected_with_the_part(reason):
    decoded = codec_of("safetensors").decode([tensors(**BAD_TENSORS[reason]), tensors()], [None] * 2)
    assert decoded.rejected == [(0, reason)]


def object_of(x=None, y=None):
    given = {name: part.tolist() for name, part in parts_of(LAYOUT).items()} | (x or {})
    told = {name: part.tolist() for name, part in parts_of(TARGET.layout).items()} | (y or {})
    left = {
        "x": {k: v for k, v in given.items() if v is not None},
        "y": {k: v for k, v in told.items() if v is not None},
    }
    return json.dumps(left).encode()


BAD_OBJECTS = {
    "part zone is missing": ({"zone": None}, {}),
    "1 part beyond picture, telemetry, zone, on": ({"depth": 3}, {}),
    "part telemetry is no list in the shape [2]": ({"telemetry": [1, 2, 3]}, {}),
    "part telemetry holds something else than numbers": ({"telemetry": ["1", "2"]}, {}),
    "part picture holds a number that does not fit uint8": ({"picture": [[[1, 2, 3], [4, 5, 256]]]}, {}),
    "part on holds something else than true and false": ({"on": [0, 1, 1]}, {}),
    "part marks is missing": ({}, {"marks": None}),
    "part kind: the label is no integer": ({}, {"kind": 1.5}),
    "part marks holds a number that does not fit uint8": ({}, {"marks": [0, 1, 0, -1]}),
}


@pytest.mark.parametrize("reason", BAD_OBJECTS)
def test_objects_that_do_not_fit_are_rejected_with_the_part(reason):
    decoded = codec_of("json").decode([object_of(*BAD_OBJECTS[reason]), object_of()], [None] * 2)
    assert decoded.rejected == [(0, reason)]


VALUES = {
    "part telemetry: NaN or infinite values": ({"telemetry": np.array([1, np.inf], np.float32)}, {}),
    "part zone: value 5, expected 0 to 4": ({"zone": np.asarray(5)}, {}),
    "part kind: label 3, expected 0 to 2": ({}, {"kind": np.asarray(3)}),
    "part box: a target with NaN or infinite values": ({}, {"box": np.full((2, 2), np.nan, np.float32)}),
    "part marks: a target with values outside 0 to 1": ({}, {"marks": np.array([0, 1, 2, 0], np.uint8)}),
}


@pytest.mark.parametrize("reason", VALUES)
@pytest.mark.parametrize("name", ["raw", "npy", "safetensors", "arrow", "avro"])
def test_values_that_cannot_be_are_rejected_on_arrival_with_the_part(name, reason):
    x, y = VALUES[reason]
    codec, good, told = codec_of(name), row(), row(TARGET.layout)
    values = [codec.encode(row(**x), row(TARGET.layout, **y))[1], codec.encode(good, told)[1]]
    decoded = codec.decode(values, [None] * 2)
    assert decoded.kept.tolist() == [0, 1]
    inspector = Inspector((LAYOUT.nbytes,), torch.uint8, target=TARGET, layout=LAYOUT)
    kept, rejected = inspector.split(Records(np.arange(2), np.zeros(2), decoded.x, decoded.y))
    assert [(record.offset, record.reason) for record in rejected] == [(0, reason)]
    assert (kept.offsets.tolist(), torch.equal(kept.x[0], good)) == ([1], True)


def test_pictures_have_one_part():
    with pytest.raises(ConfigError, match="a picture is one part, and samples have the parts picture, telemetry"):
        codec_of("image", TARGETS["label"])


@pytest.mark.parametrize("more", [{"shape": (4,)}, {"dtype": "uint8"}])
def test_a_shape_in_the_settings_is_none_of_parts(more):
    with pytest.raises(ConfigError, match="samples of the data set have the parts picture, telemetry, zone, on"):
        codec_of("raw", **more)


def read(value, key):
    """A function of the user's."""
    tensors = load(value)
    x = {name.removeprefix("x."): part for name, part in tensors.items() if name.startswith("x.")}
    return x, {name.removeprefix("y."): part for name, part in tensors.items() if name.startswith("y.")}


class Own(Codec):
    """A codec of the user's: parts as they are."""

    def __init__(self, sample):
        self.names = sample.layout.names

    def decode(self, values, keys):
        found = [read(value, None) for value in values]
        x, y = ({name: torch.stack([pair[i][name] for pair in found]) for name in found[0][i]} for i in (0, 1))
        return Decoded(x, y, np.arange(len(values)), [])

    def encode(self, x, y):
        assert list(x) == list(self.names)
        named = {f"x.{name}": part.contiguous() for name, part in x.items()}
        return None, save(named | {f"y.{name}": part.contiguous() for name, part in y.items()})


@pytest.fixture
def own(monkeypatch):
    monkeypatch.setattr(
        "scadles.streams.codec.formats.import_callable",
        lambda setting, name, known: {"m:read": read, "m:Own": Own}[name],
    )


@pytest.mark.parametrize("name", ["m:read", "m:Own"])
def test_a_users_own_codec_gives_parts_and_is_given_them(own, name):
    codec, x, y = codec_of(name), row(), row(TARGET.layout)
    value = codec_of("m:Own").encode(x, y)[1]
    decoded = codec.decode([value, value[:9], tensors(**{"x.zone": None}), b""], [None] * 4)
    assert torch.equal(decoded.x, x[None])
    assert torch.equal(decoded.y, y[None])
    assert [i for i, _ in decoded.rejected] == [1, 2, 3]
    assert "part zone is missing" in decoded.rejected[1][1] or name == "m:Own"


SCHEMA = {
    "type": "record",
    "name": "Reading",
    "fields": [
        {"name": "at", "type": "double"},
        {"name": "x", "type": {"type": "map", "values": {"type": "array", "items": "float"}}},
        {"name": "y", "type": ["null", "int"]},
    ],
}


def avro(**record):
    fastavro = pytest.importorskip("fastavro")
    file = io.BytesIO()
    fastavro.schemaless_writer(file, fastavro.parse_schema(SCHEMA), {"at": 1.0} | record)
    return file.getvalue()


def test_records_of_a_schema_of_the_senders():
    layout = Layout([Part("power", (2,), torch.float32), Part("wind", (1,), torch.float32)])
    codec = codec_of("avro", TARGETS["label"], layout, avro_schema=SCHEMA)
    good = {"power": [1.0, 2.0], "wind": [3.0]}
    values = [
        avro(x=good, y=4),
        avro(x=good, y=None),
        avro(x={"power": [1.0, 2.0]}, y=1),
        avro(x=good | {"wind": []}, y=1),
    ]
    values += [values[0] + b"!", values[0][:-3]]
    decoded = codec.decode(values, [None] * 6)
    assert {name: x.tolist() for name, x in layout.unpack(decoded.x).items()} == {"power": [[1, 2]], "wind": [[3]]}
    assert decoded.y.tolist() == [4]
    assert [reason for _, reason in decoded.rejected] == [
        "the label is no integer",
        "part wind is missing",
        "part wind: shape [0], expected [1]",
        "1 bytes behind the record",
        "no record of the schema (EOFError)",
    ]


@pytest.mark.parametrize(
    ("schema", "wrong"),
    [
        ({"type": "string"}, "expected a record with the fields x and y"),
        ({"type": "record", "name": "A", "fields": [{"name": "x", "type": "bytes"}]}, "the fields x and y"),
        (
            {"type": "record", "name": "A", "fields": [{"name": n, "type": "pixels"} for n in "xy"]},
            "is no schema of Avro",
        ),
    ],
)
def test_a_schema_that_is_none_is_refused(schema, wrong):
    with pytest.raises(ConfigError, match=wrong):
        codec_of("avro", avro_schema=schema)


def arrow(columns, rows=1, batches=1, compression=None):
    pa = pytest.importorskip("pyarrow")
    file = io.BytesIO()
    batch = pa.record_batch({name: pa.array([x] * rows, kind) for name, (x, kind) in columns.items()})
    with pa.ipc.new_stream(file, batch.schema, options=pa.ipc.IpcWriteOptions(compression=compression)) as stream:
        for _ in range(batches):
            stream.write_batch(batch)
    return file.getvalue()


def test_record_batches_of_a_senders():
    pa = pytest.importorskip("pyarrow")
    layout = Layout([Part("power", (2, 2), torch.float32), Part("wind", (1,), torch.int16)])
    codec = codec_of("arrow", TARGETS["label"], layout)
    kind = pa.struct({"power": pa.list_(pa.list_(pa.float64())), "wind": pa.list_(pa.int64(), 1)})
    flat = pa.struct({"power": pa.list_(pa.float32()), "wind": pa.list_(pa.int8())})
    good = {"power": [[1, 2], [3, 4]], "wind": [5]}
    columns = {"at": ("noon", pa.string()), "x": (good, kind), "y": (4, pa.uint8())}
    values = [
        arrow(columns),
        arrow(columns | {"x": (good | {"power": [1.0, 2.0, 3.0, 4.0]}, flat)}),
        arrow(columns | {"x": (good | {"power": [[1, 2], [3]]}, kind)}),
        arrow(columns | {"x": (good | {"wind": [40_000]}, kind)}),
        arrow(columns | {"x": ({"power": None, "wind": [5]}, kind)}),
        arrow(columns | {"y": (None, pa.int64())}),
        arrow({"x": (good, kind)}),
        arrow(columns, rows=2),
        arrow(columns, batches=2),
        arrow(columns, compression="zstd"),
        arrow(columns | {"at": ("noon", pa.dictionary(pa.int8(), pa.string()))}),
        arrow(columns)[:-40],
    ]
    decoded = codec.decode(values, [None] * len(values))
    assert (decoded.kept.tolist(), decoded.y.tolist()) == ([0, 1], [4, 4])
    found = layout.unpack(decoded.x)
    assert found["power"].tolist() == [[[1, 2], [3, 4]]] * 2
    assert found["wind"].tolist() == [[5]] * 2
    assert [reason for _, reason in decoded.rejected] == [
        "part power is no array of numbers",
        "part wind holds a number that does not fit int16",
        "part power holds nothing",
        "y holds nothing",
        "there is no column y",
        "2 rows, expected 1",
        "no schema and one record batch",
        "a compressed record batch",
        "no schema and one record batch",
        "no stream of Arrow's (OSError)",
    ]


def test_tensors_and_bytes_of_arrow_are_numbers():
    pa = pytest.importorskip("pyarrow")
    codec = make_codec(CodecConfig(format="arrow"), (2, 2), torch.float32, target=TargetType.none())
    numbers = np.arange(4, dtype="<f4").reshape(1, 2, 2)
    file = io.BytesIO()
    batch = pa.record_batch({"x": pa.FixedShapeTensorArray.from_numpy_ndarray(numbers)})
    with pa.ipc.new_stream(file, batch.schema) as stream:
        stream.write_batch(batch)
    decoded = codec.decode([file.getvalue(), arrow({"x": (numbers.tobytes(), pa.binary())})], [None] * 2)
    assert decoded.x.tolist() == [numbers[0].tolist()] * 2
    short = codec.decode([arrow({"x": (numbers.tobytes()[1:], pa.binary())})], [None])
    assert short.rejected == [(0, "x: 15 bytes, expected 16")]
