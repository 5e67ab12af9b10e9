import numpy as np
import pytest
import torch

from scadles.data import load_dataset, load_npz
from scadles.errors import DataError
from scadles.targets import TargetType


def arrays(**changed):
    generator = np.random.default_rng(0)
    good = {
        "train_x": generator.integers(0, 256, (12, 3, 8, 8)).astype(np.uint8),
        "train_y": np.arange(12) % 4,
        "test_x": generator.integers(0, 256, (4, 3, 8, 8)).astype(np.uint8),
        "test_y": np.arange(4),
    }
    return {name: value for name, value in (good | changed).items() if value is not None}


@pytest.fixture
def saved(tmp_path):
    def save(**changed):
        np.savez(tmp_path / "data.npz", **arrays(**changed))
        return tmp_path / "data.npz"

    return save


@pytest.mark.parametrize("targets", ["labels", "any"])
def test_a_file_without_a_test_part(tmp_path, targets):
    x = np.arange(40).reshape(20, 2)
    path = tmp_path / "streams.npz"
    np.savez(path, train_x=x, **({"train_y": np.arange(20) % 3} if targets == "labels" else {}))
    data = load_npz(path, targets, tests=False)
    assert (data.train_size, len(data.test()[0]), data.vocabulary) == (20, 0, 40)
    with pytest.raises(DataError, match=r"no array test_x.*"):
        load_npz(path, targets)


def test_pictures(saved):
    path = saved()
    data = load_dataset(f"npz:{path}", root=None, classes=2, shape=(1, 1, 1), test_samples=1, seed=0)
    assert (data.classes, data.shape, data.train_size, data.dtype) == (4, (3, 8, 8), 12, torch.uint8)
    np.testing.assert_array_equal(data.samples(np.array([5, 2]))[0], arrays()["train_x"][[5, 2]])
    np.testing.assert_array_equal(data.test()[1], arrays()["test_y"])


def test_pictures_may_leave_out_their_one_channel(saved):
    x = arrays()["train_x"][:, 0]
    assert load_npz(saved(train_x=x, test_x=x[:4])).shape == (1, 8, 8)


@pytest.mark.parametrize(
    ("shape", "axes"),
    [((), (0,)), ((5,), (0,)), ((3, 7), (0, 2)), ((2, 4, 5), (0, 2, 3)), ((2, 3, 4, 5), (0, 2, 3, 4))],
    ids=["numbers", "tables", "windows", "pictures", "volumes"],
)
def test_floating_samples_become_float32_normalised_by_feature_or_channel(saved, shape, axes):
    x = np.random.default_rng(0).normal(3.0, 2.0, (12, *shape))
    x[(slice(None), *((0,) if shape else ()))] *= 5
    path = saved(train_x=x, test_x=x[:4])
    data = load_npz(path)
    assert (data.shape, data.dtype) == (shape, torch.float32)
    prepared = data.prepare(data.samples(np.arange(12))[0])
    assert prepared.dtype == torch.float32
    expected = (x - x.mean(axis=axes, keepdims=True)) / x.std(axis=axes, keepdims=True)
    np.testing.assert_allclose(prepared, expected, rtol=1e-4, atol=1e-5)
    plain = load_npz(path, normalize=False)
    np.testing.assert_allclose(plain.prepare(plain.test()[0]), x[:4], rtol=1e-6)


@pytest.mark.parametrize(
    ("stored", "held", "given", "vocabulary"),
    [
        ("int8", "int8", "int64", 30),
        ("int16", "int16", "int64", 30),
        ("uint16", "int32", "int64", 30),
        ("uint64", "int64", "int64", 30),
        (">i4", "int32", "int64", 30),
        ("bool", "bool", "float32", None),
        ("float16", "float32", "float32", None),
    ],
)
def test_other_numbers_are_not_normalised_and_integers_are_identifiers(saved, stored, held, given, vocabulary):
    x = np.arange(12 * 5).reshape(12, 5) % 30
    data = load_npz(saved(train_x=x.astype(stored), test_x=x[:4].astype(stored)), normalize=False)
    assert (str(data.dtype), data.vocabulary) == (f"torch.{held}", vocabulary)
    prepared = data.prepare(data.test()[0])
    assert str(prepared.dtype) == f"torch.{given}"
    np.testing.assert_array_equal(prepared, x[:4].astype(stored).astype(given))


def test_there_is_no_vocabulary_below_zero(saved):
    x = np.arange(-6, 6)[:, None]
    assert load_npz(saved(train_x=x, test_x=x[:4])).vocabulary is None


@pytest.mark.parametrize(
    ("targets", "train_y", "expected"),
    [
        ("labels", np.arange(12) % 4, TargetType.label(4)),
        ("any", np.arange(12) % 4, TargetType.label(4)),
        ("numbers", np.arange(12) % 4, TargetType.numbers(())),
        ("any", np.arange(12) - 3, TargetType.numbers(())),
        ("any", np.ones((12, 2)), TargetType.numbers((2,))),
        ("any", None, TargetType.none()),
        ("multi-hot", np.eye(12, 5, dtype=bool), TargetType((5,), torch.uint8, 2)),
        ("label-map", np.arange(48).reshape(12, 2, 2) % 7, TargetType((2, 2), torch.uint8, 7)),
    ],
)
def test_targets_are_what_a_task_wants(saved, targets, train_y, expected):
    test_y = None if train_y is None else train_y[:4]
    data = load_npz(saved(train_y=train_y, test_y=test_y), targets)
    assert data.target == expected
    assert data.classes == expected.classes
    y = data.test()[1]
    assert (tuple(y.shape), y.dtype) == ((4, *expected.shape), expected.dtype)
    if test_y is not None:
        np.testing.assert_array_equal(y, test_y)


@pytest.mark.parametrize(
    ("targets", "changed", "message"),
    [
        ("numbers", {"train_y": np.ones(11)}, r"train_y: found float64 \[11\], expected numbers \[12, ...\]"),
        (
            "numbers",
            {"test_y": np.ones((4, 2))},
            r"test_y: found float64 \[4, 2\], expected the form of train_y, int64",
        ),
        ("numbers", {"test_y": np.full(4, np.nan)}, r"test_y: found NaN"),
        ("multi-hot", {"train_y": np.arange(12)}, r"expected 0 and 1 for each label, \[12, labels\]"),
        (
            "multi-hot",
            {"train_y": np.full((12, 2), 2), "test_y": np.ones((4, 2), int)},
            r"train_y: found values 2 to 2, expected 0 and 1",
        ),
        ("label-map", {"train_y": np.full((12, 2, 2), -1)}, r"train_y: found label -1, expected integer labels from 0"),
        ("any", {"train_y": None}, r"train_y: found nothing, expected numbers"),
    ],
)
def test_targets_that_a_task_cannot_read(saved, targets, changed, message):
    with pytest.raises(DataError, match=message):
        load_npz(saved(**changed), targets)


def test_training_samples_may_be_nan(saved):
    x = np.ones((12, 1, 2, 2), dtype=np.float32)
    x[3] = np.nan
    data = load_npz(saved(train_x=x, test_x=x[4:8]))
    assert torch.isnan(data.samples(np.array([3]))[0]).all()
    assert torch.isfinite(data.prepare(data.test()[0])).all()


FLOATS = np.ones((4, 3, 8, 8), dtype=np.float32)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"test_y": None}, r"no array test_y; found train_x, train_y, test_x, expected train_x, train_y, test_x"),
        (
            {"train_x": np.zeros(12, "U3")},
            r"train_x: found <U3 \[12\], expected numbers \[n, ...\], n at least 1: tables",
        ),
        ({"train_x": np.zeros((12, 8), complex)}, r"train_x: found complex128 .*two channels: np.stack"),
        (
            {"train_x": np.full(12, 2**63, np.uint64)},
            r"train_x: found the number 9223372036854775808, expected .*int64",
        ),
        ({"train_x": np.zeros((0, 3, 8, 8), np.uint8)}, r"train_x: found uint8 \[0, 3, 8, 8\]"),
        ({"train_x": np.zeros((12, 8, 8, 3), np.uint8)}, r"train_x: .*channels last.*transpose\(0, 3, 1, 2\)"),
        ({"train_x": np.array([None] * 12)}, r"train_x: found an array that cannot be read"),
        ({"train_y": np.arange(11)}, r"train_y: found int64 \[11\], expected integer labels \[12\]"),
        ({"train_y": np.arange(12.0)}, r"train_y: found float64 \[12\]"),
        ({"train_y": np.arange(12) - 1}, r"train_y: found label -1"),
        ({"train_y": np.arange(12) * 10}, r"train_y: found labels up to 110 with 12 training samples"),
        ({"train_y": np.zeros(12, int), "test_y": np.zeros(4, int)}, r"labels up to 0"),
        ({"test_y": np.array([0, 1, 2, 2**40])}, r"test_y: found label 1099511627776"),
        ({"test_y": np.array([0, 1, 2, 99])}, r"test_y: found labels up to 99"),
        ({"test_x": np.zeros((4, 1, 8, 8), np.uint8)}, r"test_x: found uint8 \[4, 1, 8, 8\], expected the form"),
        ({"test_x": FLOATS}, r"test_x: found float32 .*expected the form of train_x, uint8"),
        ({"train_x": np.ones((12, 3, 8, 8)), "test_x": FLOATS * np.nan}, r"test_x: found NaN"),
    ],
)
def test_wrong_arrays(saved, changed, message):
    path = saved(**changed)
    with pytest.raises(DataError, match=message) as caught:
        load_npz(path)
    assert str(path) in str(caught.value)


def test_no_such_file(tmp_path):
    with pytest.raises(DataError, match="No such file"):
        load_npz(tmp_path / "none.npz")
    with pytest.raises(DataError, match="cannot read"):
        load_npz(tmp_path)


def test_not_a_file_of_arrays(tmp_path):
    text, single, empty = tmp_path / "text.npz", tmp_path / "single.npz", tmp_path / "empty.npz"
    text.write_text("hello")
    empty.write_bytes(b"")
    with single.open("wb") as file:
        np.save(file, np.zeros(3))
    for path, message in ((text, "not a file of arrays"), (single, "single array"), (empty, "not a file of arrays")):
        with pytest.raises(DataError, match=message):
            load_npz(path)


def test_a_torn_file(saved):
    path = saved()
    whole = path.read_bytes()
    for keep in (len(whole) // 2, len(whole) - 10):
        path.write_bytes(whole[:keep])
        with pytest.raises(DataError, match=r"data\.npz"):
            load_npz(path)
    path.write_bytes(whole[:900] + b"\x00\xff" * 50 + whole[1000:])
    with pytest.raises(DataError, match=r"data\.npz: train_x: found an array that cannot be read"):
        load_npz(path)
