import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from torch import nn

from scadles.config import DataConfig
from scadles.data import SyntheticWindows, make_partition
from scadles.errors import ConfigError
from scadles.models import build_model

TRAIN = 3000


@pytest.fixture(scope="module")
def six():
    data = SyntheticWindows(6, (9, 128), test_samples=600, seed=0)
    x, y = data.samples(np.arange(TRAIN))
    test_x, test_y = data.test()
    return data.prepare(x), y, data.prepare(test_x), test_y


def test_a_linear_model_cannot_read_the_class(six):
    x, y, test_x, test_y = six
    model = LogisticRegression(C=0.01, tol=1e-2).fit(x.flatten(1).numpy(), y.numpy())
    assert model.score(test_x.flatten(1).numpy(), test_y.numpy()) < 0.4


def test_a_small_convolution_over_time_can(six):
    x, y, test_x, test_y = six
    model = build_model("cnn", (9, 128), 6, seed=0)
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    order = torch.randperm(TRAIN, generator=torch.Generator().manual_seed(0))
    for batch in order.repeat(2).split(64):
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(x[batch]), y[batch]).backward()
        optimizer.step()
    assert (model.eval()(test_x).argmax(dim=1) == test_y).float().mean() > 0.85


def test_the_mean_window_of_every_class_is_nothing(six):
    x, y, _, _ = six
    for label in range(6):
        assert x[y == label].mean(dim=0).abs().max() < 0.25


@pytest.mark.parametrize(("classes", "shape"), [(2, (1, 16)), (10, (3, 64)), (50, (9, 1000))])
def test_any_number_of_classes_and_channels(classes, shape):
    data = SyntheticWindows(classes, shape, test_samples=3, seed=1)
    x, y = data.samples(np.array([5, -1, 10**12]))
    assert x.shape == (3, *shape)
    assert torch.isfinite(x).all()
    assert x.abs().max() < 5
    assert torch.equal(data.samples(np.array([10**12]))[0], x[2:])
    assert (int(y[1]), int(y.max()) < classes) == (0, True)
    np.testing.assert_array_equal(data.labels(np.array([5, -1])), y[:2])
    assert not torch.equal(SyntheticWindows(classes, shape, 3, seed=2).samples(np.array([5]))[0], x[:1])


def test_it_is_dealt_by_label_as_pictures_are():
    data = SyntheticWindows(6, (1, 16), test_samples=1, seed=0)
    partition = make_partition(DataConfig(partition="labels", labels_per_device=2), data, 3, seed=0)
    labels = data.samples(partition.indices(np.array([1]), np.arange(40)))[1]
    assert len(labels.unique()) == 2


@pytest.mark.parametrize(
    ("classes", "shape", "samples", "message"),
    [
        (1, (1, 16), 1, "data.classes = 1: synthetic-windows needs at least 2 classes"),
        (2, (1, 15), 1, r"data.shape = \[1, 15\]: synthetic-windows needs channels and time, time at least 16"),
        (2, (3, 32, 32), 1, r"data.shape = \[3, 32, 32\]: .*for example \[9, 128\]"),
        (2, (1, 16), 0, "data.test_samples = 0"),
    ],
)
def test_what_cannot_be(classes, shape, samples, message):
    with pytest.raises(ConfigError, match=message):
        SyntheticWindows(classes, shape, samples, seed=0)
