import copy

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn.functional import cross_entropy

from scadles.config import load_config
from scadles.errors import ConfigError
from scadles.simulation.batchnorm import ClusterStatistics
from scadles.simulation.choice import choose_gradients
from scadles.simulation.gradients import FusedGradients, NoGradients, chunks, mixes_samples
from scadles.simulation.per_device import BatchedGradients, LoopedGradients
from small_tasks import classification

CLASSES = 3
TASK = classification(CLASSES)


def network(*, norm=False):
    torch.manual_seed(0)
    middle = nn.BatchNorm2d(4) if norm else nn.Tanh()
    return nn.Sequential(nn.Conv2d(1, 4, 3), middle, nn.ReLU(), nn.Flatten(), nn.Linear(64, CLASSES))


class Touchy(nn.Module):
    """A network whose output, or only whose gradient, is not finite where the first pixel is above a limit."""

    def __init__(self, limit, where):
        super().__init__()
        self.inner, self.limit, self.where = network(), limit, where

    def forward(self, x):
        outputs = self.inner(x)
        bad = x[:, 0, 0, 0, None] > self.limit
        if self.where == "loss":
            return torch.where(bad, torch.nan, outputs)
        root_of = torch.where(bad, (outputs - outputs.detach()).abs(), 1.0)  # its slope at 0 is not finite
        return outputs + torch.where(bad, root_of.sqrt(), 0.0)


def make(kind, learner, lookup, devices):
    looped = LoopedGradients(learner, lookup, TASK, ClusterStatistics(learner.model, devices))
    return {"looped": looped, "batched": BatchedGradients(learner, lookup, looped, TASK)}.get(
        kind, FusedGradients(learner, lookup, looped, TASK)
    )


def summed(learner, gradients, taken, numbers=None):
    """Run one step's gradients; return what the parameters hold, and the shares."""
    learner.exchange.begin(1.0, "test")
    shares = gradients.add_up(numbers or list(range(len(taken))), taken)
    return torch.cat([p.grad.flatten().clone() for p in learner.exchange.parameters]), shares


def reference(learner, lookup, taken, mean):
    """Sum of weight times each device's gradient, by plain autograd; each mean loss and each one's right answers."""
    total, losses, correct = 0.0, [], []
    for number, chunk in enumerate(taken):
        model = copy.deepcopy(learner.model)
        x, y = lookup([number], [chunk])
        outputs = model(x)
        loss = cross_entropy(outputs, y)
        loss.backward()
        correct.append(int((outputs.argmax(dim=1) == y).sum()))
        weight = len(chunk) if mean == "weighted" else 1.0
        total = total + weight * torch.cat([p.grad.flatten() for p in model.parameters()])
        losses.append(loss.item())
    return total, losses, correct


@pytest.mark.parametrize("mean", ["weighted", "plain"])
@pytest.mark.parametrize("kind", ["fused", "batched", "looped"])
@settings(max_examples=10, deadline=None)
@given(sizes=st.lists(st.integers(1, 40), min_size=1, max_size=9))
def test_every_way_gives_the_sum_of_the_devices_gradients(learner_of, lookup_of, take, kind, mean, sizes):
    learner = learner_of(network(), len(sizes), mean)
    lookup, taken = lookup_of(learner, len(sizes)), take(sizes)
    gradients = make(kind, learner, lookup, len(sizes))
    found, shares = summed(learner, gradients, taken)
    expected, losses, correct = reference(learner, lookup, taken, mean)
    torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-12)
    np.testing.assert_allclose(shares.losses, losses, rtol=1e-10)
    assert shares.correct.tolist() == correct
    assert shares.weights.tolist() == (sizes if mean == "weighted" else [1.0] * len(sizes))


@pytest.mark.parametrize("where", ["loss", "gradient"])
@pytest.mark.parametrize("kind", ["fused", "batched", "looped"])
def test_a_device_that_is_not_finite_is_left_out(learner_of, lookup_of, take, kind, where):
    sizes = [5, 8, 3, 6, 7]
    plain = learner_of(network(), len(sizes))
    lookup, taken = lookup_of(plain, len(sizes)), take(sizes)
    first_pixels = [float(lookup([n], [chunk])[0][:, 0, 0, 0].max()) for n, chunk in enumerate(taken)]
    bad = int(np.argmax(first_pixels))
    limit = float(np.sort(first_pixels)[-2:].mean())  # above all but one device's
    learner = learner_of(Touchy(limit, where), len(sizes))
    gradients = make(kind, learner, lookup_of(learner, len(sizes)), len(sizes))
    found, shares = summed(learner, gradients, taken)
    good = [number for number in range(len(sizes)) if number != bad]
    expected, _ = summed(plain, make("looped", plain, lookup, len(sizes)), [taken[n] for n in good], good)
    assert [number for number, weight in enumerate(shares.weights) if weight == 0] == [bad]
    torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-12)


def test_learning_nothing_counts_everything(learner_of, take):
    learner = learner_of(network(), 3)
    shares = NoGradients(learner).add_up([0, 1, 2], take([4, 5, 6]))
    assert (shares.weights.tolist(), shares.losses.tolist()) == ([4, 5, 6], [0, 0, 0])


@pytest.mark.parametrize(
    ("layer", "mixes"),
    [
        (nn.BatchNorm2d(1), True),
        (nn.GroupNorm(1, 1), False),
        (nn.Dropout(0.5), False),
        (nn.InstanceNorm2d(1), False),
        (nn.Conv2d(1, 2, 3), False),
    ],
)
def test_what_mixes_samples_is_found_out_and_left_as_it_was(layer, mixes):
    model = nn.Sequential(layer).eval()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    assert mixes_samples(model, torch.randn(4, 1, 6, 6)) is mixes
    assert not model.training
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


@given(st.lists(st.integers(1, 50), min_size=1, max_size=40), st.integers(1, 60))
def test_chunks_are_all_of_it_and_no_larger_than_allowed(sizes, limit):
    parts = [sizes[part] for part in chunks(sizes, limit)]
    assert [size for part in parts for size in part] == sizes
    assert all(sum(part) <= limit or len(part) == 1 for part in parts)


class TestChoice:
    def choose(self, learner_of, lookup_of, model, loss=None, **simulation):
        config = load_config({"steps": 1, "devices": 4, "simulation": simulation})
        learner = learner_of(model, 4)
        return choose_gradients(
            config, learner, lookup_of(learner, 4), TASK.with_own(loss, None), ClusterStatistics(model, 4)
        )

    def test_fused_where_that_is_exact(self, learner_of, lookup_of):
        assert self.choose(learner_of, lookup_of, network()).description == "fused"

    def test_batched_when_asked(self, learner_of, lookup_of):
        small = nn.Sequential(nn.Flatten(), nn.Linear(36, CLASSES))
        assert "batched" in self.choose(learner_of, lookup_of, small, gradients="per-device").description

    def test_looped_where_nothing_else_is_exact_or_pays(self, learner_of, lookup_of):
        large = nn.Sequential(nn.Flatten(), nn.Linear(36, 9000), nn.Linear(9000, CLASSES))
        for model in (network(), large):
            chosen = self.choose(learner_of, lookup_of, model, gradients="per-device")
            assert "one after the other" in chosen.description
        assert "one after the other" in self.choose(learner_of, lookup_of, network(norm=True)).description
        other = self.choose(learner_of, lookup_of, network(), loss=lambda out, y: cross_entropy(out, y))
        assert "one after the other" in other.description

    def test_what_cannot_be_fused_is_refused(self, learner_of, lookup_of):
        with pytest.raises(ConfigError, match=r"simulation.gradients = fused: .*BatchNorm.*use auto"):
            self.choose(learner_of, lookup_of, network(norm=True), gradients="fused")
        with pytest.raises(
            ConfigError, match=r"only a loss that is a mean of samples' losses can be fused, .*use auto"
        ):
            self.choose(learner_of, lookup_of, network(), loss=lambda out, y: out.mean(), gradients="fused")
