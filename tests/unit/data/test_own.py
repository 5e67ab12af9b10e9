import numpy as np
import pytest
import torch
from torch.utils.data import Dataset, TensorDataset

from scadles.data import load_dataset
from scadles.errors import ConfigError, DataError
from scadles.targets import TargetType

X = np.random.default_rng(0).normal(size=(20, 3, 5)).astype(np.float32)
Y = np.arange(20) % 4


class Items(Dataset):
    def __init__(self, *columns):
        self._columns = columns

    def __len__(self):
        return len(self._columns[0])

    def __getitem__(self, i):
        item = tuple(column[i] for column in self._columns)
        return item if len(item) > 1 else item[0]


class Windows(Dataset):
    """Two inputs and a target of two parts."""

    def __init__(self, count):
        self._count = count

    def __len__(self):
        return self._count

    def __getitem__(self, i):
        sample = {"picture": np.full((1, 2, 2), i, dtype=np.uint8), "speed": torch.tensor([0.5 * i])}
        return sample, {"kind": i % 3, "place": np.array([i, -i], dtype=np.float32)}


@pytest.fixture
def load(monkeypatch, tmp_path):
    """Load what a function returns: ``load(function, **more)``."""
    (tmp_path / "sets_of_the_test.py").write_text("def made(root, seed):\n    return function(root, seed)\n")
    monkeypatch.syspath_prepend(tmp_path)
    import sets_of_the_test

    def load_(function, targets="labels", **more):
        sets_of_the_test.function = function if callable(function) else lambda *_: function
        spec = "sets_of_the_test:made"
        common = {"classes": 2, "shape": (1, 1, 1), "test_samples": 1, "seed": 7, "root": tmp_path}
        return load_dataset(spec, targets=targets, **common, **more)

    return load_


@pytest.mark.parametrize(
    "made",
    [
        (Items(X, Y), Items(X[:5], Y[:5])),
        (
            TensorDataset(torch.from_numpy(X), torch.from_numpy(Y)),
            TensorDataset(torch.from_numpy(X)[:5], torch.arange(5) % 4),
        ),
        ((X, Y), (torch.from_numpy(X)[:5], Y[:5])),
        {"train": list(zip(X, Y.tolist(), strict=True)), "test": Items(X[:5], Y[:5])},
    ],
    ids=["items", "tensors", "arrays", "list and dictionary"],
)
def test_every_form_gives_the_same_samples(load, made):
    data = load(made)
    assert (data.shape, data.classes, data.train_size, data.dtype) == ((3, 5), 4, 20, torch.float32)
    x, y = data.samples(np.arange(20))
    assert np.array_equal(x, X)
    assert np.array_equal(y, Y)
    assert np.array_equal(data.test()[1], Y[:5])
    assert data.prepare(x).mean((0, 2)).abs().max() < 1e-6


def test_samples_alone(load):
    for made in ((X, X[:5]), (Items(X), Items(X[:5])), (TensorDataset(torch.from_numpy(X)),) * 2):
        data = load(made, "any")
        assert (data.target, data.shape) == (TargetType.none(), (3, 5))


def test_items_of_several_parts(load):
    data = load((Windows(12), Windows(3)), {"kind": "labels", "place": "numbers"})
    assert data.layout.names == ("picture", "speed")
    x, y = data.samples(np.array([5]))
    assert data.layout.unpack(x)["speed"].tolist() == [[2.5]]
    assert data.target.unpack(y)["place"].tolist() == [[5.0, -5.0]]
    in_order = load((((X, X[:, 0]), Y), ((X[:5], X[:5, 0]), Y[:5])))
    assert in_order.layout.in_order


def test_it_is_given_the_folder_and_the_seed(load, tmp_path):
    seen = []

    def made(root, seed):
        seen.append((root, seed))
        return (X, Y), (X, Y)

    load(made)
    assert seen == [(tmp_path, 7)]


class Raises(Items):
    def __getitem__(self, i):
        raise OSError("file 3 is gone")


@pytest.mark.parametrize(
    ("made", "message"),
    [
        (5, "returned int, expected a training and a test part"),
        ((5, 6), "the train part is int, expected a training"),
        ((Items(X, Y), iter([])), "the test part is list_iterator"),
        ((Raises(X), Items(X)), r"train part: its items cannot be read: OSError: file 3 is gone \(.*line"),
        ((Items([]), Items(X)), "train part: it has no items"),
        ((Items(X, Y), [(X[0], 0), (X[0, 0], 0)]), r"test part: item 1 has shape \[5\], and item 0 has \[3, 5\]"),
        ((Items(X, Y), [(X[0], 0), X[0]]), "test part: some items are pairs of sample and target"),
        ((Items(X, Y), Items(X[:, :2], Y)), r"test_x: found float32 \[20, 2, 5\], expected the form of train_x"),
        ((Items(X, Y - 1), Items(X, Y)), "train_y: found label -1, expected integer labels"),
        ((Items(X), Items(X)), "train_y: found nothing, expected integer labels"),
    ],
)
def test_what_is_no_data_set_is_one_sentence(load, made, message):
    with pytest.raises(DataError, match=message):
        load(made)


def test_a_function_that_raises_or_is_not_there(load):
    def made(*_):
        raise RuntimeError("no network")

    with pytest.raises(ConfigError, match=r"cannot be made of root .* and seed 7: RuntimeError: no network"):
        load(made)
    with pytest.raises(ConfigError, match=r"unknown data set; did you mean npz\?"):
        load_dataset("npzz:x.npz", root=None, classes=2, shape=(1, 1, 1), test_samples=1, seed=0)
