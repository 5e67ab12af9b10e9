import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from sklearn import metrics as reference
from torch.nn.functional import cross_entropy

from scadles.targets import TargetType
from small_tasks import task_of

LABEL, NUMBERS, ONE = TargetType.label(7), TargetType.numbers((3,)), TargetType.numbers(())
HOT, MAP = TargetType((5,), torch.uint8, 2), TargetType((4, 6), torch.uint8, 3)


def drawn(seed, *shape):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def labels(seed, classes, *shape):
    return torch.randint(classes, shape, generator=torch.Generator().manual_seed(seed))


def top(outputs, targets, k):
    return reference.top_k_accuracy_score(targets, outputs, k=k, labels=range(7))


def iou(outputs, targets):
    return reference.jaccard_score(targets.flatten(), outputs.argmax(1).flatten(), average="macro")


CASES = {
    "accuracy": ("classification", LABEL, lambda n: (drawn(0, n, 7), labels(1, 7, n)), lambda o, y: top(o, y, 1)),
    "top3_accuracy": ("classification", LABEL, lambda n: (drawn(0, n, 7), labels(1, 7, n)), lambda o, y: top(o, y, 3)),
    "mae": ("regression", NUMBERS, lambda n: (drawn(0, n, 3), drawn(1, n, 3)), reference.mean_absolute_error),
    "rmse": (
        "regression",
        ONE,
        lambda n: (drawn(0, n), drawn(1, n)),
        lambda o, y: reference.mean_squared_error(y, o) ** 0.5,
    ),
    "r2": ("regression", NUMBERS, lambda n: (drawn(0, n, 3), drawn(1, n, 3)), lambda o, y: reference.r2_score(y, o)),
    "f1": (
        "multilabel",
        HOT,
        lambda n: (drawn(0, n, 5), labels(1, 2, n, 5).float()),
        lambda o, y: reference.f1_score(y, o > 0, average="micro", zero_division=1.0),
    ),
    "exact_match": (
        "multilabel",
        HOT,
        lambda n: (drawn(0, n, 5) / 9 + labels(1, 2, n, 5) - 0.5, labels(1, 2, n, 5).float()),
        lambda o, y: reference.accuracy_score(y, o > 0),
    ),
    "iou": ("segmentation", MAP, lambda n: (drawn(0, n, 3, 4, 6), labels(1, 3, n, 4, 6)), iou),
}


@pytest.mark.parametrize("name", CASES)
@given(samples=st.integers(3, 40), parts=st.integers(1, 5))
def test_sums_over_any_parts_are_what_a_library_computes_of_the_whole(name, samples, parts):
    kind, target, make, expected = CASES[name]
    metric = next(m for m in task_of(kind, target=target, metrics=[name]).metrics if m.name == name)
    outputs, targets = make(samples)
    total = torch.zeros(metric.size, dtype=torch.float64)
    for some in np.array_split(np.arange(samples), parts):
        if len(some):
            total += metric.sums(outputs[some], targets[some]).double()
    assert metric.value(total) == pytest.approx(float(expected(outputs, targets)), rel=1e-6, abs=1e-12)


@given(samples=st.integers(1, 20), parts=st.integers(1, 3))
def test_perplexity_is_of_all_tokens(samples, parts):
    metric = task_of("language", shape=(9,), vocabulary=11).metrics[0]
    scores, tokens = drawn(0, samples, 11, 8), labels(1, 11, samples, 8)
    total = sum(metric.sums(scores[part::parts], tokens[part::parts]) for part in range(parts))
    assert (metric.name, metric.higher_is_better) == ("perplexity", False)
    assert metric.value(total) == pytest.approx(math.exp(cross_entropy(scores.double(), tokens)), rel=1e-9)


def test_what_no_float_can_hold_is_infinite():
    metric = task_of("language", shape=(2,), vocabulary=2).metrics[0]
    assert metric.value(metric.sums(torch.tensor([[[2000.0], [0.0]]]), torch.tensor([[1]]))) == math.inf


def test_labels_have_values_of_their_own():
    accuracy, iou = (
        task_of(*case).metrics[0] for case in (("classification", (4,), LABEL), ("segmentation", (1,), MAP))
    )
    scores = torch.eye(7)[[0, 0, 2]]
    assert accuracy.per_label(accuracy.sums(scores, torch.tensor([0, 1, 2]))) == (1.0, 0.0, 1.0, *[None] * 4)
    said, true = torch.tensor([[0, 0, 1]]), torch.tensor([[0, 1, 1]])
    sums = iou.sums(torch.eye(3)[said].movedim(-1, 1), true)
    assert iou.per_label(sums) == (0.5, 0.5, None)
    assert iou.value(sums.double()) == 0.5


def test_a_target_that_never_varies_is_not_explained():
    r2 = task_of("regression", target=ONE).metrics[2]
    assert r2.name == "r2"
    assert r2.value(r2.sums(torch.tensor([1.0, 2.0]), torch.tensor([3.0, 3.0]))) == 1.0
