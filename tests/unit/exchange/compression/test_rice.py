"""Positions cost what they should, and come back as they were."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from torch.nn.functional import cross_entropy

from scadles.errors import RunError
from scadles.exchange.compression import ExactTopK, WireError
from scadles.exchange.compression.rice import CHUNK, IndexReader, most_index_bytes, write_indices

N = 1_000_000


def written(indices, n):
    section = np.full(most_index_bytes(n, len(indices)), 255, np.uint8)
    return section[: write_indices(indices, section)]


def read(section, count, n):
    reader = IndexReader(section, count, n)
    return np.concatenate([np.zeros(0, np.int64), *(reader.read(number) for number in range(len(reader.parts)))])


def entropy_bits(ratio):
    """Bits per kept entry that random positions need at least."""
    return -(ratio * math.log2(ratio) + (1 - ratio) * math.log2(1 - ratio)) / ratio


def bits(indices, n):
    return 8 * len(written(indices, n)) / len(indices)


def random_positions(ratio, n=N):
    return np.flatnonzero(np.random.default_rng(0).random(n) < ratio)


@pytest.fixture(scope="module")
def gradient():
    """A real gradient: convolutions, a wide layer, biases, most of the second layer's inputs dead."""
    torch.manual_seed(0)
    model = nn.Sequential(
        *(nn.Conv2d(3, 32, 3, 2, 1), nn.GroupNorm(8, 32), nn.ReLU(), nn.Conv2d(32, 64, 3, 2, 1), nn.ReLU()),
        *(nn.Flatten(), nn.Linear(64 * 64, 200), nn.ReLU(), nn.Linear(200, 1000)),
    )
    cross_entropy(model(torch.randn(8, 3, 32, 32)), torch.arange(8)).backward()
    return torch.cat([p.grad.flatten() for p in model.parameters()])


@given(st.lists(st.integers(0, 5000), max_size=700, unique=True), st.integers(0, 1000))
def test_any_positions_come_back(positions, slack):
    indices = np.array(sorted(positions), np.int64)
    n = (int(indices[-1]) + 1 if len(indices) else 0) + slack
    assert np.array_equal(read(written(indices, n), len(indices), n), indices)


@pytest.mark.parametrize("ratio", [0.9, 0.5, 0.2, 0.1, 0.01])
def test_several_chunks_come_back(ratio):
    indices = random_positions(ratio, 3 * CHUNK if ratio > 0.3 else 15 * CHUNK)
    assert np.array_equal(read(written(indices, N), len(indices), N), indices)


@pytest.mark.parametrize("indices", [[2**31 - 2], [0, 2**31 - 2], [0, *range(2**30, 2**30 + 600)]])
def test_the_widest_gaps_come_back(indices):
    indices = np.array(indices)
    assert np.array_equal(read(written(indices, 2**31 - 1), len(indices), 2**31 - 1), indices)


@pytest.mark.parametrize(("ratio", "limit"), [(0.1, 1.03), (0.01, 1.02), (0.001, 1.03)])
def test_random_positions_cost_little_more_than_their_entropy(ratio, limit):
    assert bits(random_positions(ratio), N) <= limit * entropy_bits(ratio)


@pytest.mark.parametrize("ratio", [0.1, 0.01, 0.001])
def test_positions_of_a_real_gradient_cost_less_than_random_ones(ratio, gradient):
    indices = ExactTopK(int(ratio * len(gradient))).select(gradient).numpy()
    assert bits(indices, len(gradient)) <= entropy_bits(ratio)


def test_more_than_half_cost_a_bitmap():
    indices = random_positions(0.8)
    assert bits(indices, N) * len(indices) <= 1.04 * N


@given(st.integers(0, 2**32), st.sampled_from([1, 3, 60, 256, 257, 1000, 5000]), st.floats(0, 6))
def test_no_positions_take_more_than_the_bound(seed, count, spread):
    generator = np.random.default_rng(seed)
    gaps = np.ceil(generator.lognormal(0, spread, count)).clip(1, 300_000).astype(np.int64)
    indices = np.cumsum(gaps) - 1
    n = int(indices[-1]) + 1
    assert len(written(indices, n)) <= most_index_bytes(n, count)


@given(st.integers(1, 10**9), st.integers(0, 10**5))
def test_the_bound_grows_with_the_count(n, count):
    assert most_index_bytes(n, min(count, n)) <= most_index_bytes(n, min(count + 1, n)) + 1


@pytest.mark.parametrize("ratio", [0.4, 0.2, 1 / 9, 0.1, 0.01, 0.001])
def test_the_bound_is_near_the_entropy(ratio):
    assert 8 * most_index_bytes(60_000_000, int(60_000_000 * ratio)) / (60_000_000 * ratio) < 1.12 * entropy_bits(ratio)


@given(st.data())
def test_bytes_that_stand_for_no_positions_are_an_error(data):
    """What a checksum would have caught is still never a position outside, out of order, or another exception."""
    indices = np.sort(np.random.default_rng(1).choice(20_000, 900, replace=False))
    section = written(indices, 20_000).copy()
    changed = data.draw(st.lists(st.tuples(st.integers(0, len(section) - 1), st.integers(0, 255)), min_size=1))
    for position, byte in changed:
        section[position] = byte
    try:
        decoded = read(section, 900, 20_000)
    except WireError:
        return
    assert len(decoded) == 900
    assert bool((np.diff(decoded) > 0).all())
    assert decoded[0] >= 0
    assert decoded[-1] < 20_000


@pytest.mark.parametrize("indices", [[3, 3], [5, 2], [-1, 4], [5, 2**32 + 6, 7]])
def test_positions_that_do_not_ascend_are_refused(indices):
    with pytest.raises(RunError, match="must ascend"):
        written(np.array(indices), 10)
