"""A target of several parts: losses added up, metrics by part, answers by name or in order."""

import pytest
import torch
from torch.nn.functional import cross_entropy, l1_loss, mse_loss

from scadles.errors import ConfigError
from scadles.targets import TargetType
from small_tasks import task_of

TARGET = TargetType.of_parts({"kind": TargetType.label(3), "box": TargetType.numbers((2,))})
IN_ORDER = TargetType.of_parts({"0": TargetType.label(3), "1": TargetType.numbers((2,))})
SCALE = {"kind": None, "box": (torch.tensor([10.0, 20.0]), torch.tensor([2.0, 4.0]))}
PARTS = {"kind": "classification", "box": {"kind": "regression", "weight": 0.25}}
GENERATOR = torch.Generator().manual_seed(0)
SAID = {"kind": torch.randn(5, 3, generator=GENERATOR), "box": torch.randn(5, 2, generator=GENERATOR)}
KIND, BOX = torch.tensor([0, 2, 1, 1, 0]), 10 * torch.randn(5, 2, generator=GENERATOR)


def multitask(parts=PARTS, target=TARGET, scale=SCALE, **more):
    return task_of("multitask", target=target, scale=scale, parts=parts, **more)


def told(task, target=TARGET):
    """What the model should say, from a row of bytes for each target."""
    return task.pair(torch.zeros(5, 1), target.layout.pack(target.layout.structure([KIND, BOX])))[1]


def test_the_loss_is_the_weighted_sum_of_the_parts():
    task = multitask()
    y = told(task)
    mean, deviation = SCALE["box"]
    torch.testing.assert_close(y["box"], (BOX - mean) / deviation)
    expected = cross_entropy(SAID["kind"], KIND) + 0.25 * mse_loss(SAID["box"], y["box"])
    torch.testing.assert_close(task.minimised(SAID, y), expected)
    torch.testing.assert_close(task.each_loss(SAID, y).mean(), expected)
    assert task.each_loss(SAID, y).shape == (5,)
    assert (task.classes, task.weight(y), task.outputs) == (0, None, 5)


def test_metrics_are_those_of_the_parts_in_their_units():
    task = multitask()
    y = told(task)
    assert [metric.name for metric in task.metrics] == ["kind.accuracy", "box.mae", "box.rmse", "box.r2", "loss"]
    assert task.aim.metric == "kind.accuracy"
    measured = task.in_own_units(task.fit(SAID | {"hidden": torch.zeros(5, 9)}, y), y)
    found = {metric.name: metric.value(metric.sums(*measured).double()) for metric in task.metrics[:2]}
    mean, deviation = SCALE["box"]
    assert found["box.mae"] == pytest.approx(float(l1_loss(SAID["box"] * deviation + mean, BOX)), rel=1e-5)
    assert found["kind.accuracy"] == int((SAID["kind"].argmax(1) == KIND).sum()) / 5
    assert len(task.metrics[0].per_label(task.metrics[0].sums(*measured))) == 3


def test_parts_in_order_are_answered_in_order_or_by_their_numbers():
    scale = {"0": None, "1": None}
    task = multitask({"0": "classification", "1": "regression"}, IN_ORDER, scale)
    y = told(task, IN_ORDER)
    assert isinstance(y, tuple)
    expected = cross_entropy(SAID["kind"], KIND) + mse_loss(SAID["box"], BOX)
    for said in ([SAID["kind"], SAID["box"]], (SAID["kind"], SAID["box"], None), {"0": SAID["kind"], "1": SAID["box"]}):
        torch.testing.assert_close(task.minimised(said, y), expected)
        torch.testing.assert_close(task.each_loss(said, y).mean(), expected)
    with pytest.raises(ConfigError, match="expected a list or tuple of 2"):
        task.minimised([SAID["kind"]], y)


def twice(outputs, targets):
    """A loss of the user's."""
    return 2 * mse_loss(outputs["box"], targets["box"])


def of_part(outputs, targets):
    return (outputs - targets).abs().max()


@pytest.fixture
def own(monkeypatch):
    found = {"m:twice": twice, "m:of_part": of_part}
    monkeypatch.setattr("scadles.tasks.losses.import_callable", lambda setting, name, known: found[name])


def test_a_loss_of_ones_own_takes_the_place_of_the_sum(own):
    task = multitask(loss="m:twice")
    y = told(task)
    torch.testing.assert_close(task.minimised(SAID, y), 2 * mse_loss(SAID["box"], y["box"]))
    assert task.sample_losses is None


def test_a_part_may_have_a_loss_of_ones_own(own):
    task = multitask(PARTS | {"box": {"kind": "regression", "loss": "m:of_part", "weight": 3}})
    y = told(task)
    expected = cross_entropy(SAID["kind"], KIND) + 3 * of_part(SAID["box"], y["box"])
    torch.testing.assert_close(task.minimised(SAID, y), expected)
    assert task.sample_losses is None


def test_a_loss_of_the_callers_is_given_parts():
    task = multitask().with_own(lambda outputs, targets: mse_loss(outputs["box"], targets["box"]), None)
    y = told(task)
    torch.testing.assert_close(task.minimised(SAID, y), mse_loss(SAID["box"], y["box"]))


def test_parts_and_options_of_their_own():
    parts = {"kind": {"loss_options": {"label_smoothing": 0.1}, "metrics": ["top2_accuracy"]}, "box": "regression"}
    task = multitask(parts)
    y = told(task)
    expected = cross_entropy(SAID["kind"], KIND, label_smoothing=0.1) + mse_loss(SAID["box"], y["box"])
    torch.testing.assert_close(task.minimised(SAID, y), expected)
    assert task.metrics[0].name == "kind.top2_accuracy"


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({"parts": {"kind": "classification"}}, "task.parts names kind: samples has the parts kind, box; name each"),
        ({"parts": PARTS, "metrics": ["mae"]}, "task.metrics: with task.parts each part names its own"),
        ({"parts": PARTS | {"box": "forecasting"}}, "task.parts.box.kind = forecasting: a part of a target is told by"),
        ({"parts": PARTS | {"box": "multilabel"}}, "task.parts.box: task multilabel needs 0 and 1 for each label"),
        ({"parts": PARTS, "target": TargetType.label(3)}, "samples has class labels 0 to 2; name each part once"),
    ],
)
def test_what_does_not_suit_the_parts_is_refused(more, message):
    with pytest.raises(ConfigError, match=message):
        multitask(**more)


@pytest.mark.parametrize("kind", ["classification", "regression", "multilabel", "segmentation"])
def test_a_task_of_one_target_says_how_several_are_told(kind):
    with pytest.raises(ConfigError, match=r"say what is told of each, task: \{parts: \{kind: ..., box: ...\}\}"):
        task_of(kind, target=TARGET, scale=SCALE)


@pytest.mark.parametrize("kind", ["reconstruction", "forecasting", "language"])
def test_a_sample_of_several_parts_is_not_told_of_itself(kind):
    with pytest.raises(ConfigError, match=f"task {kind}: samples of samples have several parts"):
        task_of(kind, shape={"picture": (1, 4), "speed": ()}, target=TargetType.none())
