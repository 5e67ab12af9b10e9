"""Samples and targets of several parts, as a user runs them."""

import sys

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

import scadles
from scadles.observe import Rejection, RunFolder
from two_inputs import SETTINGS, arrays, write_files


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delitem(sys.modules, "drone", raising=False)
    monkeypatch.syspath_prepend(tmp_path)
    write_files(tmp_path)
    return tmp_path


@pytest.fixture
def config(folder, write_config):
    """Write settings that change those of the drone."""

    def write(**more):
        stream = {"rates": [60, 35], "end": "stop"} | more.pop("stream", {})
        return write_config(folder / "c.yaml", **SETTINGS | {"devices": 2, "seed": 1, "stream": stream} | more)

    return write


def test_two_inputs_and_two_targets_to_a_target_and_used_later(folder, config, command, start_training):
    path = config(target={"metric": "place.mae", "at_most": 12}, duration_s=300, stream={"end": "wait"})
    run = start_training(folder, path, "--local", 2, "--out", "real", "--set", "clock.speed=20")
    assert run.wait() == 0, run.err
    assert "place.mae" in run.err
    summary = RunFolder(folder / "real").summary
    assert (summary.ended_by, summary.measured.task, summary.measured.metric) == ("target", "multitask", "place.mae")
    assert set(summary.measured.metrics) == {"kind.accuracy", "place.mae", "place.rmse", "place.r2", "loss"}
    assert summary.measured.metrics["kind.accuracy"] > 0.9
    assert command("simulate", "c.yaml", "--out", "virtual")[0] == 0
    code, out, _ = command("compare", "real", "virtual")
    assert code == 0
    assert "target place.mae" in out

    import drone

    file, test = folder / "real" / "model.safetensors", arrays()
    model, preparation = drone.Drone(), scadles.Preparation.of(file)
    model.load_state_dict(load_file(file))
    raw = {name: torch.from_numpy(test[f"x.{name}"][400:]) for name in ("picture", "telemetry")}
    with torch.no_grad():
        said = preparation.answers(model(**preparation.samples(raw)))
    off = (said["place"] - torch.from_numpy(test["y.place"][400:])).abs().mean()
    assert float(off) == pytest.approx(summary.measured.metrics["place.mae"], rel=1e-3)
    right = (said["kind"].argmax(1).numpy() == test["y.kind"][400:]).mean()
    assert right == pytest.approx(summary.measured.metrics["kind.accuracy"])


def test_a_loop_of_ones_own_with_parts_and_an_own_loss(folder, config):
    import drone

    path = config(devices=1, steps=6, stream={"rates": 60, "end": "wait"}, clock={"speed": 20})
    model = drone.Drone()
    with scadles.join(path, model=model, loss=drone.sum_of_losses, out="run", quiet=True) as device:
        for batch in device.batches():
            assert {name: tuple(x.shape[1:]) for name, x in batch.x.items()} == {
                "picture": (2, 6, 6),
                "telemetry": (3,),
            }
            assert batch.y["kind"].dtype == torch.int64
            assert len(batch) == len(batch.y["place"])
            half = len(batch) // 2
            for rows in (slice(half), slice(half, None)):
                outputs = model(**{name: x[rows] for name, x in batch.x.items()})
                device.accumulate(device.task.minimised(outputs, {n: y[rows] for n, y in batch.y.items()}), outputs)
            device.step()
    assert device.summary.steps == 6
    assert device.summary.measured.metric == "kind.accuracy"


@pytest.mark.parametrize("way", ["train", "simulate"])
def test_what_cannot_be_learnt_from_is_rejected_with_the_part(folder, config, way):
    telemetry, place = (arrays()[name][:400].copy() for name in ("x.telemetry", "y.place"))
    telemetry[[3, 11], 1], place[5, 0], place[9, 1] = np.nan, np.nan, np.inf
    write_files(folder, **{"train_x.telemetry": telemetry, "train_y.place": place})
    kept = {"policy": "persistence"}  # a busy machine would drop some before they are looked at
    path = config(devices=1, steps=999, stream={"rates": 60}, clock={"speed": 20}, buffer=kept)
    summary = getattr(scadles, way)(path, out=folder / "run", quiet=True)
    told = [e for e in RunFolder(folder / "run").events(0) if isinstance(e, Rejection)]
    found = {reason: sum(e.count for e in told if e.reason == reason) for reason in {e.reason for e in told}}
    assert found == {
        "part telemetry: NaN or infinite values": 2,
        "part place: a target with NaN or infinite values": 2,
    }
    assert summary.samples.rejected == 4
    assert summary.samples.received == summary.samples.trained + 4 + summary.samples.dropped + summary.samples.held


PARTS = {"kind": "classification", "place": "regression"}
WRONG = {
    "task classification, one array": (
        {"task": "classification"},
        "train_y: found parts kind, place, expected one array",
    ),
    "a part that is not there": (
        {"task": {"parts": PARTS | {"height": "regression"}}},
        "train_y: found parts kind, place, expected train_y.height, train_y.kind, train_y.place",
    ),
    "a part that is left out": (
        {"task": {"parts": {"kind": "classification"}}},
        "expected train_y.kind, as task.parts",
    ),
    "a kind that no part has": (
        {"task": {"parts": PARTS | {"place": "language"}}},
        "task.parts.place.kind = language: a part of a target is told by classification, multilabel, regression",
    ),
    "labels as numbers": (
        {"task": {"parts": PARTS | {"place": "classification"}}},
        "train_y.place: found float32 [400, 2], expected integer labels [400] from 0",
    ),
    "no parts": ({"task": {"kind": "multitask"}}, "kind multitask needs parts"),
    "parts of another kind": ({"task": {"kind": "regression", "parts": PARTS}}, "parts: they belong to kind multitask"),
    "class weights": (
        {"task": {"parts": PARTS | {"kind": {"loss_options": {"weight": [1, 2, 3]}}}}},
        "task.parts.kind.loss_options: with class weights",
    ),
    "a loss that is none": (
        {"task": {"parts": PARTS | {"place": {"kind": "regression", "loss": "l2_loss"}}}},
        "task.parts.place: task.loss 'l2_loss'",
    ),
    "a metric that is none": (
        {"task": {"parts": PARTS | {"kind": {"metrics": ["mae"]}}}},
        "task.parts.kind: task.metrics: classification has no metric 'mae'",
    ),
    "a weight that is none": ({"task": {"parts": {"kind": {"weight": 0}}}}, "task.parts.kind.weight"),
    "a target without a part": (
        {"target": {"metric": "accuracy", "at_least": 0.9}},
        "task multitask measures kind.accuracy, place.mae, place.rmse, place.r2 and loss, not accuracy",
    ),
    "a built-in network": ({"model": "mlp"}, "model mlp takes one tensor and answers with one, and samples of npz:"),
    "a model of other inputs": (
        {"model": "drone:Blind"},
        "the model is given the parts of samples by name: picture, telemetry; its forward raised TypeError",
    ),
    "one data set of one part": ({"data": {"dataset": "digits"}}, "digits has targets of one part: use npz:PATH"),
    "labels of a device": (
        {"data": {"dataset": "npz:drone.npz", "partition": "labels"}},
        "targets of parts kind (class labels 0 to 2), place",
    ),
    "labels that are not shared": (
        {"injection": {"alpha": 0.5, "beta": 0.1, "refuse_labels": [1]}},
        "injection.refuse_labels names labels",
    ),
    "pictures in messages": (
        {"stream": {"url": "kafka://127.0.0.1:1/a-{device}", "codec": {"format": "image"}, "end": "wait"}},
        "a picture has no place for targets of parts kind",
    ),
    "a shape in messages": (
        {"stream": {"url": "kafka://127.0.0.1:1/a-{device}", "codec": {"shape": [4]}, "end": "wait"}},
        "stream.codec.shape: samples of the data set have the parts picture, telemetry",
    ),
}


@pytest.mark.parametrize("name", WRONG)
def test_a_wrong_setting_is_one_message_that_says_what_is_expected(folder, config, command, name):
    settings, message = WRONG[name]
    path = config(steps=3, **settings)
    live = "url" in settings.get("stream", {})
    code, _, err = command("publish", path, "--records", 1) if live else command("simulate", path, "--out", "run")
    assert code == 2, err
    assert message in " ".join(err.split())
    assert "Traceback" not in err
    assert err.count("rror") <= 2


ANSWERS = {
    "no_answer": ("lambda: Said(lambda kind, place: {'kind': kind})", "there is no answer to place: its names must be"),
    "no_names": (
        "lambda: Said(lambda kind, place: (kind, place))",
        "answers with tuple, and targets have several parts",
    ),
    "too_many": (
        "lambda: Said(lambda kind, place: {'kind': kind, 'place': kind})",
        "it must answer each with 2 values",
    ),
    "too_few": ("lambda: Said(lambda kind, place: {'kind': kind[:, :2], 'place': place})", "task multitask: the model"),
}
SAID = """
class Said(Drone):
    def __init__(self, said):
        super().__init__()
        self.said = said

    def forward(self, picture, telemetry):
        return self.said(**super().forward(picture, telemetry))

"""


@pytest.mark.parametrize("name", ANSWERS)
def test_a_model_that_answers_otherwise_is_refused_before_the_first_step(folder, config, name):
    made, message = ANSWERS[name]
    with (folder / "drone.py").open("a") as file:
        file.write(f"{SAID}\n{name} = {made}\n")
    with pytest.raises(scadles.ConfigError, match=message):
        scadles.train(config(devices=1, steps=3, stream={"rates": 60}, model=f"drone:{name}"), out="run", quiet=True)
