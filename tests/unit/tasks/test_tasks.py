import math
import sys

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import scadles
from scadles.config import load_config
from scadles.errors import ConfigError
from scadles.targets import TargetType
from scadles.tasks import KINDS, Goal, SampleMean, Task
from scadles.tasks.losses import torch_losses
from small_tasks import classification, task_of

LABEL, NUMBERS, NONE = TargetType.label(4), TargetType.numbers((3,)), TargetType.none()
HOT, MAP = TargetType((5,), torch.uint8, 2), TargetType((2, 3), torch.uint8, 4)
SUITED = {
    "classification": {"target": LABEL},
    "multilabel": {"target": HOT},
    "regression": {"target": NUMBERS},
    "forecasting": {"target": NONE, "shape": (2, 9), "horizon": 3},
    "reconstruction": {"target": NONE, "shape": (2, 9)},
    "language": {"target": NONE, "shape": (9,), "vocabulary": 11},
    "segmentation": {"target": MAP, "shape": (1, 2, 3)},
}


def batch_of(given, count=6):
    """Samples and targets as a stream brings them, prepared."""
    shape, target = given.get("shape", (4,)), given["target"]
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(count, *shape, generator=generator)
    if "vocabulary" in given:
        x = torch.randint(given["vocabulary"], (count, *shape), generator=generator)
    y = torch.randn(count, *target.shape, generator=generator)
    if target.classes:
        y = torch.randint(target.classes, (count, *target.shape), generator=generator).to(target.dtype)
    return x, y


def answers(task, given, x):
    """What a built-in network says: so many values for each sample."""
    values = task.outputs * (x.shape[1] if "vocabulary" in given else 1)
    said = torch.randn(len(x), values, generator=torch.Generator().manual_seed(1)).requires_grad_()
    return said.view(len(x), x.shape[1], task.outputs) if "vocabulary" in given else said


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_takes_a_built_in_networks_answer_and_its_mean_is_that_of_samples(kind):
    given = SUITED[kind]
    task = task_of(kind, **given)
    x, y = task.pair(*batch_of(given))
    outputs = answers(task, given, x)
    task.check(outputs, y)
    loss, each = task.minimised(outputs, y), task.each_loss(outputs, y)
    assert each.shape == (len(x),)
    torch.testing.assert_close(each.mean(), loss)
    loss.backward()
    measured = task.in_own_units(task.fit(outputs.detach(), y), y)
    for metric in task.metrics:
        value = metric.value(metric.sums(*measured).double())
        assert math.isfinite(value)
        assert isinstance(value, float)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("target", [LABEL, HOT, NUMBERS, MAP, NONE], ids=lambda target: target.describe())
def test_a_data_set_that_does_not_suit_a_task_is_refused_in_one_sentence(kind, target):
    given = SUITED[kind] | {"target": target}
    suited = {
        "classification": [LABEL],
        "multilabel": [HOT],
        "regression": [NUMBERS],
        "segmentation": [HOT, MAP],
    }
    if target in suited.get(kind, [target]):
        task_of(kind, **given)
        return
    with pytest.raises(ConfigError, match=rf"task {kind} needs .*: samples has {target.describe()[:8]}"):
        task_of(kind, **given)


def test_what_reconstruction_forecasting_and_language_make_of_a_sample():
    windows, tokens = torch.arange(2 * 3 * 5.0).view(2, 3, 5), torch.arange(8).view(2, 4)
    x, y = task_of("reconstruction", shape=(3, 5)).pair(windows, torch.empty(2, 0))
    assert x is windows
    assert y is windows
    x, y = task_of("forecasting", shape=(3, 5), horizon=2).pair(windows, torch.empty(2, 0))
    assert torch.equal(torch.cat([x, y], dim=2), windows)
    assert y.shape == (2, 3, 2)
    x, y = task_of("language", shape=(4,), vocabulary=8).pair(tokens, torch.empty(2, 0))
    assert (x.tolist(), y.tolist()) == ([[0, 1, 2], [4, 5, 6]], [[1, 2, 3], [5, 6, 7]])


def test_numbers_are_learnt_in_deviations_and_measured_in_their_own_units():
    scale = (torch.tensor(150.0), torch.tensor(80.0))
    task = task_of("regression", target=TargetType.numbers(()), scale=scale)
    _, y = task.pair(torch.zeros(2, 4), torch.tensor([150.0, 310.0]))
    assert y.tolist() == [0.0, 2.0]
    said, true = task.in_own_units(torch.tensor([0.5, 2.0]), y)
    assert (said.tolist(), true.tolist()) == ([190.0, 310.0], [150.0, 310.0])
    mae = task.metrics[0]
    assert mae.value(mae.sums(said, true)) == 20.0


@pytest.mark.parametrize(
    ("outputs", "shape"), [(torch.ones(6, 1), (6,)), (torch.ones(6), (6, 1)), ({"logits": torch.ones(6, 2, 3)}, (6, 6))]
)
def test_numbers_are_never_broadcast(outputs, shape):
    target = torch.zeros(shape)
    assert task_of("regression", target=NUMBERS).fit(outputs, target).shape == target.shape


def test_of_several_tensors_the_one_that_fits_is_the_answer():
    latent, said = torch.zeros(6, 2), torch.ones(6, 3)
    assert task_of("reconstruction", shape=(3,)).fit((latent, said), torch.zeros(6, 3)) is said


@pytest.mark.parametrize(
    ("kind", "outputs", "message"),
    [
        (
            "regression",
            torch.zeros(6, 2),
            r"answers 6 samples with \[6, 2\], and their targets are \[6, 3\]: .* 3 values",
        ),
        ("classification", torch.zeros(6, 3), r"accuracy needs \[6, 4\], one for each label"),
        ("segmentation", torch.zeros(6, 6), r"it must answer each with 24 values"),
        ("language", torch.zeros(6, 11), r"it must give scores \[6, 8, vocabulary\], those of the next token"),
        ("language", torch.zeros(6, 8, 5), r"the model answers \[6, 5, 8\] where targets are \[6, 8\], and loss or"),
        ("weighted", torch.zeros(6, 4), r"loss or metrics cannot be computed: RuntimeError: weight tensor should be"),
        ("reconstruction", {"extra": None}, r"the model's outputs are a dict without"),
    ],
)
def test_a_model_that_answers_otherwise_is_refused_in_one_sentence(kind, outputs, message):
    given = SUITED.get(kind, SUITED["classification"])
    task = classification(4, loss_options={"weight": [1, 2]}) if kind == "weighted" else task_of(kind, **given)
    _, y = task.pair(*batch_of(given))
    with pytest.raises(ConfigError, match=message):
        task.check(outputs, y)


@pytest.mark.parametrize(
    ("kind", "settings", "message"),
    [
        ("regresion", {}, "task.kind 'regresion'; did you mean regression, or write"),
        ("regression", {"loss": "mse_los"}, "task.loss 'mse_los'; did you mean mse_loss?"),
        (
            "regression",
            {"loss": "huber_loss", "loss_options": {"beta": 1}},
            r"loss_options.beta: huber_loss has no such",
        ),
        ("regression", {"metrics": ["maee"]}, r"task.metrics: regression has no metric 'maee'; did you mean mae\?"),
        ("classification", {"metrics": ["mae"]}, r"classification has no metric 'mae'; there are accuracy, loss, top5"),
        ("regression", {"horizon": 3}, r"task.horizon = 3: it belongs to forecasting; leave it out"),
        ("forecasting", {"horizon": 9}, r"task.horizon = 9: samples of samples have shape \[2, 9\]; forecasting needs"),
        ("regression", {"goal": {"target_accuracy": 0.9}}, r"task regression measures mae, rmse and r2, not accuracy"),
        (
            "regression",
            {"goal": {"target": {"at_least": 2}}},
            r"of mae less is better; write {metric: mae, at_most: 2}",
        ),
        ("classification", {"goal": {"target": {"at_most": 1}}}, r"of accuracy more is better; write .*at_least: 1}"),
        ("math:sqrt", {"metrics": ["mae"]}, r"task.metrics: a task of your own \(math:sqrt\) says it itself"),
        ("builtins:dict", {}, r"task.kind 'builtins:dict' returned dict, not a scadles.Task"),
        (
            "classification",
            {"loss_options": {"weight": [1, -1, 1, 1]}},
            r"weight = \[1.0, -1.0, 1.0, 1.0\]: one number for",
        ),
        ("classification", {"loss_options": {"weight": [0, 0, 0, 0]}}, r"none below 0, and not all of them 0"),
        ("regression", {"metrics": ["builtins:dict"]}, r"'builtins:dict' returned dict, not a scadles.tasks.Metric"),
    ],
)
def test_settings_that_cannot_be_are_named(kind, settings, message):
    with pytest.raises(ConfigError, match=message):
        task_of(kind, **SUITED.get(kind, {}) | settings)


@pytest.mark.parametrize(
    ("tree", "message"),
    [
        ({"target": {"metric": "mae"}}, "target: say one of at_most and at_least"),
        ({"target": {"at_most": 1, "at_least": 2}}, "target: say one of at_most and at_least"),
        ({"target": {"at_most": 1}, "target_accuracy": 0.5}, "target and target_accuracy both say"),
        ({"task": {"kind": "regression", "los": "x"}}, "task.los: unknown setting; did you mean loss?"),
        ({"task": 3}, "task"),
    ],
)
def test_settings_that_contradict_each_other_are_refused(tree, message):
    with pytest.raises(ConfigError, match=message.replace("?", r"\?")):
        load_config({"steps": 1} | tree)


def test_a_name_alone_is_the_kind_and_is_not_lost_when_a_part_is_set():
    config = load_config({"steps": 1, "task": "regression"}, ["task.loss=l1_loss"])
    assert (config.task.kind, config.task.loss) == ("regression", "l1_loss")
    assert load_config({"steps": None, "task": "regression", "target": {"at_most": 1}}).aims
    assert load_config(config.to_yaml() and config).task == config.task


def test_torch_names_its_losses_and_takes_their_arguments():
    known = torch_losses()
    assert {"cross_entropy", "mse_loss", "huber_loss", "smooth_l1_loss", "binary_cross_entropy_with_logits"} <= set(
        known
    )
    scores, y = torch.randn(6, 4), torch.tensor([0, 1, 2, 3, 0, 1])
    smoothed = classification(4, loss="cross_entropy", loss_options={"label_smoothing": 0.1})
    torch.testing.assert_close(smoothed.minimised(scores, y), F.cross_entropy(scores, y, label_smoothing=0.1))
    torch.testing.assert_close(smoothed.each_loss(scores, y).mean(), smoothed.minimised(scores, y))
    weighted = classification(4, loss_options={"weight": [1, 2, 5, 1]})
    weight = torch.tensor([1.0, 2.0, 5.0, 1.0])
    torch.testing.assert_close(weighted.minimised(scores, y), F.cross_entropy(scores, y, weight=weight))
    assert weighted.sample_losses is None  # its mean is over weights, not over samples
    assert (weighted.weight(y), smoothed.weight(y)) == (12.0, None)
    ignoring = classification(4, loss_options={"ignore_index": 3})
    assert ignoring.weight(y) == 5.0
    halves = [
        (part.minimised(scores[s], y[s]), part.weight(y[s])) for part in [weighted] for s in (slice(2), slice(2, 6))
    ]
    mean = sum(loss * weight for loss, weight in halves) / sum(weight for _, weight in halves)
    torch.testing.assert_close(mean, weighted.minimised(scores, y))


def test_a_goal_knows_which_way_is_better():
    up, down = Goal("accuracy", higher_is_better=True, limit=0.9), Goal("mae", higher_is_better=False, limit=0.9)
    assert [up.reached(value) for value in (0.8, 0.9, 1.0, math.nan)] == [False, True, True, False]
    assert [down.reached(value) for value in (0.8, 0.9, 1.0, math.nan)] == [True, True, False, False]
    assert (up.better(2, 1), down.better(2, 1), up.better(1, None), down.better(1, math.nan)) == (
        True,
        False,
        True,
        True,
    )
    assert not Goal("mae", higher_is_better=False).reached(0.0)


def test_the_targets_metric_comes_first():
    task = task_of("regression", target=NUMBERS, goal={"target": {"metric": "r2", "at_least": 0.8}})
    assert [metric.name for metric in task.metrics] == ["r2", "mae", "rmse"]
    assert task.aim == Goal("r2", higher_is_better=True, limit=0.8)


@pytest.fixture
def mine(tmp_path, monkeypatch):
    """A module of the user's, in the current folder."""
    (tmp_path / "my_task.py").write_text(
        "import torch\n"
        "from torch.nn.functional import l1_loss\n"
        "from scadles import Task\n"
        "from scadles.tasks import SampleMean\n"
        "def off(): return SampleMean('off', lambda o, y: (o - y).abs().flatten(1).mean(1), higher_is_better=False)\n"
        "def doubling(shape, target):\n"
        "    return Task(loss=l1_loss, metrics=[off()], outputs=shape[0], pair=lambda x, y: (x, 2 * x))\n"
        "def nothing(): return Task(loss=l1_loss, metrics=[])\n"
        "def needs(width): return None\n"
        "def loss(outputs, targets, power=1): return ((outputs - targets).abs() ** power).mean()\n"
        "def fails(outputs, targets): raise RuntimeError('it broke')\n"
        "def says(outputs, targets): return 'much'\n"
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.delitem(sys.modules, "my_task", raising=False)


@pytest.mark.usefixtures("mine")
def test_a_task_loss_and_metric_of_ones_own():
    task = task_of("my_task:doubling", shape=(4,))
    assert isinstance(task, scadles.Task)
    assert (task.kind, task.outputs, task.aim.metric) == ("my_task:doubling", 4, "off")
    x, y = task.pair(torch.ones(2, 4), torch.empty(2, 0))
    assert torch.equal(y, 2 * x)
    task.check(x, y)
    own = task_of("regression", target=NUMBERS, loss="my_task:loss", loss_options={"power": 2}, metrics=["my_task:off"])
    assert float(own.minimised(torch.full((2, 3), 3.0), torch.ones(2, 3))) == 4.0
    assert own.sample_losses is None
    with pytest.raises(ConfigError, match="it has no metric"):
        task_of("my_task:nothing")
    with pytest.raises(ConfigError, match="needs width, which nobody gives it: only shape and target are offered"):
        task_of("my_task:needs")
    with pytest.raises(
        ConfigError, match=r"loss_options.powr: my_task:loss has no such argument; did you mean power\?"
    ):
        task_of("regression", target=NUMBERS, loss="my_task:loss", loss_options={"powr": 2})


def test_a_loss_of_the_callers_is_given_what_the_model_says():
    class Variational(nn.Module):
        def forward(self, x):
            return x * 0.5, torch.zeros(len(x), 2)

    seen = []

    def loss(outputs, targets):
        seen.append(type(outputs))
        return F.mse_loss(outputs[0], targets) if isinstance(outputs, tuple) else F.mse_loss(outputs, targets)

    task = task_of("reconstruction", shape=(3,)).with_own(loss, None)
    x, y = task.pair(torch.ones(4, 3), torch.empty(4, 0))
    task.check(Variational()(x), y)
    task.check(torch.ones(4, 1, 3), y)
    assert seen == [tuple, torch.Tensor]


def test_a_way_to_the_answer_of_the_callers_comes_before_its_form():
    task = task_of("regression", target=TargetType.numbers(())).with_own(None, lambda outputs: outputs["deep"][0])
    assert task.fit({"deep": [torch.ones(4, 1)]}, torch.zeros(4)).shape == (4,)


def test_metrics_and_losses_of_another_form_are_told():
    wrong = SampleMean("off", lambda outputs, targets: outputs.mean(), higher_is_better=False)
    x = torch.ones(2, 3)
    with pytest.raises(ConfigError, match="loss or metrics cannot be computed: TypeError"):
        Task(loss=F.mse_loss, metrics=[wrong]).check(x, x)
    with pytest.raises(ConfigError, match=r"the loss must be one number, the mean; its shape is \[2, 3\]"):
        Task(loss=lambda o, y: o - y, metrics=[task_of("regression", target=NUMBERS).metrics[0]]).check(x, x)


@pytest.mark.usefixtures("mine")
@pytest.mark.parametrize(
    ("kind", "settings", "message"),
    [
        ("classification", {"loss": "my_task:fails"}, r"loss or metrics cannot be computed: RuntimeError: it broke"),
        ("classification", {"loss": "my_task:says"}, r"the loss must be one number, the mean; it is str"),
        ("regression", {"loss": "my_task:says"}, r"the loss must be one number, the mean; it is str"),
        ("numbers", {"loss": "cross_entropy"}, r"loss or metrics cannot be computed: IndexError"),
        (
            "numbers",
            {"loss_options": {"weight": [1.0] * 6}},
            r"loss or metrics cannot be computed: ValueError: Weights",
        ),
    ],
)
def test_a_loss_that_cannot_be_computed_is_told_before_the_first_step(kind, settings, message):
    given = SUITED.get(kind, {"target": TargetType.numbers(())})
    task = task_of("regression" if kind == "numbers" else kind, **given, **settings)
    x, y = task.pair(*batch_of(given))
    with pytest.raises(ConfigError, match=message):
        task.check(answers(task, given, x), y)


def test_arguments_of_a_loss_may_be_true_or_false():
    task = task_of("regression", target=NUMBERS, loss="poisson_nll_loss", loss_options={"log_input": False})
    task.check(torch.ones(6, 3), torch.ones(6, 3))
