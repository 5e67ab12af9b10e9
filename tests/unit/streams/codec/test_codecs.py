import base64
import io
import json
import re
import tracemalloc
import zlib

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from PIL import Image
from safetensors.torch import save

from scadles.config import CodecConfig
from scadles.errors import ConfigError
from scadles.streams.codec import Codec, Decoded, make_codec
from scadles.targets import TargetType

SHAPE = (3, 4, 5)
DTYPES = ("uint8", "int16", "int64", "float16", "float32", "float64")
FORMATS = ("raw", "npy", "safetensors", "json", "image")
LABELS = ({"label": "key"}, {"label": "first-bytes"}, {"label": "first-bytes", "label_bytes": 4})
MAX_BYTES = 20_000
LIBRARIES = {"arrow": "pyarrow", "avro": "fastavro"}


def codec_of(name="raw", dtype="uint8", shape=SHAPE, **more):
    config = CodecConfig(format=name, max_bytes=MAX_BYTES, **more)
    return make_codec(config, shape, getattr(torch, dtype), classes=10)


def sample(dtype="uint8", shape=SHAPE, seed=0):
    generator = torch.Generator().manual_seed(seed)
    if dtype.startswith("float"):
        return torch.randn(shape, generator=generator).to(getattr(torch, dtype))
    return torch.randint(0, 100, shape, generator=generator).to(getattr(torch, dtype))


def reasons(decoded):
    return [reason for _, reason in decoded.rejected]


@pytest.mark.parametrize("labels", LABELS, ids=lambda labels: "-".join(map(str, labels.values())))
@pytest.mark.parametrize(
    ("name", "dtype"),
    [(name, dtype) for name in FORMATS for dtype in DTYPES if name != "image" or dtype == "uint8"],
)
def test_what_is_written_is_read(name, dtype, labels):
    codec = codec_of(name, dtype, **labels)
    samples = [sample(dtype, seed=seed) for seed in range(5)]
    messages = [codec.encode(x, y) for y, x in enumerate(samples)]
    decoded = codec.decode([value for _, value in messages], [key for key, _ in messages])
    assert torch.equal(decoded.x, torch.stack(samples))
    assert decoded.x.dtype == samples[0].dtype
    assert decoded.y.tolist() == decoded.kept.tolist() == [0, 1, 2, 3, 4]
    assert decoded.y.dtype == torch.int64
    assert list(decoded.rejected) == []


TARGETS = {
    "numbers": TargetType.numbers((3,)),
    "one number": TargetType.numbers(()),
    "multi-hot": TargetType((4,), torch.uint8, 2),
    "label map": TargetType((2, 3), torch.int64, 900),
    "none": TargetType.none(),
}


def target_of(kind, seed=0):
    generator = torch.Generator().manual_seed(seed)
    if not kind.classes:
        return torch.randn(kind.shape, generator=generator)
    return torch.randint(0, kind.classes, kind.shape, generator=generator).to(kind.dtype)


def codec_with(name, target, dtype="float32", shape=(9, 16)):
    if name in LIBRARIES:
        pytest.importorskip(LIBRARIES[name])
    return make_codec(CodecConfig(format=name, max_bytes=MAX_BYTES), shape, getattr(torch, dtype), target=target)


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("name", ["raw", "npy", "safetensors", "json", "arrow", "avro"])
@pytest.mark.parametrize(("dtype", "shape"), [("float32", (9, 16)), ("int32", (20,)), ("bool", (5,)), ("float64", ())])
def test_samples_of_any_form_travel_with_any_target(name, target, dtype, shape):
    kind = TARGETS[target]
    codec = codec_with(name, kind, dtype, shape)
    x = [sample(dtype, shape, seed=seed) for seed in range(3)]
    y = [target_of(kind, seed) for seed in range(3)]
    messages = [codec.encode(*pair) for pair in zip(x, y, strict=True)]
    assert {key for key, _ in messages} == {None}
    decoded = codec.decode([value for _, value in messages] + [b"no message of this kind"], [None] * 4)
    assert torch.equal(decoded.x, torch.stack(x))
    assert torch.equal(decoded.y, torch.stack(y))
    assert decoded.y.dtype == kind.dtype
    assert [i for i, _ in decoded.rejected] == [3]


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("name", ["raw", "npy", "safetensors", "json", "arrow", "avro"])
@given(data=st.data())
@settings(max_examples=60, deadline=None)
def test_damaged_messages_with_any_target_are_kept_or_rejected_and_never_an_error(name, target, data):
    kind = TARGETS[target]
    codec = codec_with(name, kind, shape=(2, 3))
    damaged = bytearray(codec.encode(sample("float32", (2, 3)), target_of(kind))[1])
    for _ in range(data.draw(st.integers(1, 4))):
        damaged[data.draw(st.integers(0, len(damaged) - 1))] = data.draw(st.integers(0, 255))
    cut = bytes(damaged[: data.draw(st.integers(0, len(damaged)))])
    decoded = codec.decode([bytes(damaged), cut, None], [None] * 3)
    assert sorted([*decoded.kept.tolist(), *(i for i, _ in decoded.rejected)]) == [0, 1, 2]
    assert tuple(decoded.y.shape) == (len(decoded.kept), *kind.shape)
    assert decoded.y.dtype == kind.dtype


def test_a_target_of_another_form_is_rejected_with_what_was_expected():
    x, numbers = torch.zeros(2, 3), TargetType.numbers((3,))
    codec, pixels = codec_with("safetensors", numbers, shape=(2, 3)), TargetType((3,), torch.uint8, 4)
    values = [save({"x": x, "y": torch.ones(2)}), save({"x": x, "y": torch.ones(3, dtype=torch.int32)}), save({"x": x})]
    assert reasons(codec.decode(values, [None] * 3)) == [
        "target of shape [2], expected [3]",
        "target of dtype int32, expected float32",
        "there is no tensor y",
    ]
    codec = codec_with("safetensors", pixels, shape=(2, 3))
    assert reasons(codec.decode([save({"x": x, "y": torch.tensor([1, 2, 300])})], [None])) == [
        "a target with values outside 0 to 3"
    ]
    codec = codec_with("json", numbers, shape=(2, 3))
    values = [json.dumps({"x": x.tolist(), "y": y}).encode() for y in ([1, 2], [1, 2, "3"], 7)]
    assert reasons(codec.decode([*values, b'{"x": 1}'], [None] * 4)) == [
        "y is no list in the shape [3]",
        "y holds something else than numbers",
        "y is no list in the shape [3]",
        'no object with "x" and "y"',
    ]
    codec = codec_with("npy", numbers, shape=(2, 3))
    value = codec.encode(x, torch.ones(3))[1]
    assert reasons(codec.decode([value[:-4], value[:5]], [None] * 2)) == [
        "8 bytes of numbers, which is not what the header says",
        "no array in numpy's format",
    ]
    with pytest.raises(ConfigError, match=r"target of shape \[2\], expected \[3\]"):
        codec.encode(x, torch.ones(2))


def test_numpy_reads_and_writes_sample_and_target_as_two_arrays():
    codec = codec_with("npy", TargetType.numbers(()), shape=(2, 3))
    file = io.BytesIO()
    np.save(file, np.ones((2, 3)))
    np.save(file, np.float64(2.5))
    decoded = codec.decode([file.getvalue()], [None])
    assert (decoded.x.tolist(), decoded.y.tolist()) == ([[[1.0] * 3] * 2], [2.5])
    written = io.BytesIO(codec.encode(torch.zeros(2, 3), torch.tensor(7.0))[1])
    assert (np.load(written).shape, float(np.load(written))) == ((2, 3), 7.0)


def test_pictures_may_have_no_target_and_no_numbers():
    without = make_codec(CodecConfig(format="image"), (1, 4, 5), torch.uint8, target=TargetType.none())
    picture = sample(shape=(1, 4, 5))
    decoded = without.decode([without.encode(picture, torch.empty(0))[1]], [None])
    assert torch.equal(decoded.x[0], picture)
    assert tuple(decoded.y.shape) == (1, 0)
    with pytest.raises(ConfigError, match=r"no place for float32 targets of shape \[2\]; use raw"):
        make_codec(CodecConfig(format="image"), (1, 4, 5), torch.uint8, target=TargetType.numbers((2,)))


def test_only_labels_can_be_first_bytes():
    config = CodecConfig(label="first-bytes")
    with pytest.raises(
        ConfigError, match=r"first-bytes: this stream has no targets, and no class labels; leave it out"
    ):
        make_codec(config, (2,), torch.uint8, target=TargetType.none())


@pytest.mark.parametrize("name", FORMATS)
def test_nothing_is_no_samples_of_the_right_shape(name):
    x, y, kept, rejected = codec_of(name).decode([], [])
    assert tuple(x.shape) == (0, *SHAPE)
    assert x.dtype == torch.uint8
    assert len(y) == len(kept) == len(rejected) == 0


@given(
    st.sampled_from([name for name in FORMATS if name != "image"]),
    arrays(np.float32, SHAPE, elements=st.floats(width=32, allow_nan=False)),
    st.integers(0, 255),
)
@settings(max_examples=100, deadline=None)
def test_any_float_survives_the_way(name, x, y):
    codec = codec_of(name, "float32", label="first-bytes")
    key, value = codec.encode(torch.from_numpy(x), y)
    decoded = codec.decode([value], [key])
    assert torch.equal(decoded.x[0], torch.from_numpy(x))
    assert decoded.y.tolist() == [y]


@pytest.mark.parametrize("name", FORMATS)
@given(st.lists(st.one_of(st.none(), st.binary(max_size=300)), max_size=5), st.data())
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_arbitrary_bytes_are_kept_or_rejected_and_never_an_error(name, values, data):
    codec = codec_of(name)
    keys = [data.draw(st.one_of(st.none(), st.binary(max_size=20))) for _ in values]
    check_complete(codec.decode(values, keys), len(values))


@pytest.mark.parametrize("labels", LABELS[:2], ids=lambda labels: labels["label"])
@pytest.mark.parametrize("name", FORMATS)
@given(data=st.data())
@settings(max_examples=100, deadline=None)
def test_damaged_messages_are_kept_or_rejected_and_never_an_error(name, labels, data):
    codec = codec_of(name, **labels)
    key, value = codec.encode(sample(), 3)
    damaged = bytearray(value)
    for _ in range(data.draw(st.integers(1, 4))):
        damaged[data.draw(st.integers(0, len(damaged) - 1))] = data.draw(st.integers(0, 255))
    cut = bytes(damaged[: data.draw(st.integers(0, len(damaged)))])
    decoded = codec.decode([value, bytes(damaged), cut], [key] * 3)
    check_complete(decoded, 3)
    assert 0 in decoded.kept
    assert torch.equal(decoded.x[0], sample())


def check_complete(decoded, count):
    everybody = [*decoded.kept.tolist(), *(i for i, _ in decoded.rejected)]
    assert sorted(everybody) == list(range(count))
    assert decoded.kept.tolist() == sorted(decoded.kept.tolist())
    assert tuple(decoded.x.shape) == (len(decoded.kept), *SHAPE)
    assert len(decoded.y) == len(decoded.kept)
    assert decoded.y.dtype == torch.int64
    assert all(reasons(decoded))


def test_good_messages_between_bad_ones_keep_their_places():
    codec = codec_of(label="key")
    (key, good), wrong = codec.encode(sample(), 7), b"x" * 10
    decoded = codec.decode([wrong, good, None, good, good], [key, key, key, None, b"8"])
    assert decoded.kept.tolist() == [1, 4]
    assert decoded.y.tolist() == [7, 8]
    assert list(decoded.rejected) == [
        (0, "10 bytes, expected 60"),
        (2, "no value"),
        (3, "no key, which should be the label"),
    ]


@pytest.mark.parametrize("key", [b"", b"-1", b" 1", b"1.0", b"\xff", b"9" * 30, "٣".encode()])
def test_a_key_that_is_no_number_is_rejected(key):
    codec = codec_of()
    _, value = codec.encode(sample(), 0)
    assert "no label in decimal digits" in reasons(codec.decode([value], [key]))[0]


def test_a_label_beyond_the_classes_is_left_to_the_inspection():
    codec = codec_of()
    _, value = codec.encode(sample(), 0)
    assert codec.decode([value], [b"123456"]).y.tolist() == [123456]


@pytest.mark.parametrize("name", ["raw", "npy", "image"])
def test_labels_that_do_not_fit_are_refused(name):
    with pytest.raises(ConfigError, match="label 300 does not fit"):
        codec_of(name, label="first-bytes").encode(sample(), 300)


@pytest.mark.parametrize("name", FORMATS)
def test_samples_that_do_not_fit_are_refused(name):
    with pytest.raises(ConfigError, match=r"shape \[4\] and dtype uint8 does not fit"):
        codec_of(name).encode(torch.zeros(4, dtype=torch.uint8), 0)


@pytest.mark.parametrize("name", ["npy", "safetensors", "json", "image"])
def test_a_message_that_is_too_long_is_not_looked_at(name):
    decoded = codec_of(name).decode([b"\x00" * (MAX_BYTES + 1)], [b"1"])
    assert reasons(decoded) == ["20,001 bytes, at most 20,000 are allowed"]


def numpy_file(array, **more):
    file = io.BytesIO()
    np.lib.format.write_array(file, array, **more)
    return file.getvalue()


@pytest.mark.parametrize(
    "array",
    [
        np.asfortranarray(np.arange(60, dtype=np.float32).reshape(SHAPE)),
        np.arange(60, dtype=">f4").reshape(SHAPE),
        np.arange(60, dtype=np.float64).reshape(SHAPE),
    ],
    ids=["fortran", "big-endian", "float64"],
)
@pytest.mark.parametrize("version", [(1, 0), (2, 0), (3, 0)])
def test_whatever_numpy_writes_of_plain_numbers_is_read(array, version):
    decoded = codec_of("npy", "float32").decode([numpy_file(array, version=version)], [b"1"])
    assert torch.equal(decoded.x[0], torch.arange(60.0).reshape(SHAPE))


def test_what_is_written_as_npy_is_what_numpy_writes():
    for shape in ((60,), (3, 4, 5), (1, 1)):
        codec = codec_of("npy", "float32", shape=shape)
        x = sample("float32", shape)
        assert codec.encode(x, 0)[1] == numpy_file(x.numpy())


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        (numpy_file(np.array([{}], dtype=object), allow_pickle=True), "says anything but plain numbers"),
        (numpy_file(np.zeros(3, dtype=[("a", "u1")])), "says anything but plain numbers"),
        (numpy_file(np.zeros((4, 5), np.uint8)), "shape [4, 5], expected [3, 4, 5]"),
        (numpy_file(np.zeros(SHAPE, np.float32)), "dtype float32, expected uint8"),
        (numpy_file(np.zeros(SHAPE, np.uint8))[:-1], "59 bytes of numbers, expected 60"),
        (numpy_file(np.zeros(SHAPE, np.int8))[:-1], "59 bytes of numbers, which is not what the header says"),
    ],
)
def test_arrays_that_are_not_wanted(value, reason):
    assert reason in reasons(codec_of("npy").decode([value], [b"1"]))[0]


def test_json_without_a_target_is_an_object_all_the_same():
    codec = make_codec(CodecConfig(format="json"), (2,), torch.float32, target=TargetType.none())
    assert reasons(codec.decode([b"[1.0, 2.0]"], [b"id"])) == ['no object with "x": {"x": [...]}']


@pytest.mark.parametrize(
    ("message", "reason"),
    [
        (b"", "no JSON: Expecting value"),
        (b'{"x": secret}', "no JSON: Expecting value"),
        (b"\xff\xfe\xff", "no text in UTF-8"),
        (b"[1, 2]", 'no object with "x" and "y"'),
        ({"x": [[1]], "y": 1}, "x is no list in the shape [3, 4, 5]"),
        ({"x": np.full(SHAPE, 0.5).tolist(), "y": 1}, "something else than whole numbers"),
        ({"x": np.full(SHAPE, "1").tolist(), "y": 1}, "something else than whole numbers"),
        ({"x": np.full(SHAPE, fill_value=True).tolist(), "y": 1}, "something else than whole numbers"),
        ({"x": np.full(SHAPE, 256).tolist(), "y": 1}, "does not fit uint8"),
        ({"x": [[[10**30] * 5] * 4] * 3, "y": 1}, "too large"),
        ({"x": np.full(SHAPE, 1).tolist(), "y": 1.5}, "the label is no integer"),
        ({"x": np.full(SHAPE, 1).tolist(), "y": 10**30}, "the label is no integer"),
        (b"[" * 10_000, "cannot be read: RecursionError"),
    ],
)
def test_json_that_is_not_wanted(message, reason):
    value = message if isinstance(message, bytes) else json.dumps(message).encode()
    assert reason in reasons(codec_of("json").decode([value], [None]))[0]


def test_numbers_that_are_not_finite_are_left_to_the_inspection():
    x = torch.full(SHAPE, float("nan"))
    for name in ("raw", "npy", "safetensors", "json"):
        codec = codec_of(name, "float32")
        key, value = codec.encode(x, 1)
        assert codec.decode([value], [key]).x.isnan().all(), name


@pytest.mark.parametrize(
    ("tensors", "reason"),
    [
        ({"x": sample()}, "no tensor y"),
        ({"x": sample(), "y": torch.tensor([1, 2])}, "the label is no integer"),
        ({"x": sample(), "y": torch.tensor(1.0)}, "the label is no integer"),
        ({"x": sample("int64"), "y": torch.tensor(1)}, "dtype int64, expected uint8"),
        ({"x": torch.zeros(2, dtype=torch.uint8), "y": torch.tensor(1)}, "shape [2], expected [3, 4, 5]"),
    ],
)
def test_tensors_that_are_not_wanted(tensors, reason):
    assert reason in reasons(codec_of("safetensors").decode([save(tensors)], [None]))[0]


def picture(mode, size=(5, 4), kind="PNG", colour=0):
    file = io.BytesIO()
    Image.new(mode, size, colour).save(file, format=kind)
    return file.getvalue()


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA"])
@pytest.mark.parametrize("channels", [1, 3, 4])
def test_pictures_are_converted_to_the_channels_wanted(mode, channels):
    decoded = codec_of("image", shape=(channels, 4, 5)).decode([picture(mode)], [b"1"])
    assert tuple(decoded.x.shape) == (1, channels, 4, 5)


def test_a_jpeg_is_nearly_what_it_was():
    decoded = codec_of("image").decode([picture("RGB", kind="JPEG", colour=(200, 100, 50))], [b"1"])
    assert (decoded.x[0].float().mean(dim=(1, 2)) - torch.tensor([200.0, 100, 50])).abs().max() < 4


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        (picture("RGB", (6, 4)), "6 x 4 pixels, expected 5 x 4"),
        (picture("I;16"), "more than 8 bits a channel"),
        (picture("RGB", kind="GIF"), "cannot be read"),
        (picture("RGB", (5, 4))[:-30], "cannot be read"),
    ],
)
def test_pictures_that_are_not_wanted(value, reason):
    assert reason in reasons(codec_of("image").decode([value], [b"1"]))[0]


def test_pictures_need_fitting_samples():
    with pytest.raises(ConfigError, match="image makes uint8 samples of 1, 3 or 4 channels"):
        codec_of("image", "float32")


def promising_png(width, height):
    """A PNG of a few bytes that promises many pixels, all black."""

    def chunk(name, data):
        return len(data).to_bytes(4, "big") + name + data + zlib.crc32(name + data).to_bytes(4, "big")

    size = width.to_bytes(4, "big") + height.to_bytes(4, "big")
    pixels = zlib.compress(b"\x00" * 1_000_000, 9)
    chunks = (chunk(b"IHDR", size + b"\x08\x02\x00\x00\x00"), chunk(b"IDAT", pixels), chunk(b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunks)


def promising_npy(shape):
    return numpy_file(np.zeros(1, np.uint8)).replace(b"(1,), }" + b" " * 20, f"{shape}, }}".ljust(27).encode())


def promising_safetensors(size):
    header = json.dumps({"x": {"dtype": "U8", "shape": [size], "data_offsets": [0, size]}}).encode()
    return len(header).to_bytes(8, "little") + header


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("image", promising_png(30_000, 30_000)),
        ("image", promising_png(12_000, 9_000)),
        ("npy", promising_npy((10**9, 10**5))),
        ("npy", b"\x93NUMPY\x02\x00\xff\xff\xff\xff" + b" " * 100),
        ("safetensors", promising_safetensors(10**14)),
        ("safetensors", (2**60).to_bytes(8, "little")),
        ("json", json.dumps({"x": ["a" * 9_000, *[""] * 2_000], "y": 0}).encode()),
        ("json", b'{"x": [' + b"[]," * 6_000 + b'[]], "y": 0}'),
    ],
    ids=["pixels", "many pixels", "shape", "header", "tensor", "long header", "text", "lists"],
)
def test_promises_take_no_memory(name, value):
    assert len(value) <= MAX_BYTES
    codec = codec_of(name)
    tracemalloc.start()
    try:
        decoded = codec.decode([value], [b"1"])
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert len(decoded.kept) == 0
    assert peak < 64 * MAX_BYTES


OWN_MODULE = """
import torch
from scadles.streams import Codec, Decoded

def read(value, key):
    if value == b"odd":
        raise KeyError("odd")
    return [float(part) for part in value.split()], int(key)

class Half(Codec):
    def __init__(self, sample):
        self.sample = sample
    def decode(self, values, keys):
        raise NotImplementedError
    def encode(self, x, y):
        return None, bytes(self.sample.shape)

class Other:
    def __init__(self, sample):
        pass

class Greedy(Half):
    def __init__(self, sample, more):
        pass

class Picky(Half):
    def decode(self, values, keys):
        if b"wrong" in values:
            return "what?"
        if b"flat" in values:
            return Decoded(torch.zeros(1), torch.tensor([0]), [0], [])
        if b"silent" in values:
            return Decoded(torch.zeros(0, 2), torch.tensor([], dtype=torch.int64), [], [])
        kept = [i for i, value in enumerate(values) if value != b"bad"]
        x = torch.tensor([[float(part) for part in values[i].split()] for i in kept]).reshape(-1, 2)
        bad = [(i, "bad") for i, value in enumerate(values) if value == b"bad"]
        return Decoded(x, torch.tensor([int(keys[i]) for i in kept]), kept, bad)
    def encode(self, x, y):
        return "key", bytes(1 // y)
"""


@pytest.fixture
def own_module(tmp_path, monkeypatch):
    (tmp_path / "own_format_of_a_test.py").write_text(OWN_MODULE)
    monkeypatch.syspath_prepend(tmp_path)
    return "own_format_of_a_test"


def test_a_function_of_the_users(own_module):
    codec = codec_of(f"{own_module}:read", "float32", shape=(2,))
    decoded = codec.decode([b"1 2", b"odd", b"1", b"3 4"], [b"5", b"5", b"5", None])
    assert decoded.x.tolist() == [[1.0, 2.0]]
    assert decoded.y.tolist() == [5]
    assert [reason.partition(":")[0] for reason in reasons(decoded)] == [
        "cannot be read",
        "shape [1], expected [2]",
        "cannot be read",
    ]
    assert "KeyError" in reasons(decoded)[0]
    with pytest.raises(ConfigError, match="is a function that reads"):
        codec.encode(torch.zeros(2), 0)


def test_a_codec_of_the_users(own_module):
    assert codec_of(f"{own_module}:Half").encode(sample(), 0) == (None, bytes(SHAPE))
    with pytest.raises(ConfigError, match="Other is no subclass of Codec"):
        codec_of(f"{own_module}:Other")


def test_a_codec_of_the_users_that_cannot_be_made_is_named(own_module):
    with pytest.raises(
        ConfigError, match=r"stream\.codec\.format = .*:Greedy' cannot be made: TypeError: .*'more'.*one arg"
    ):
        codec_of(f"{own_module}:Greedy")


def test_mistakes_of_a_codec_of_the_users_cost_single_messages(own_module):
    codec = codec_of(f"{own_module}:Picky", "float32", shape=(2,))
    good = codec.decode([b"1 2", b"bad", b"3 4"], [b"1", b"1", b"2"])
    assert (good.x.tolist(), good.y.tolist(), good.kept.tolist()) == ([[1, 2], [3, 4]], [1, 2], [0, 2])
    assert list(good.rejected) == [(1, "bad")]
    values = [b"1 2", b"x y", b"wrong", bytes(MAX_BYTES + 1), b"flat", b"silent", b"bad", None, b"3 4"]
    mixed = codec.decode(values, [b"1"] * 8 + [b"2"])
    assert (mixed.x.tolist(), mixed.y.tolist(), mixed.kept.tolist()) == ([[1, 2], [3, 4]], [1, 2], [0, 8])
    assert (mixed.x.dtype, mixed.y.dtype) == (torch.float32, torch.int64)
    assert [place for place, _ in mixed.rejected] == [1, 2, 3, 4, 5, 6, 7]
    told = reasons(mixed)
    assert re.fullmatch(r"cannot be read: ValueError \(.*own_format_of_a_test\.py, line \d+\)", told[0])
    assert told[1] == f"{own_module}:Picky returned str, not what Decoded says"
    assert told[2] == "20,001 bytes, at most 20,000 are allowed"
    assert told[3:6] == [
        "shape [] of 1, expected [2] of 1",
        f"{own_module}:Picky does not say of each message whether it is kept or rejected",
        "bad",
    ]
    assert "AttributeError" in told[6]
    assert codec.decode([bytes(MAX_BYTES + 1)], [b"1"]).x.shape == codec.decode([], []).x.shape == (0, 2)


def test_what_a_codec_of_the_users_cannot_write_is_said(own_module):
    codec = codec_of(f"{own_module}:Picky", "float32", shape=(2,))
    with pytest.raises(ConfigError, match="encode raised ZeroDivisionError"):
        codec.encode(torch.zeros(2), 0)
    with pytest.raises(ConfigError, match="encode returned str and bytes"):
        codec.encode(torch.zeros(2), 1)


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (
            {"name": "jpg"},
            "stream.codec.format 'jpg'; there are raw, npy, safetensors, json, arrow, avro, image, or write",
        ),
        ({"codec_shape": (4, 5)}, r"stream.codec.shape = \[4, 5\]: samples of the data set"),
        ({"codec_dtype": "float32"}, "stream.codec.dtype = float32: samples of the data set"),
        ({"shape": (300, 300)}, "stream.codec.max_bytes = 20000: a sample has 90000 bytes"),
    ],
)
def test_settings_that_cannot_work(more, message):
    config = {key.removeprefix("codec_"): more.pop(key) for key in ("codec_shape", "codec_dtype") if key in more}
    name, shape = more.pop("name", "raw"), more.pop("shape", SHAPE)
    with pytest.raises(ConfigError, match=message):
        make_codec(CodecConfig(format=name, max_bytes=MAX_BYTES, **config), shape, torch.uint8, classes=10)


def test_the_names_that_other_people_need():
    from scadles import streams

    assert (streams.Codec, streams.Decoded) == (Codec, Decoded)


@given(st.binary(min_size=12, max_size=40), st.sampled_from(["raw", "npy", "safetensors", "json", "image"]))
def test_reasons_hold_no_bytes_of_the_sender(noise, name):
    text = base64.b16encode(noise)
    values = [
        text,
        b'{"x": ' + text,
        b'{"' + text + b'": 1}',
        len(text).to_bytes(8, "little") + text,
        b"\x93NUMPY" + text,
    ]
    for reason in reasons(codec_of(name).decode(values, [text] * len(values))):
        assert text.decode() not in reason
        assert text[:8].decode() not in reason
        assert len(reason) < 200
