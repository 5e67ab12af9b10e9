import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from torch import nn

from scadles.data import SyntheticImages
from scadles.errors import ConfigError

TRAIN = 4000


@pytest.fixture(scope="module")
def ten():
    data = SyntheticImages(10, (3, 32, 32), test_samples=1000, seed=0)
    x, y = data.samples(np.arange(TRAIN))
    test_x, test_y = data.test()
    return data.prepare(x), y, data.prepare(test_x), test_y


def test_a_linear_model_cannot_read_the_class(ten):
    x, y, test_x, test_y = ten
    model = LogisticRegression(C=0.01, tol=1e-2).fit(x.flatten(1).numpy(), y.numpy())
    assert model.score(test_x.flatten(1).numpy(), test_y.numpy()) < 0.6


@pytest.fixture
def one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.mark.usefixtures("one_thread")
def test_a_small_convolutional_network_can(ten):
    x, y, test_x, test_y = ten
    with torch.random.fork_rng():
        torch.manual_seed(0)
        layers = (nn.Conv2d(3, 16, 7, stride=2, padding=3), nn.ReLU(), nn.Conv2d(16, 32, 3, padding=1), nn.ReLU())
        model = nn.Sequential(*layers, nn.AdaptiveMaxPool2d(2), nn.Flatten(), nn.Linear(128, 10))
        optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
        for _ in range(2):
            for batch in torch.randperm(TRAIN).split(64):
                optimizer.zero_grad()
                nn.functional.cross_entropy(model(x[batch]), y[batch]).backward()
                optimizer.step()
    accuracy = (model(test_x).argmax(dim=1) == test_y).float().mean()
    assert accuracy > 0.85


def test_the_mean_picture_of_every_class_is_grey(ten):
    x, y, _, _ = ten
    for label in range(10):
        assert x[y == label].mean(dim=0).abs().max() < 0.3


@pytest.mark.parametrize("classes", [2, 10, 100])
@pytest.mark.parametrize("shape", [(1, 8, 8), (3, 32, 32), (1, 64, 64), (3, 16, 40), (1, 1, 1)])
def test_any_number_of_classes_and_any_shape(classes, shape):
    data = SyntheticImages(classes, shape, test_samples=3, seed=0)
    x, y = data.samples(np.arange(max(20, 3 * classes)))
    assert x.shape[1:] == data.shape == shape
    assert x.dtype == data.dtype == torch.uint8
    assert 0 <= y.min() <= y.max() < classes
    assert torch.isfinite(data.prepare(x)).all()
    assert x[:, 0].to(torch.float32).std(dim=0).min() > 0


def test_all_classes_come_equally_often():
    y = SyntheticImages(10, (1, 8, 8), test_samples=1, seed=3).samples(np.arange(5000))[1]
    counts = torch.bincount(y, minlength=10)
    assert counts.min() > 420
    assert counts.max() < 580


def test_a_sample_depends_on_seed_and_number_alone():
    def make(seed, indices):
        return SyntheticImages(10, (3, 8, 8), test_samples=300, seed=seed).samples(np.array(indices))

    x, y = make(0, np.arange(600))
    alone_x, alone_y = make(0, [577, 3, 577])
    assert torch.equal(alone_x, x[[577, 3, 577]])
    assert alone_y.tolist() == y[[577, 3, 577]].tolist()
    assert not torch.equal(make(1, [3])[0], make(0, [3])[0])


def test_the_test_part_has_numbers_of_its_own():
    data = SyntheticImages(10, (1, 8, 8), test_samples=50, seed=0)
    assert torch.equal(data.test()[0], data.test()[0])
    assert not torch.equal(data.test()[0], data.samples(np.arange(50))[0])
    assert data.train_size is None


def test_an_empty_batch():
    x, y = SyntheticImages(2, (3, 8, 9), 1, 0).samples(np.empty(0, dtype=np.int64))
    assert x.shape == (0, 3, 8, 9)
    assert y.dtype == torch.int64


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((1, (1, 8, 8), 1, 0), "data.classes = 1"),
        ((2, (1, 0, 8), 1, 0), r"data\.shape = \(1, 0, 8\)"),
        ((2, (8, 8), 1, 0), r"data\.shape"),
        ((2, (1, 8, 8), 0, 0), "data.test_samples = 0"),
    ],
)
def test_out_of_range(arguments, message):
    with pytest.raises(ConfigError, match=message):
        SyntheticImages(*arguments)
