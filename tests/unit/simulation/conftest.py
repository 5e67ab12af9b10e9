import numpy as np
import pytest
import torch

from scadles.config import DataConfig
from scadles.data import ArrayDataset, make_partition
from scadles.device.learner import Learner
from scadles.exchange.aggregation import GradientExchange, LearningRate
from scadles.fabric import LocalFabric
from scadles.records import Span
from scadles.simulation.gradients import Lookup

CLASSES = 3


@pytest.fixture(scope="session")
def pictures():
    """A small data set of 6 x 6 pictures."""
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(400, 1, 6, 6)).astype(np.float32), rng.integers(0, CLASSES, 400)
    return ArrayDataset("pictures", (x[:300], y[:300]), (x[300:], y[300:]), CLASSES)


@pytest.fixture(scope="session")
def learner_of(pictures):
    """A learner, in float64, of so many devices."""

    def make(model, devices, mean="weighted"):
        model = model.double()
        exchange = GradientExchange(model.parameters(), LocalFabric.create(1)[0].reduce, 0, devices)
        return Learner(
            model,
            torch.optim.SGD(model.parameters(), lr=0.1),
            LearningRate("linear", base_batch=8 * devices),
            exchange,
            lambda x: pictures.prepare(x).double(),
            mean=mean,
        )

    return make


@pytest.fixture(scope="session")
def lookup_of(pictures):
    return lambda learner, devices: Lookup(pictures, make_partition(DataConfig(), pictures, devices, 0), learner)


@pytest.fixture(scope="session")
def take():
    """Spans of these sizes, from different places of each stream."""
    return lambda sizes: [Span(3 * number, size) for number, size in enumerate(sizes)]
