import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from torch.nn.functional import cross_entropy

from scadles.fabric import LocalFabric
from scadles.targets import TargetType
from scadles.training.evaluation import Evaluator
from small_tasks import classification, task_of


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
        return Evaluator(x, y, classification(4), batch_size, fabric).score(make_model(), "test")

    scores = in_threads(devices, work)
    assert len(set(scores)) == 1
    assert scores[0].value == int((outputs.argmax(dim=1) == y).sum()) / samples
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
        return Evaluator(x, y, classification(4), 16, fabric, own=True).score(own_model(fabric.rank), "test")

    scores = in_threads(devices, work)
    assert len(set(scores)) == 1
    with torch.no_grad():
        outputs = [own_model(rank)(x) for rank in range(devices)]
    right = torch.stack([(each.argmax(dim=1) == y).double() for each in outputs])
    assert scores[0].own == pytest.approx(right.mean(dim=1).tolist(), rel=1e-12)
    assert scores[0].value == pytest.approx(float(right.mean()), rel=1e-12)
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
    Evaluator(x, y, classification(4), 7, LocalFabric.create(1)[0]).score(model, "test")
    assert all(torch.equal(model.state_dict()[name], before[name]) for name in before)
    assert model.training is training
    assert all(p.grad is None for p in model.parameters())


def test_parts_that_are_frozen_stay_frozen():
    x, y = make_test_set(20)
    model = make_model().train()
    model[1].eval()
    Evaluator(x, y, classification(4), 7, LocalFabric.create(1)[0]).score(model, "test")
    assert [part.training for part in model] == [True, False, True, True]


TASKS = {
    "regression": {
        "target": TargetType.numbers((3,)),
        "scale": (torch.tensor([1.0, 0, 2]), torch.tensor([3.0, 1, 0.5])),
    },
    "multilabel": {"target": TargetType((3,), torch.uint8, 2), "metrics": ["f1", "exact_match", "loss"]},
    "classification": {"target": TargetType.label(3), "loss_options": {"weight": [1, 2, 5]}, "metrics": ["loss"]},
}


@pytest.mark.parametrize("kind", TASKS)
@given(samples=st.integers(1, 30), devices=st.integers(1, 4), batch_size=st.integers(1, 40))
def test_metrics_over_devices_and_batches_are_those_of_the_whole(in_threads, kind, samples, devices, batch_size):
    task = task_of(kind, **TASKS[kind])
    x, model = torch.randn(samples, 5, generator=torch.Generator().manual_seed(0)), nn.Linear(5, 3)
    with torch.no_grad():
        model.weight.copy_(torch.randn(3, 5, generator=torch.Generator().manual_seed(1)))
        outputs = model(x)
    y = torch.randn(samples, 3, generator=torch.Generator().manual_seed(2))
    y = {"multilabel": (y > 0).to(torch.uint8), "classification": y.argmax(1)}.get(kind, y)
    x, y = task.pair(x, y)

    def work(fabric):
        return Evaluator(x, y, task, batch_size, fabric).score(model, "test")

    scores = in_threads(devices, work)
    assert len(set(scores)) == 1
    measured = task.in_own_units(task.fit(outputs, y), y)
    for metric in task.metrics:
        sums = metric.sums(*measured).double()
        expected = float(task.minimised(outputs, y)) if metric.name == "loss" else metric.value(sums)
        assert dict(scores[0].values)[metric.name] == pytest.approx(expected, rel=1e-5, nan_ok=True)
    assert scores[0].loss == pytest.approx(float(task.minimised(outputs, y)), rel=1e-5)


def test_each_model_of_its_own_has_the_runs_metric(in_threads):
    task = task_of("regression", target=TargetType.numbers(()))
    x = torch.ones(4, 1)

    def work(fabric):
        model = nn.Linear(1, 1)
        nn.init.constant_(model.weight, 0.0)
        nn.init.constant_(model.bias, float(fabric.rank))
        return Evaluator(x, torch.zeros(4), task, 3, fabric, own=True).score(model, "test")

    score = in_threads(3, work)[0]
    assert (score.own, score.value, score.spread) == ((0.0, 1.0, 2.0), 1.0, (0.0, 2.0))
