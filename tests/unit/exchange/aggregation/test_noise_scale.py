"""The noise scale from devices' mean gradients, against one from the gradient of each sample."""

import numpy as np
import pytest
import torch
from torch import nn
from torch.func import functional_call, grad, vmap

from scadles.exchange.aggregation.noise_scale import SKETCH_SIZE, NoiseScale, sketch

SAMPLES, CLASSES = 4000, 5


@pytest.fixture(scope="module")
def problem():
    """A small network, samples it is not trained on yet, and the gradient of each of them, float64 ``[n, p]``."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(12, 24), nn.Tanh(), nn.Linear(24, CLASSES)).double()
    y = torch.randint(CLASSES, (SAMPLES,))
    x = torch.randn(SAMPLES, 12).double() + 0.7 * nn.functional.one_hot(y, 12)
    parameters = {name: p.detach() for name, p in model.named_parameters()}

    def loss(parameters, x, y):
        return nn.functional.cross_entropy(functional_call(model, parameters, x[None]), y[None])

    each = vmap(grad(loss), in_dims=(None, 0, 0))(parameters, x, y)
    return model, x, y, torch.cat([each[name].flatten(1) for name in parameters], dim=1)


def reference(each):
    """tr(S) / |G|^2 of these samples: their covariance, and the square of their mean without its noise."""
    trace = float(each.var(dim=0).sum())
    return trace / (float(each.mean(dim=0).square().sum()) - trace / len(each))


@pytest.mark.parametrize("rates", [[32] * 8, [8, 12, 20, 35, 60, 100, 170, 300]], ids=["even", "uneven"])
def test_devices_tell_it_as_well_as_the_gradient_of_each_sample(problem, rates):
    model, x, y, each = problem
    scale, random = NoiseScale(), np.random.default_rng(1)
    for step in range(40):
        batches, squares, total = np.array(rates), [], torch.zeros(SKETCH_SIZE)
        for batch in batches:
            drawn = torch.from_numpy(random.integers(SAMPLES, size=batch))
            model.zero_grad()
            nn.functional.cross_entropy(model(x[drawn]), y[drawn]).backward()
            mine = sketch((p.grad for p in model.parameters()), step)
            squares.append(float(mine.square().sum()))
            total += batch * mine
        scale.observe(batches, np.array(squares), float((total / batches.sum()).square().sum()))
    bounds, true = scale.bounds, reference(each)
    assert bounds.value == pytest.approx(true, rel=0.2)
    assert bounds.low < true < bounds.high


def test_a_sketch_of_a_sum_is_the_sum_of_sketches_and_keeps_norms():
    gradients = [torch.randn(300, 70), None, torch.randn(4093), torch.randn(3, 4, 5)]
    doubled = [None if gradient is None else 2 * gradient for gradient in gradients]
    one = sketch(gradients, seed=5)
    torch.testing.assert_close(sketch(doubled, seed=5), 2 * one)
    square = sum(float(gradient.square().sum()) for gradient in gradients if gradient is not None)
    found = [float(sketch(gradients, seed).square().sum()) for seed in range(100)]
    assert np.mean(found) == pytest.approx(square, rel=0.01)
    assert np.std(found) < 0.04 * square
    assert not torch.equal(sketch(gradients, seed=6), one)


def test_a_gradient_that_is_all_noise_has_no_upper_bound():
    scale, random = NoiseScale(), np.random.default_rng(0)
    batches = np.full(4, 16)
    for _ in range(30):
        means = random.normal(size=(4, 100)) / 4
        scale.observe(batches, np.square(means).sum(axis=1), float(np.square(means.mean(axis=0)).sum()))
    assert scale.bounds.high == np.inf


def test_one_device_alone_and_what_is_not_finite_say_nothing():
    scale = NoiseScale()
    for _ in range(10):
        scale.observe(np.array([32, 0]), np.array([1.0, 0.0]), 1.0)
        scale.observe(np.array([32, 8]), np.array([np.inf, 1.0]), 1.0)
    assert scale.bounds is None


def test_it_goes_on_where_it_was():
    one, other = NoiseScale(), NoiseScale()
    for _ in range(6):
        one.observe(np.array([8, 24]), np.array([2.0, 1.5]), 1.2)
    other.load(one.state())
    assert other.bounds == one.bounds
    with pytest.raises(ValueError, match="noise scale"):
        other.load(one.state() | {"mean": [1.0, float("nan")]})
