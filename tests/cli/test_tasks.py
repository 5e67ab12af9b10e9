"""Tasks beyond one label for each picture, as a user runs them."""

import json
import math
import re

import numpy as np
import pytest
import torch
from torch import nn

import scadles
from scadles.observe import Evaluation, Rejection, RunFolder

RNG = np.random.default_rng(0)
X = RNG.normal(size=(460, 5)).astype(np.float32)
Y = (50 + 20 * X[:, 0] * X[:, 1] + 10 * X[:, 2]).astype(np.float32)


@pytest.fixture
def table(tmp_path):
    """Write a table with numbers to tell: ``table(train_y=..., ...)``."""

    def write(**changed):
        arrays = {"train_x": X[:400], "train_y": Y[:400], "test_x": X[400:], "test_y": Y[400:]} | changed
        np.savez(tmp_path / "table.npz", **{name: array for name, array in arrays.items() if array is not None})
        return f"npz:{tmp_path / 'table.npz'}"

    return write


@pytest.fixture
def settings(table):
    return {
        "seed": 1,
        "task": "regression",
        "target": {"metric": "mae", "at_most": 15.0},
        "duration_s": 120.0,
        "data": {"dataset": table()},
        "stream": {"rates": 60},
        "clock": {"speed": 20},
        "picture": False,
    }


def test_a_regression_to_its_target_simulated_resumed_and_compared(
    tmp_path, monkeypatch, settings, write_config, start_training, command
):
    config = write_config(tmp_path / "c.yaml", devices=2, **settings)
    run = start_training(tmp_path, config, "--local", 2, "--out", "real")
    assert run.wait() == 0, run.err
    assert re.search(r"mae [\d.]+ of 15, best", run.err)
    summary = RunFolder(tmp_path / "real").summary
    assert (summary.ended_by, summary.final_accuracy, summary.per_label, summary.online_accuracy) == (
        *("target", None, (), None),
    )
    outcome = summary.measured
    assert (outcome.task, outcome.metric, outcome.target) == ("regression", "mae", 15.0)
    assert outcome.final == outcome.metrics["mae"] <= 15
    assert outcome.final < outcome.metrics["rmse"]
    assert summary.time_to_target_s is not None
    tests = [e for e in RunFolder(tmp_path / "real").events(1) if isinstance(e, Evaluation)]
    assert tests[-1].metrics == outcome.metrics
    assert tests[-1].accuracy is None

    config = write_config(tmp_path / "c.yaml", devices=2, **settings | {"target": {"at_most": 8.0}})
    again = start_training(tmp_path, config, "--local", 2, "--out", "real", "--resume")
    assert again.wait() == 0, again.err
    resumed = RunFolder(tmp_path / "real").summary
    assert (resumed.ended_by, resumed.measured.target) == ("target", 8.0)
    assert resumed.measured.final <= 8
    assert resumed.steps >= summary.steps

    monkeypatch.chdir(tmp_path)
    assert command("simulate", "c.yaml", "--out", "virtual")[0] == 0
    code, out, _ = command("compare", "real", "virtual")
    assert code == 0
    assert "target mae" in out
    assert "speed-up against real" in out
    code, out, _ = command("sweep", "c.yaml", "--over", "method=ddl,scadles", "--seeds", "1", "--out", "sweep")
    assert code == 0
    assert "final mae" in out


def test_what_cannot_be_learnt_from_is_rejected_with_a_reason(tmp_path, settings, table):
    train_x, train_y = X[:400].copy(), Y[:400].copy()
    train_x[3, 0], train_y[5], train_y[9] = np.nan, np.nan, np.inf
    config = settings | {"data": {"dataset": table(train_x=train_x, train_y=train_y)}, "steps": 99, "target": None}
    config["stream"] = {"rates": 60, "end": "stop"}
    config["buffer"] = {"policy": "persistence"}  # a busy machine would drop some before they are looked at
    real = scadles.train(config, out=tmp_path / "real", quiet=True)
    virtual = scadles.simulate(config, out=tmp_path / "virtual", quiet=True)
    for name, summary in (("real", real), ("virtual", virtual)):
        told = [e for e in RunFolder(tmp_path / name).events(0) if isinstance(e, Rejection)]
        found = {reason: sum(e.count for e in told if e.reason == reason) for reason in {e.reason for e in told}}
        assert found == {"NaN or infinite values": 1, "a target with NaN or infinite values": 2}
        assert summary.samples.rejected == 3


def test_a_loop_of_ones_own_is_given_what_the_model_should_say(tmp_path, settings, table):
    config = settings | {"task": "reconstruction", "steps": 12, "target": None}
    config["data"] = {"dataset": table(train_y=None, test_y=None)}
    model = nn.Sequential(nn.Linear(5, 4), nn.Linear(4, 5))
    with scadles.join(config, model=model, out=tmp_path / "run", quiet=True) as device:
        assert [metric.name for metric in device.task.metrics] == ["mse", "mae"]
        for batch in device.batches():
            assert batch.x is batch.y
            outputs = model(batch.x)
            step = device.step(device.task.minimised(outputs, batch.y), outputs)
            assert step.correct is None
    summary = device.summary
    assert summary.measured.metrics["mse"] == summary.measured.final < 1
    assert summary.online_accuracy is None


def test_a_loss_of_the_callers_takes_the_place_of_the_settings(tmp_path, settings):
    config = settings | {"steps": 3, "target": None}
    losses = []

    def quantile(outputs, targets):
        losses.append((outputs.shape, targets.shape))
        wrong = targets - outputs
        return torch.maximum(0.9 * wrong, -0.1 * wrong).mean()

    model = nn.Sequential(nn.Flatten(), nn.Linear(5, 1))
    scadles.train(config, model=model, loss=quantile, out=tmp_path / "run", quiet=True)
    assert {(len(outputs), outputs) for outputs, _ in losses} == {(1, targets) for _, targets in losses}
    virtual = scadles.simulate(config, model=model, loss=quantile, out=tmp_path / "virtual", quiet=True)
    assert "one after the other" in virtual.simulated.gradients


class Variational(nn.Module):
    """A model that answers with several tensors."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.inner, self.head = nn.Linear(5, 4), nn.Linear(2, 5)

    def forward(self, x):
        mean, spread = self.inner(x).chunk(2, dim=1)
        return {"mean": mean, "spread": spread, "out": self.head(mean)}


def elbo(outputs, targets):
    mean, spread = outputs["mean"], outputs["spread"]
    divergence = 0.5 * (mean**2 + spread.exp() - spread - 1).sum(dim=1).mean()
    return nn.functional.mse_loss(outputs["out"], targets) + 0.01 * divergence


def test_a_model_with_several_answers_and_a_loss_of_its_own_is_the_same_simulated(tmp_path, settings):
    config = settings | {"task": "reconstruction", "steps": 6, "target": None}
    real = scadles.VirtualClock()
    with scadles.join(config, model=Variational(), loss=elbo, out=tmp_path / "real", quiet=True, clock=real) as device:
        for batch in device.batches():
            outputs = device.model(batch.x)
            if len(batch) > 2:  # in parts, which come to the same
                for part in (slice(2), slice(2, None)):
                    x, y = batch.x[part], batch.y[part]
                    outputs = device.model(x)
                    device.accumulate(elbo(outputs, y), outputs)
                device.step()
            else:
                device.step(elbo(outputs, batch.y), outputs)
    virtual = scadles.simulate(config, model=Variational(), loss=elbo, out=tmp_path / "virtual", quiet=True)
    assert virtual.samples == device.summary.samples
    assert virtual.measured.metrics == pytest.approx(device.summary.measured.metrics, rel=1e-4)


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        (["task.kind=classification"], "train_y: found float32 [400], expected integer labels [400] from 0"),
        (["task.kind=multilabel"], "train_y: found float32 [400], expected 0 and 1 for each label, [400, labels]"),
        (["task.kind=language"], "task language: samples of npz:"),
        (["task.kind=regresion"], "task.kind 'regresion'; did you mean regression, or write"),
        (["task.loss=mse_los"], "task.loss 'mse_los'; did you mean mse_loss, or write"),
        (["task.loss_options={delta: 1}"], "task.loss_options.delta: mse_loss has no such argument"),
        (
            ["task.metrics=[accuracy]"],
            "task.metrics: regression has no metric 'accuracy'; there are mae, mse, rmse, r2",
        ),
        (["target={metric: mse, at_most: 1}"], "target: task regression measures mae, rmse and r2, not mse"),
        (["target={metric: r2, at_most: 1}"], "target: of r2 more is better; write {metric: r2, at_least: 1}"),
        (
            ["target=null", "target_accuracy=0.9"],
            "target_accuracy: task regression measures mae, rmse and r2, not accuracy",
        ),
        (["data.partition=labels"], "data.partition = labels: npz:"),
        (
            ["injection.alpha=1", "injection.beta=1", "injection.refuse_labels=[1]", "devices=2"],
            "refuse_labels names labels",
        ),
        (["model=cnn"], "model cnn takes windows [channels, time] or pictures"),
        (
            ["stream.url=kafka://127.0.0.1:1/t", "clock.speed=1", "stream.codec.format=image"],
            "a picture has no place for",
        ),
        (
            ["data.dataset=digits"],
            "task regression needs numbers: digits has class labels 0 to 9; set another task.kind",
        ),
    ],
)
def test_settings_that_do_not_suit_the_task_are_told_in_one_message(
    tmp_path, monkeypatch, settings, write_config, command, changes, told
):
    monkeypatch.chdir(tmp_path)
    write_config(tmp_path / "c.yaml", **settings)
    way = "simulate" if any(change.startswith("injection") for change in changes) else "train"
    code, _, err = command(way, "c.yaml", *(part for change in changes for part in ("--set", change)))
    assert code == 2
    assert len(re.findall("error: ", err)) == 1
    assert told in err
    assert not (tmp_path / "runs").exists() or not list(tmp_path.glob("runs/*/events*"))


def test_a_model_that_diverges_says_so_and_its_folder_is_read(tmp_path, settings, capsys):
    config = settings | {"steps": 40, "target": {"at_most": 1e-9}, "optimizer": {"lr": 1e6}, "lr": {"scaling": "none"}}
    summary = scadles.simulate(config, out=tmp_path / "run", quiet=True)
    folder = RunFolder(tmp_path / "run")
    times, values = folder.tests()
    assert len(times) == len(values) > 0
    assert json.loads((tmp_path / "run" / "summary.json").read_text())["measured"]["final"] == summary.measured.final
    assert summary.measured.final is None or not math.isnan(summary.measured.final)
    assert summary.time_to_target_s is None
