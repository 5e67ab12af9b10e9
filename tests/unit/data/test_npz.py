import numpy as np
import pytest
import torch

from scadles.data import load_dataset, load_npz
from scadles.errors import DataError


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


def test_pictures(saved):
    path = saved()
    data = load_dataset(f"npz:{path}", root=None, classes=2, shape=(1, 1, 1), test_samples=1, seed=0)
    assert (data.classes, data.shape, data.train_size, data.dtype) == (4, (3, 8, 8), 12, torch.uint8)
    np.testing.assert_array_equal(data.samples(np.array([5, 2]))[0], arrays()["train_x"][[5, 2]])
    np.testing.assert_array_equal(data.test()[1], arrays()["test_y"])


def test_one_channel_may_be_left_out_and_floating_samples_become_float32(saved):
    x = np.random.default_rng(0).random((12, 5, 6))
    data = load_npz(saved(train_x=x, test_x=x[:4]))
    assert data.shape == (1, 5, 6)
    assert data.dtype == torch.float32


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
        ({"train_x": np.zeros((12, 8), np.uint8)}, r"train_x: found uint8 \[12, 8\], expected uint8 or floating"),
        ({"train_x": np.zeros((12, 3, 8, 8), np.int64)}, r"train_x: found int64"),
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
