import numpy as np
import pytest

from scadles.config import DataConfig
from scadles.data import ArrayDataset, SyntheticImages, count_labels, load_digits, make_partition
from scadles.data.label_counts import LOOKED_AT
from scadles.errors import ConfigError
from scadles.targets import TargetType

DIGITS = load_digits()
PICTURES = SyntheticImages(10, (1, 8, 8), 1, seed=0)


def counted(config, data, drifts=0):
    return count_labels(data, make_partition(config, data, 10, seed=0), range(10), drifts)


@pytest.mark.parametrize("kind", ["iid", "labels", "dirichlet"])
def test_all_parts_together_are_the_training_set(kind):
    counts = counted(DataConfig(partition=kind), DIGITS)
    everything = np.bincount(DIGITS.labels(np.arange(DIGITS.train_size)), minlength=10)
    np.testing.assert_array_equal(counts.sum(axis=0), everything)


@pytest.mark.parametrize(("data", "config"), [(PICTURES, {"partition": "labels"}), (DIGITS, {"partition": "shared"})])
def test_of_a_stream_without_an_end_the_beginning_is_counted(data, config):
    assert (counted(DataConfig(**config), data).sum(axis=1) == LOOKED_AT).all()


@pytest.mark.parametrize("data", [DIGITS, PICTURES])
def test_drift_hands_the_counts_on(data):
    config = DataConfig(partition="dirichlet", drift_samples=50)
    before, after = counted(config, data), counted(config, data, drifts=1)
    np.testing.assert_array_equal(after, np.roll(before, -1, axis=0))
    np.testing.assert_array_equal(before, counted(DataConfig(partition="dirichlet"), data))


def test_what_has_no_labels_is_not_counted():
    x, y = np.zeros((20, 3), np.float32), np.zeros((20, 0), np.float32)
    data = ArrayDataset("loads", (x, y), (x[:1], y[:1]), target=TargetType.none())
    with pytest.raises(ConfigError, match="loads has no targets: there are no labels to count"):
        counted(DataConfig(), data)
