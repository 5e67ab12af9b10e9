import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from torch.nn.functional import cross_entropy

from scadles.fabric import LocalFabric
from scadles.training.evaluation import Evaluator


def make_model():
    model = nn.Sequential(nn.Linear(3, 8), nn.BatchNorm1d(8), nn.Dropout(0.5), nn.Linear(8, 4)).double()
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for p in model.parameters():
            p.copy_(torch.randn(p.shape, generator=generator))
    return model


def make_test_set(samples):
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(samples, 3, generator=generator, dtype=torch.float64)
    return x, torch.randint(4, (samples,), generator=generator)


@given(st.integers(1, 60), st.integers(1, 4), st.integers(1, 70))
def test_all_devices_together_see_the_whole_test_set_once(in_threads, samples, devices, batch_size):
    x, y = make_test_set(samples)
    with torch.no_grad():
        outputs = make_model().eval()(x)

    def work(fabric):
        return Evaluator(x, y, 4, cross_entropy, batch_size, fabric).score(make_model(), "test")

    scores = in_threads(devices, work)
    assert len(set(scores)) == 1
    assert scores[0].accuracy == int((outputs.argmax(dim=1) == y).sum()) / samples
    assert len(scores[0].per_label) == 4
    for label, accuracy in enumerate(scores[0].per_label):
        mine = y == label
        right = (outputs.argmax(dim=1) == y)[mine].double()
        assert accuracy == (round(float(right.mean()), 4) if mine.any() else None)
    assert scores[0].loss == pytest.approx(float(cross_entropy(outputs, y)), rel=1e-12)
    assert (scores[0].own, scores[0].spread) == ((), ())


@given(st.integers(1, 40), st.integers(1, 4))
def test_models_of_their_own_are_each_tested_on_everything(in_threads, samples, devices):
    x, y = make_test_set(samples)

    def own_model(rank):
        model = make_model()
        model[1].running_mean += rank  # as after training on other samples
        return model.eval()

    def work(fabric):
        return Evaluator(x, y, 4, cross_entropy, 16, fabric, own=True).score(own_model(fabric.rank), "test")

    scores = in_threads(devices, work)
    assert len(set(scores)) == 1
    with torch.no_grad():
        outputs = [own_model(rank)(x) for rank in range(devices)]
    right = torch.stack([(each.argmax(dim=1) == y).double() for each in outputs])
    assert scores[0].own == pytest.approx(right.mean(dim=1).tolist(), rel=1e-12)
    assert scores[0].accuracy == pytest.approx(float(right.mean()), rel=1e-12)
    assert scores[0].loss == pytest.approx(sum(float(cross_entropy(each, y)) for each in outputs) / devices, rel=1e-12)
    assert scores[0].spread == (min(scores[0].own), max(scores[0].own))
    for label, accuracy in enumerate(scores[0].per_label):
        mine = right[:, y == label]
        assert accuracy == (round(float(mine.mean()), 4) if mine.numel() else None)


@pytest.mark.parametrize("training", [True, False])
def test_a_test_changes_nothing(training):
    x, y = make_test_set(20)
    model = make_model().train(training)
    before = {name: t.clone() for name, t in model.state_dict().items()}
    Evaluator(x, y, 4, cross_entropy, 7, LocalFabric.create(1)[0]).score(model, "test")
    assert all(torch.equal(model.state_dict()[name], before[name]) for name in before)
    assert model.training is training
    assert all(p.grad is None for p in model.parameters())


def test_parts_that_are_frozen_stay_frozen():
    x, y = make_test_set(20)
    model = make_model().train()
    model[1].eval()
    Evaluator(x, y, 4, cross_entropy, 7, LocalFabric.create(1)[0]).score(model, "test")
    assert [part.training for part in model] == [True, False, True, True]
