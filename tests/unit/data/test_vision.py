import importlib.util
import struct
import sys
import types

import numpy as np
import pytest
import torch

from scadles.data import vision
from scadles.errors import ConfigError, DataError, MissingExtraError


def write_idx(path, array):
    header = struct.pack(">HBB", 0, 8, array.ndim) + b"".join(struct.pack(">I", size) for size in array.shape)
    path.write_bytes(header + array.astype(np.uint8).tobytes())


@pytest.fixture
def mnist(tmp_path):
    if importlib.util.find_spec("torchvision") is None:
        pytest.skip("torchvision is not installed")
    raw = tmp_path / "MNIST" / "raw"
    raw.mkdir(parents=True)
    for part, count in (("train", 20), ("t10k", 10)):
        write_idx(raw / f"{part}-images-idx3-ubyte", np.arange(count * 784).reshape(count, 28, 28) % 251)
        write_idx(raw / f"{part}-labels-idx1-ubyte", np.arange(count) % 10)
    return tmp_path


class Stub:
    """A data set of torchvision's kind that lies nowhere until it is downloaded."""

    def __init__(self, root, *, download, train=True, split="train"):
        if not download:
            raise RuntimeError("Dataset not found or corrupted. You can use download=True to download it")
        count = 20 if train and split == "train" else 10
        self.data = np.arange(count * 8 * 8 * 3).reshape(count, 8, 8, 3).astype(np.uint8)
        self.targets = [i % 10 for i in range(count)]


class SplitStub(Stub):
    def __init__(self, root, *, download, split):
        super().__init__(root, download=download, split=split)
        self.data, self.labels = self.data.transpose(0, 3, 1, 2), np.array(self.targets)
        del self.targets


class Offline(Stub):
    def __init__(self, root, *, download, train):
        if download:
            raise OSError("<urlopen error no route to host>")
        super().__init__(root, download=download)


@pytest.fixture
def stubbed(monkeypatch):
    def stub(**kinds):
        monkeypatch.setitem(sys.modules, "torchvision.datasets", types.SimpleNamespace(**kinds))

    return stub


def test_from_a_local_root(mnist):
    data = vision.load_torchvision("MNIST", mnist)
    assert (data.shape, data.classes, data.train_size, data.dtype) == ((1, 28, 28), 10, 20, torch.uint8)
    x, y = data.samples(np.array([1]))
    np.testing.assert_array_equal(x[0, 0], np.arange(784, 1568).reshape(28, 28) % 251)
    assert y.tolist() == [1]
    assert len(data.test()[0]) == 10


def test_a_torn_file(mnist):
    path = mnist / "MNIST" / "raw" / "train-images-idx3-ubyte"
    path.write_bytes(path.read_bytes()[:5000])
    with pytest.raises(DataError, match=r"cannot be read.*delete it"):
        vision.load_torchvision("MNIST", mnist)


def test_downloaded_when_missing_and_channels_put_first(stubbed, tmp_path):
    stubbed(CIFAR10=Stub, SVHN=SplitStub)
    data = vision.load_torchvision("CIFAR10", tmp_path)
    assert data.shape == (3, 8, 8)
    np.testing.assert_array_equal(data.samples(np.array([0]))[0][0, :, 0, 1], [3, 4, 5])
    same = vision.load_torchvision("SVHN", tmp_path)
    assert torch.equal(same.test()[0], data.test()[0])


def test_no_network(stubbed, tmp_path):
    stubbed(CIFAR10=Offline)
    with pytest.raises(DataError, match=r"no route to host.*copy the folder here.*synthetic-images") as caught:
        vision.load_torchvision("CIFAR10", tmp_path)
    assert str(tmp_path) in str(caught.value)


def test_unknown_name(tmp_path):
    with pytest.raises(ConfigError, match="there are CIFAR10, CIFAR100"):
        vision.load_torchvision("ImageNet", tmp_path)


def test_not_installed(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "torchvision.datasets", None)
    with pytest.raises(MissingExtraError, match=r"scadles\[vision\]"):
        vision.load_torchvision("MNIST", tmp_path)


def test_a_broken_installation(monkeypatch, tmp_path):
    def fail(name):
        raise RuntimeError("wrong torch")

    monkeypatch.setattr("scadles.data.torchvision.importlib.import_module", fail)
    with pytest.raises(ConfigError, match="wrong torch"):
        vision.load_torchvision("MNIST", tmp_path)


def test_importing_the_package_imports_no_torchvision_and_no_scikit_learn(said_by):
    code = "import sys, scadles.data; print([m for m in ('torchvision', 'sklearn') if m in sys.modules])"
    assert said_by(code) == "[]\n"
