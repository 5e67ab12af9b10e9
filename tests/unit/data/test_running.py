"""Statistics that are measured while training."""

from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import scadles
from scadles.config import load_config
from scadles.data import ArrayDataset, PartsDataset, dataset_of
from scadles.data.running import RunningStatistics
from scadles.errors import DataError
from scadles.observe import Step, events_path, read_events
from scadles.targets import TargetType


def dataset(x):
    none = np.empty((len(x), 0), dtype=np.float32)
    return ArrayDataset("of the test", (x, none), (x[:1], none[:1]), target=TargetType.none(), normalize=False)


def measure_together(everybody, batches, weights=None):
    """Let devices measure a batch each, and give all of them the weighted mean as a float32 message brings it."""
    weights = np.array([len(batch) for batch in batches] if weights is None else weights, dtype=np.float32)
    total = torch.zeros(everybody[0].size)
    for statistics, batch, weight in zip(everybody, batches, weights, strict=True):
        if weight:
            statistics.observe(batch)
            total += statistics.measured.float() * float(weight)
    for statistics in everybody:
        statistics.receive(total / float(weights.sum()) if weights.sum() else None)
        statistics.merge(sum(len(batch) for batch, weight in zip(batches, weights, strict=True) if weight))


@settings(max_examples=60, deadline=None)
@given(
    sizes=st.lists(st.lists(st.integers(0, 9), min_size=3, max_size=3), min_size=3, max_size=8),
    mean=st.sampled_from([0.0, 300.0, -1e4]),
    deviation=st.sampled_from([1e-2, 1.0, 50.0]),
    shape=st.sampled_from([(), (2,), (2, 5), (3, 4, 2)]),
)
def test_they_are_those_of_all_samples_but_the_first_steps(sizes, mean, deviation, shape):
    rng = np.random.default_rng(0)
    rows = [[(mean + deviation * rng.normal(size=(n, *shape))).astype(np.float32) for n in step] for step in sizes]
    everybody = [RunningStatistics(dataset(np.zeros((1, *shape), dtype=np.float32))) for _ in range(3)]
    for step in rows:
        measure_together(everybody, [torch.from_numpy(batch) for batch in step])
    steps = [np.concatenate(step) for step in rows if sum(map(len, step))]
    seen = np.concatenate([np.empty((0, *shape)), *steps[1:]]).astype(np.float64)
    for one, other in pairwise(everybody):
        assert all(torch.equal(one.tensors[name], other.tensors[name]) for name in one.tensors)
    known = everybody[0].tensors
    assert float(known["normalize.samples"]) == len(seen)
    if len(seen) < 2:
        return
    by_channel = seen.reshape(len(seen), shape[0] if shape else 1, -1)
    scale = everybody[0].preparation()
    np.testing.assert_allclose(scale.mean, by_channel.mean((0, 2)), atol=1e-4 * deviation + 1e-6 * abs(mean))
    expected = by_channel.std((0, 2))
    np.testing.assert_allclose(scale.deviation, np.where(expected > 0, expected, 1), rtol=2e-3)


def test_until_something_is_known_a_model_gets_zeros():
    x = torch.arange(6, dtype=torch.float32)[:, None] + 100
    statistics = RunningStatistics(dataset(x.numpy()))
    for step in range(3):
        found = statistics(x)
        assert bool((found == 0).all()) == (step < 2)
        measure_together([statistics], [x])
    np.testing.assert_allclose(found, (x - x.mean()) / x.std(correction=0), atol=1e-6)


def test_a_step_that_counts_for_nobody_leaves_no_trace():
    x = torch.ones(4, 2)
    statistics = RunningStatistics(dataset(x.numpy()))
    for _ in range(2):
        measure_together([statistics], [x])
    before = {name: value.clone() for name, value in statistics.tensors.items()}
    measure_together([statistics], [x * 5], weights=[0])
    assert all(torch.equal(before[name], value) for name, value in statistics.tensors.items())
    assert statistics(x).tolist() == [[0, 0]] * 4  # where nothing varies the deviation is 1


def test_identifiers_and_truth_values_stay_as_they_are():
    for x in (np.arange(6).reshape(3, 2), np.array([[True], [False]])):
        statistics = RunningStatistics(dataset(x))
        assert (statistics.size, statistics.preparation().mean) == (0, None)
        measure_together([statistics], [torch.from_numpy(x)])
        assert torch.equal(
            statistics(torch.from_numpy(x)), torch.from_numpy(x).to(statistics(torch.from_numpy(x)).dtype)
        )


def test_each_part_has_its_own():
    rng = np.random.default_rng(0)
    x = {
        "picture": rng.integers(0, 256, (40, 3, 4, 4)).astype(np.uint8),
        "ids": rng.integers(0, 9, (40, 2)),
        "speed": rng.normal(5, 2, 40).astype(np.float32),
    }
    data = dataset_of("p", (x, None), ({n: p[:2] for n, p in x.items()}, None), "any", DataError, normalize=False)
    assert isinstance(data, PartsDataset)
    statistics, raw = RunningStatistics(data), data.samples(np.arange(40))[0]
    for _ in range(2):
        measure_together([statistics], [raw])
    found = statistics(raw)
    assert torch.equal(found["ids"], torch.from_numpy(x["ids"]))
    for name, axes in (("picture", (0, 2, 3)), ("speed", (0,))):
        values = x[name].astype(np.float64)
        expected = (values - values.mean(axes, keepdims=True)) / values.std(axes, keepdims=True)
        np.testing.assert_allclose(found[name], expected, atol=1e-5)
    scales = statistics.preparation()
    assert [name for name, scale in scales.items() if scale.mean is not None] == ["picture", "speed"]


@pytest.fixture
def table(tmp_path):
    rng = np.random.default_rng(0)
    x = (np.array([300, -5, 0.02]) + np.array([0.1, 4, 0.001]) * rng.normal(size=(400, 3))).astype(np.float32)
    y = (x[:, 0] > 300) + 0
    np.savez(tmp_path / "table.npz", train_x=x[:320], train_y=y[:320], test_x=x[320:], test_y=y[320:])
    return tmp_path / "table.npz"


def test_the_file_of_the_model_says_what_it_is_used_with(table, in_threads, tmp_path):
    config = load_config(
        {
            "devices": 2,
            "steps": 40,
            "picture": False,
            "model": "mlp",
            "batch": {"min": 4, "window_s": 0.2},
            "data": {"dataset": f"npz:{table}", "normalize": "running", "partition": "shared"},
            "stream": {"rates": [90, 30]},
        }
    )

    def work(fabric):
        with scadles.join(config, out=tmp_path / "run", fabric=fabric, clock=scadles.VirtualClock()) as device:
            for batch in device.batches():
                device.step(device.task.minimised(device.model(batch.x), batch.y))
        return device.model, device.summary

    (model, summary), _ = in_threads(2, work)
    arrays, preparation = np.load(table), scadles.Preparation.of(tmp_path / "run" / "model.safetensors")
    x = preparation.samples(torch.from_numpy(arrays["test_x"]))
    np.testing.assert_allclose(x.mean(0), 0, atol=0.3)
    np.testing.assert_allclose(x.std(0), 1, atol=0.2)
    with torch.no_grad():
        right = model.eval()(x).argmax(1).numpy() == arrays["test_y"]
    assert right.mean() == pytest.approx(summary.final_accuracy)
    assert summary.final_accuracy > 0.85
    trained = [
        sum(event.batch for event in read_events(events_path(tmp_path / "run", device)) if isinstance(event, Step))
        for device in (0, 1)
    ]
    assert summary.samples.trained == sum(trained)
