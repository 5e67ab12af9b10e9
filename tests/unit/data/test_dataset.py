import numpy as np
import pytest
import torch

from scadles.data import ArrayDataset, load_dataset, load_digits
from scadles.data.dataset import CHUNK
from scadles.errors import ConfigError


def array_dataset(x):
    y = np.arange(len(x)) % 2
    return ArrayDataset("test", (x, y), (x[:2], y[:2]), classes=2)


@pytest.mark.parametrize("dtype", [np.uint8, np.float32])
def test_prepare_makes_mean_zero_and_deviation_one_in_each_channel(dtype):
    generator = np.random.default_rng(0)
    x = (generator.random((CHUNK + 500, 3, 4, 4)) * np.array([50, 100, 200])[:, None, None]).astype(dtype)
    data = array_dataset(x)
    prepared = data.prepare(data.samples(np.arange(len(x)))[0])
    assert prepared.dtype == torch.float32
    np.testing.assert_allclose(prepared.mean(dim=(0, 2, 3)), 0, atol=1e-4)
    np.testing.assert_allclose(prepared.std(dim=(0, 2, 3), correction=0), 1, atol=1e-4)


def test_raw_samples_keep_their_dtype():
    data = array_dataset(np.zeros((4, 1, 2, 2), dtype=np.uint8))
    assert data.dtype == torch.uint8
    assert data.samples(np.array([1, 1, 0]))[0].dtype == torch.uint8
    assert data.test()[0].dtype == torch.uint8
    assert data.test()[1].dtype == torch.int64


def test_samples_that_are_not_finite_do_not_spoil_the_constants():
    x = np.ones((10, 1, 2, 2), dtype=np.float32)
    x[:5] = 3
    x[0, 0, 0, 0], x[9, 0, 0, 0] = np.nan, np.inf
    prepared = array_dataset(x).prepare(torch.from_numpy(x[1:9]))
    assert torch.isfinite(prepared).all()
    assert abs(float(prepared.mean())) < 0.2


def test_a_channel_that_never_varies_is_only_shifted():
    x = np.full((4, 1, 2, 2), 7, dtype=np.uint8)
    assert array_dataset(x).prepare(torch.from_numpy(x)).abs().max() == 0


def test_nobody_can_spoil_the_data_through_what_he_got():
    data = array_dataset(np.zeros((4, 1, 2, 2), dtype=np.uint8))
    data.samples(np.arange(4))[0].fill_(9)
    data.test()[0].fill_(9)
    assert data.samples(np.arange(4))[0].max() == 0
    assert data.test()[0].max() == 0


def test_an_empty_batch_has_the_right_shape():
    x, y = load_digits().samples(np.empty(0, dtype=np.int64))
    assert x.shape == (0, 1, 8, 8)
    assert y.shape == (0,)


def test_digits():
    data = load_digits()
    x, y = data.samples(np.arange(data.train_size))
    test_x, test_y = data.test()
    assert (data.shape, data.classes, data.dtype) == ((1, 8, 8), 10, torch.uint8)
    assert x.max() == 16
    assert len(x) + len(test_x) == 1797
    assert abs(len(test_x) / 1797 - 0.2) < 0.01
    shares = torch.bincount(test_y) / (torch.bincount(y) + torch.bincount(test_y))
    assert torch.all((shares > 0.19) & (shares <= 0.2))
    assert torch.equal(load_digits().test()[0], test_x)


def load(spec, root="nowhere"):
    return load_dataset(spec, root=root, classes=3, shape=(1, 8, 8), test_samples=5, seed=1)


def test_load_dataset_by_name():
    assert load("digits").name == "digits"
    data = load("synthetic-images")
    assert (data.classes, data.shape, len(data.test()[0])) == (3, (1, 8, 8), 5)
    assert load("wine").classes == 3


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("digit", "did you mean digits"),
        (
            "imagenet",
            "there are csv, digits, npz, parquet, synthetic-images, synthetic-windows, torchvision, breast-cancer",
        ),
        ("npz", "npz:PATH"),
        ("torchvision:", "torchvision:NAME"),
        ("csv", "csv:PATH"),
        ("wine:red", "takes nothing after a colon"),
        ("synthetic-windows", r"data.shape = \[1, 8, 8\]: synthetic-windows needs channels and time"),
        ("digits:9", "takes nothing after a colon"),
    ],
)
def test_load_dataset_refuses(spec, message):
    with pytest.raises(ConfigError, match=message):
        load(spec)
