"""Metrics of torchmetrics: the same in parts as in one, where their states are sums; else refused."""

from contextlib import suppress

import pytest
import torch

from scadles.assembly import build_dataset, build_task
from scadles.config import load_config
from scadles.data.torchvision import import_torchvision
from scadles.errors import ConfigError, MissingExtraError
from scadles.tasks.library_metrics import LibraryMetric


@pytest.fixture(scope="module")
def torchmetrics():
    with suppress(MissingExtraError):  # without it torchmetrics does not import it
        import_torchvision("models", "torchmetrics")
    return pytest.importorskip("torchmetrics", reason="pip install 'scadles[metrics]'")


def computed(metric, outputs, targets, parts):
    total = torch.zeros(metric.size, dtype=torch.float64)
    for x, y in zip(outputs.chunk(parts), targets.chunk(parts), strict=True):
        total += metric.sums(x, y)
    return metric.value(total)


@pytest.mark.parametrize("name", ["MulticlassF1Score", "MulticlassRecall", "MulticlassMatthewsCorrCoef"])
def test_of_labels_in_parts(torchmetrics, name):
    random = torch.Generator().manual_seed(0)
    outputs, targets = torch.randn(70, 5, generator=random), torch.randint(5, (70,), generator=random)
    theirs = getattr(torchmetrics.classification, name)(num_classes=5)
    expected = float(theirs(outputs, targets))
    assert computed(LibraryMetric(theirs, name), outputs, targets, 4) == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("name", ["MeanAbsoluteError", "R2Score", "MeanAbsolutePercentageError"])
def test_of_numbers_in_parts(torchmetrics, name):
    random = torch.Generator().manual_seed(1)
    outputs, targets = torch.randn(50, generator=random), torch.randn(50, generator=random)
    theirs = getattr(torchmetrics.regression, name)()
    metric = LibraryMetric(theirs, name)
    assert metric.higher_is_better is (name == "R2Score")
    expected = float(theirs(outputs, targets))
    assert computed(metric, outputs, targets, 3) == pytest.approx(expected, rel=1e-5)


def test_states_that_are_no_sums_are_refused(torchmetrics):
    with pytest.warns(UserWarning, match="in the buffer"):
        ranks = torchmetrics.regression.SpearmanCorrCoef()
    with pytest.raises(ConfigError, match=r"keeps preds in a way that does not add up"):
        LibraryMetric(ranks, "a:b")
    with pytest.raises(ConfigError, match="does not say whether more of it is better"):
        LibraryMetric(torchmetrics.regression.PearsonCorrCoef(), "a:b")


def test_it_is_named_in_the_settings_and_told_how_many_labels_there_are(torchmetrics):
    spec = "torchmetrics.classification:MulticlassF1Score"
    config = load_config(
        {
            "steps": 1,
            "task": {"metrics": [spec, "accuracy"]},
            "target": {"metric": "multiclass_f1_score", "at_least": 0.9},
        }
    )
    task = build_task(config, build_dataset(config))
    assert [metric.name for metric in task.metrics][:2] == ["multiclass_f1_score", "accuracy"]
    outputs, targets = torch.eye(10)[torch.arange(10)], torch.arange(10)
    assert task.metrics[0].value(task.metrics[0].sums(outputs, targets)) == pytest.approx(1.0)


def test_several_numbers_are_no_metric_of_a_run(torchmetrics):
    metric = LibraryMetric(torchmetrics.classification.MulticlassF1Score(num_classes=3, average=None), "a:b")
    with pytest.raises(ConfigError, match="several numbers"):
        metric.value(metric.sums(torch.eye(3), torch.arange(3)))
