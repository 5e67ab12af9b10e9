import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from scadles.exchange.aggregation import BatchNormStatistics
from scadles.exchange.aggregation.batchnorm import LEAST_WEIGHT


def make_model():
    return nn.Sequential(nn.Conv2d(1, 3, 3), nn.BatchNorm2d(3), nn.ReLU(), nn.Flatten(), nn.BatchNorm1d(3 * 36))


def statistics(model):
    return {name: tensor for name, tensor in model.state_dict().items() if "running" in name or "tracked" in name}


def fill(model, seed):
    """Give a model statistics of its own."""
    generator = torch.Generator().manual_seed(seed)
    for name, tensor in statistics(model).items():
        if tensor.is_floating_point():
            tensor.copy_(torch.rand(tensor.shape, generator=generator) + 10 * seed)
        elif "tracked" in name:
            tensor.fill_(7)


def average(in_threads, models, weights):
    """Let devices with these models, each trained on so many samples, average their statistics."""

    def work(fabric):
        numbers = BatchNormStatistics(models[fabric.rank])
        numbers.trained(weights[fabric.rank])
        total = numbers.pack()
        assert total.dtype == torch.float64
        fabric.reduce(total, "BatchNorm statistics").wait()
        numbers.unpack(total)
        return numbers

    return in_threads(len(models), work)


@given(st.lists(st.integers(0, 2000), min_size=1, max_size=4))
def test_the_average_is_the_weighted_mean_and_everybody_has_it(in_threads, weights):
    models = [make_model() for _ in weights]
    for seed, model in enumerate(models):
        fill(model, seed)
    before = [{name: t.clone() for name, t in statistics(model).items()} for model in models]
    average(in_threads, models, weights)
    for name in before[0]:
        counted = weights if sum(weights) else [1] * len(weights)
        exact = sum(w * b[name].double() for w, b in zip(counted, before, strict=True)) / sum(counted)
        for model in models:
            got = statistics(model)[name]
            assert torch.equal(got, statistics(models[0])[name]), "the same bits on all devices"
            # float64 until it is stored
            torch.testing.assert_close(got.double(), exact, rtol=2**-23, atol=0)


def test_counts_of_batches_agree_and_stay_whole(in_threads):
    models = [make_model() for _ in range(3)]
    for count, model in zip((10, 20, 90), models, strict=True):
        model[1].num_batches_tracked.fill_(count)
    average(in_threads, models, [1, 1, 1])
    assert [m[1].num_batches_tracked.item() for m in models] == [40, 40, 40]
    assert models[0][1].num_batches_tracked.dtype == torch.int64


def test_large_counts_keep_every_digit(in_threads):
    models = [make_model() for _ in range(2)]
    for model in models:
        model[1].num_batches_tracked.fill_(2**31 + 1)
    average(in_threads, models, [1024, 977])
    assert models[0][1].num_batches_tracked.item() == 2**31 + 1


def test_a_second_average_without_training_changes_nothing(in_threads):
    models = [make_model() for _ in range(2)]
    for seed, model in enumerate(models):
        fill(model, seed)
    numbers = average(in_threads, models, [3, 5])
    once = {name: t.clone() for name, t in statistics(models[0]).items()}
    assert [part.pack()[-1].item() for part in numbers] == [LEAST_WEIGHT] * 2, "weights start anew"
    average(in_threads, models, [0, 0])
    assert all(torch.equal(statistics(models[1])[name], once[name]) for name in once)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("weights", [[4, 0], [4, 4]])
def test_broken_statistics_do_not_spread(in_threads, value, weights):
    """0 * NaN is NaN: a weight of 0 alone would not keep it out."""
    models = [make_model() for _ in range(2)]
    fill(models[0], 1)
    models[1][1].running_var[1] = value
    expected = models[0][1].running_var.clone()
    average(in_threads, models, weights)
    assert torch.equal(models[0][1].running_var, expected)
    assert torch.equal(models[1][1].running_var, expected)


def test_a_batch_that_is_left_out_leaves_no_trace():
    model = make_model().train()
    fill(model, 1)
    numbers = BatchNormStatistics(model)
    before = {name: t.clone() for name, t in statistics(model).items()}
    numbers.remember()
    model(torch.full((4, 1, 8, 8), float("nan")))
    assert not model[1].running_mean.isfinite().all()
    numbers.restore()
    assert all(torch.equal(statistics(model)[name], before[name]) for name in before)


def test_restoring_goes_back_one_batch_only():
    model = make_model().train()
    numbers = BatchNormStatistics(model)
    for expected in (0, 1):
        numbers.remember()
        model(torch.ones(4, 1, 8, 8))
        assert model[1].num_batches_tracked.item() == expected + 1
    numbers.restore()
    numbers.restore()
    assert model[1].num_batches_tracked.item() == 1


@pytest.mark.parametrize("end", [BatchNormStatistics.forget, BatchNormStatistics.replaced])
def test_what_a_step_has_ended_with_is_not_taken_back(end):
    model = make_model().train()
    numbers = BatchNormStatistics(model)
    numbers.restore()  # before the first batch
    numbers.remember()
    model(torch.ones(4, 1, 8, 8))
    end(numbers)
    numbers.restore()
    assert model[1].num_batches_tracked.item() == 1


@pytest.mark.parametrize("model", [nn.Linear(2, 2), nn.BatchNorm1d(3, track_running_stats=False)])
def test_a_model_without_statistics_has_nothing_to_average(model):
    numbers = BatchNormStatistics(model)
    assert not numbers
    numbers.remember()
    numbers.restore()
    assert BatchNormStatistics(make_model())
