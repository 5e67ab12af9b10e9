"""The same arrivals end in the same model, whatever the devices are made of.

Devices are threads with a virtual clock each, or (run as a script, this file is one of them) processes with gloo, or
they are simulated all together at no cost.
"""

import json
import os
import sys
from functools import cache
from pathlib import Path

sys.path.append(str(Path(__file__).parents[1]))  # where the task of a user's is, also for a process of its own

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import nn

import scadles
from scadles.assembly import build_dataset, build_network
from scadles.assembly.exchange import build_tail_check
from scadles.assembly.hub import build_hub_fold
from scadles.config import load_config
from scadles.fabric.hub import Hub, HubFabric
from scadles.observe import CheckpointWritten, Divergence, Header, RateChange, WindowChange, events_path, read_events
from scadles.simulation import simulate
from scadles.structures import answer
from scripted_ratio import follow_the_script

DEVICES = 4
STEPS = 12
# what rounding of the model may change: losses a little, and which of two labels with equal outputs is the largest
ROUNDING = {
    "loss": {"rel": 1e-4},
    "accuracy": {"abs": 0.006},
    "own_accuracy": {"abs": 0.006},
    "per_label": {"abs": 0.06},
    "correct": {"abs": 1},
    "metrics": {"rel": 2e-3, "abs": 1e-3},
    "own": {"rel": 2e-3, "abs": 1e-3},
    "noise_scale": {"rel": 0.01},
    "low": {"rel": 0.01},
    "high": {"rel": 0.01},
}
# where the learning rate goes by how noisy gradients are
ROUNDING_OF_RATES = {"lr": {"rel": 1e-6}, "lr_scale": {"rel": 1e-6}}
CONFIGS = {
    "scadles": {
        "method": "scadles",
        "model": "cnn",
        "batch": {"min": 4},
        "fabric": {"overlap": "on", "bucket_mb": 0.02},
    },
    "batchnorm local": {
        "method": "scadles",
        "model": "cnn",
        "batch": {"min": 4},
        "aggregation": {"batchnorm": "local"},
    },
    "ddl": {"method": "ddl", "model": "mlp", "batch": {"size": 16}},
    "compressed, split": {
        "method": "scadles",
        "model": "cnn",
        "batch": {"min": 4},
        "compression": {"ratio": 0.05, "gate": "norm", "delta": 0.8, "values": "float32", "reduction": "split"},
    },
    "compressed, each ratio in turn": {
        "method": "scadles",
        "model": "cnn",
        "batch": {"min": 4},
        "compression": {"ratio": "auto", "values": "float32", "reduction": "split"},
    },
    "compressed, gathered": {
        "method": "scadles",
        "model": "mlp",
        "optimizer": {"momentum": 0},
        "compression": {"ratio": 0.1, "gate": "always", "momentum": 0.9, "values": "bfloat16", "reduction": "gather"},
    },
    "compressed, by bucket": {
        "method": "scadles",
        "model": "mlp",
        "fabric": {"bucket_mb": 0.01},
        "compression": {"ratio": 0.02, "gate": "always", "values": "float32", "scope": "bucket"},
    },
    "quantised": {
        "method": "scadles",
        "model": "mlp",
        "compression": {"ratio": 1, "method": "whole", "gate": "always"},
    },
    "factors": {
        "method": "scadles",
        "model": "mlp",
        "compression": {"ratio": 0.2, "method": "powersgd", "gate": "always"},
    },
    "injection": {
        "method": "scadles",
        "model": "mlp",
        "injection": {"alpha": 0.5, "beta": 0.25, "refuse_devices": [2], "refuse_labels": {0: [3, 4]}},
    },
    "injection, batchnorm, constant": {
        "method": "ddl",
        "model": "cnn",
        "batch": {"size": 16, "max_wait_s": 2},
        "injection": {"alpha": 0.75, "beta": 0.5, "batch": "constant"},
    },
    "skewed and drifting": {
        "method": "scadles",
        "model": "mlp",
        "data": {"partition": "dirichlet", "alpha": 0.2, "size_spread": 0.5, "drift_samples": 50},
    },
    "streams that end": {  # one after the other, the last one in the last step; one brings nothing
        "method": "scadles",
        "model": "cnn",
        "batch": {"min": 4},
        "stream": {"rates": [31, 120, 90, 0], "end": "stop"},
    },
    "persistence, poisson, adam": {
        "method": "scadles",
        "model": "mlp",
        "buffer": {"policy": "persistence"},
        "batch": {"max": 24},
        "stream": {"profile": "poisson"},
        "optimizer": {"name": "adam", "lr": 0.003},
    },
    "outliers rejected": {"model": "cnn", "batch": {"min": 4}, "aggregation": {"outliers": "reject"}},
    "median": {"model": "mlp", "aggregation": {"mean": "median", "outliers": "clip"}},
    "outliers rejected, compressed": {
        "model": "mlp",
        "aggregation": {"outliers": "reject"},
        "compression": {"ratio": 0.05, "gate": "norm", "delta": 0.8, "values": "float32"},
    },
    "windows, smoothed labels": {
        "model": "cnn",
        "batch": {"min": 4},
        "data": {"dataset": "npz:windows.npz"},
        "task": {"loss_options": {"label_smoothing": 0.1}, "metrics": ["accuracy", "top2_accuracy", "loss"]},
    },
    "class weights": {
        "data": {"dataset": "npz:windows.npz", "normalize": "none"},
        "task": {"loss_options": {"weight": [1, 2, 5]}},
    },
    "regression": {
        "data": {"dataset": "npz:numbers.npz"},
        "task": {"kind": "regression", "loss": "huber_loss", "loss_options": {"delta": 0.5}},
        "target": {"metric": "r2", "at_least": 0.9999},
    },
    "multilabel, injection": {
        "data": {"dataset": "npz:labels.npz"},
        "task": "multilabel",
        "injection": {"alpha": 0.5, "beta": 0.25},
    },
    "forecasting, batchnorm local": {
        "model": "cnn",
        "batch": {"min": 4},
        "data": {"dataset": "npz:series.npz"},
        "task": {"kind": "forecasting", "horizon": 2},
        "aggregation": {"batchnorm": "local"},
    },
    "reconstruction, compressed": {
        "task": "reconstruction",
        "compression": {"ratio": 0.1, "gate": "always", "values": "float32"},
        "optimizer": {"momentum": 0},
    },
    "normalised by what came, injection": {
        "model": "cnn",
        "batch": {"min": 4},
        "data": {"dataset": "npz:windows.npz", "normalize": "running"},
        "injection": {"alpha": 0.5, "beta": 0.25},
    },
    "transformed": {
        "model": "cnn",
        "batch": {"min": 4},
        "data": {"dataset": "npz:windows.npz", "normalize": "running", "transform": "small_tasks:jittered"},
    },
    "normalised by what came, compressed": {
        "data": {"dataset": "npz:series.npz", "normalize": "running"},
        "task": "reconstruction",
        "compression": {"ratio": 0.1, "gate": "norm", "delta": 0.8, "values": "float32"},
        "optimizer": {"momentum": 0},
    },
    "language": {"data": {"dataset": "npz:tokens.npz"}, "task": "language"},
    "segmentation, ddl": {
        "method": "ddl",
        "batch": {"size": 16},
        "data": {"dataset": "npz:maps.npz"},
        "task": "segmentation",
    },
    "adascale": {
        "model": "mlp",
        "stream": {"profile": "poisson"},
        "batch": {"min": 4, "size": 4},
        "lr": {"scaling": "adascale", "warmup_samples": 40, "milestones": [100], "guard": True},
    },
    "adascale, window auto": {
        "model": "cnn",
        "batch": {"min": 4, "size": 4, "window": "auto", "step_cost_s": 0.05},
        "lr": {"scaling": "adascale"},
    },
    "rate auto": {
        "model": "mlp",
        "stream": {"profile": "poisson", "rates": [160, 60, 120, 0]},
        "batch": {"min": 4},
        "optimizer": {"lr": 0.005, "momentum": 0.667},
        "lr": {"rate": "auto"},
    },
    "rate and window auto, compressed": {
        "model": "cnn",
        "batch": {"min": 4, "window": "auto", "step_cost_s": 0.1},
        "optimizer": {"momentum": 0.667},
        "lr": {"rate": "auto", "guard": True},
        "compression": {"ratio": 0.1, "gate": "norm", "delta": 0.8, "values": "float32"},
    },
    "window auto": {"model": "mlp", "batch": {"min": 4, "window": "auto", "step_cost_s": 0.05}},
    "window auto, persistence": {
        "model": "cnn",
        "batch": {"min": 4, "window": "auto", "window_s": 0.3, "step_cost_s": 5.0},
        "buffer": {"policy": "persistence"},
        "fabric": {"overlap": "on", "bucket_mb": 0.02},
    },
    "window auto, outliers rejected": {
        "model": "mlp",
        "batch": {"min": 4, "window": "auto"},
        "aggregation": {"outliers": "reject"},
    },
    "window auto, compressed": {
        "model": "mlp",
        "batch": {"min": 4, "window": "auto", "step_cost_s": 0.1},
        "compression": {"ratio": 0.1, "gate": "norm", "delta": 0.8, "values": "float32"},
    },
    "window and ratio auto": {
        "model": "mlp",
        "batch": {"min": 4, "window": "auto", "step_cost_s": 0.1},
        "compression": {"ratio": "auto", "values": "float32", "reduction": "split"},
    },
    "held out": {
        "model": "mlp",
        "evaluation": {"on": "holdout", "holdout_every": 4, "holdout_samples": 60},
        "injection": {"alpha": 0.5, "beta": 0.25},
    },
    "held out, batchnorm local, persistence": {
        "model": "cnn",
        "buffer": {"policy": "persistence"},
        "batch": {"min": 4, "max": 24},
        "aggregation": {"batchnorm": "local"},
        "evaluation": {"on": "holdout", "holdout_every": 3},
    },
    "test then train, regression": {
        "data": {"dataset": "npz:numbers.npz"},
        "task": "regression",
        "evaluation": {"on": "stream", "window_s": 3},
    },
    "test then train, batchnorm local": {
        "method": "ddl",
        "model": "cnn",
        "batch": {"size": 16, "max_wait_s": 2},
        "aggregation": {"batchnorm": "local"},
        "evaluation": {"on": "stream"},
    },
    "late labels": {
        "model": "mlp",
        "buffer": {"policy": "persistence"},
        "batch": {"min": 4, "max": 48},
        "stream": {"labels": {"url": "replay://?delay_s=2", "wait_s": 1}},
        "injection": {"alpha": 0.5, "beta": 0.25},
    },
    "late numbers, held out": {
        "data": {"dataset": "npz:numbers.npz"},
        "task": "regression",
        "stream": {"labels": {"url": "replay://?delay_s=1.3", "wait_s": 1}},
        "evaluation": {"on": "holdout", "holdout_every": 5},
    },
}
CONFIGS |= {
    "two inputs, two targets, injection": {
        "data": {"dataset": "npz:drone.npz"},
        "task": {"parts": {"kind": "classification", "box": {"kind": "regression", "weight": 0.5, "loss": "l1_loss"}}},
        "injection": {"alpha": 0.5, "beta": 0.25},
        "target": {"metric": "box.mae", "at_most": 0.001},
    },
    "parts, transformed, test then train": {
        "data": {"dataset": "npz:drone.npz", "normalize": "running", "transform": "small_tasks:brighter"},
        "task": {"parts": {"kind": "classification", "box": {"kind": "regression", "loss": "l1_loss"}}},
        "evaluation": {"on": "stream"},
    },
    "late parts, held out, normalised by what came": {
        "data": {"dataset": "npz:drone.npz", "normalize": "running"},
        "task": {"parts": {"kind": "classification", "box": {"kind": "regression", "loss": "l1_loss"}}},
        "stream": {"labels": {"url": "replay://?delay_s=1.3", "wait_s": 1}},
        "evaluation": {"on": "holdout", "holdout_every": 5},
        "target": {"metric": "box.mae", "at_most": 0.001},
    },
    "outliers rejected, test then train": {
        "model": "cnn",
        "batch": {"min": 4},
        "aggregation": {"outliers": "reject"},
        "evaluation": {"on": "stream"},
    },
    "diverging": {"model": "mlp", "optimizer": {"lr": 20}, "lr": {"guard": True}},
    "diverging, batchnorm": {"model": "cnn", "batch": {"min": 4}, "optimizer": {"lr": 20}, "lr": {"guard": True}},
    "diverging, compressed, adam": {
        "model": "mlp",
        "optimizer": {"name": "adam", "lr": 2},
        "lr": {"guard": True},
        "compression": {"ratio": 0.1, "gate": "always", "values": "float32"},
    },
    "parts in order, own task": {
        "batch": {"min": 4},
        "data": {"dataset": "npz:pairs.npz"},
        "task": "small_tasks:nearness",
    },
}
DATA = "PARITY_DATA"  # in the environment: where write_data has written
VOCABULARY = 11


@pytest.fixture(scope="module", autouse=True)
def _script():
    """Let ratios change by a script: what is measured differs from machine to machine."""
    with pytest.MonkeyPatch.context() as patch:
        follow_the_script(patch.setattr)
        yield


@pytest.fixture(scope="module", autouse=True)
def _data(tmp_path_factory):
    os.environ[DATA] = str(tmp_path_factory.mktemp("data"))
    write_data(Path(os.environ[DATA]))
    yield
    del os.environ[DATA]


def write_data(folder):
    """Write samples and targets of many forms, each of which can be learnt a little."""
    rng = np.random.default_rng(0)
    x = {name: rng.normal(size=(480, *shape)) for name, shape in {"windows": (3, 16), "series": (2, 20)}.items()}
    x |= {"numbers": rng.normal(size=(480, 6)), "labels": rng.normal(size=(480, 6)).astype(np.float32)}
    x["tokens"] = (rng.integers(VOCABULARY, size=(480, 1)) + np.arange(9) * rng.integers(1, 4, (480, 1))) % VOCABULARY
    x["maps"] = rng.normal(size=(480, 1, 4, 5))
    y = {
        "windows": (x["windows"].mean((1, 2)) > 0) + 1 * (x["windows"][:, 0].mean(1) > 0.2),
        "numbers": 40 + 8 * x["numbers"][:, :2] * x["numbers"][:, 2:4],
        "labels": x["labels"][:, :3] > 0,
        "maps": np.digitize(x["maps"][:, 0], [-0.5, 0.5]),
    }
    drone = {
        "picture": rng.integers(256, size=(480, 2, 5, 5), dtype=np.uint8),
        "telemetry": rng.normal(3, 2, size=(480, 3)),
        "zone": rng.integers(4, size=480),
    }
    bright = drone["picture"][:, 0].mean((1, 2)) > 128
    told = {"kind": bright + 2 * (drone["zone"] > 1), "box": 20 + drone["telemetry"][:, :2] * 4}
    save(folder / "drone.npz", drone, told)
    save(folder / "pairs.npz", {"0": x["numbers"], "1": x["labels"]}, {"0": x["numbers"][:, 0] - x["labels"][:, 0]})
    for name, samples in x.items():
        targets = {"train_y": y[name][:400] + 0, "test_y": y[name][400:] + 0} if name in y else {}
        np.savez(folder / f"{name}.npz", train_x=samples[:400], test_x=samples[400:], **targets)


def save(path, x, y):
    """Write samples and targets of several parts."""
    parts = {f"x.{name}": part for name, part in x.items()} | {f"y.{name}": part for name, part in y.items()}
    train = {f"train_{name}": part[:400] for name, part in parts.items()}
    np.savez(path, **train, **{f"test_{name}": part[400:] for name, part in parts.items()})


class Pair(nn.Module):
    """Two inputs in order."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.head = nn.Linear(12, 1)

    def forward(self, labels, numbers):
        return self.head(torch.cat([numbers, labels], 1))


class Drone(nn.Module):
    """Three inputs by name, two answers."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.zones = nn.Embedding(4, 3)
        self.body = nn.Linear(50 + 3 + 3, 16)
        self.kind, self.box = nn.Linear(16, 4), nn.Linear(16, 2)

    def forward(self, telemetry, zone, picture):
        hidden = torch.tanh(self.body(torch.cat([picture.flatten(1), telemetry, self.zones(zone)], 1)))
        return {"hidden": hidden, "box": self.box(hidden), "kind": self.kind(hidden)}


class Tokens(nn.Module):
    """Scores of the next token, from the present one."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.embedding, self.head = nn.Embedding(VOCABULARY, 8), nn.Linear(8, VOCABULARY)

    def forward(self, x):
        return self.head(torch.tanh(self.embedding(x)))


def make_config(name, steps):
    given = dict(CONFIGS[name])
    kind, _, file = given.get("data", {}).get("dataset", "").partition(":")
    if kind == "npz":
        given["data"] = given["data"] | {"dataset": f"npz:{os.environ[DATA]}/{file}"}
    return load_config(
        given
        | {
            "devices": DEVICES,
            "seed": 3,
            "steps": steps,
            "picture": False,
            "stream": {"rates": [40, 12, 21.5, 0]} | given.get("stream", {}),
            "checkpoint": {"every_steps": 4},
            "evaluation": {"every_s": 1.5} | given.get("evaluation", {}),
        }
    )


def make_model(config):
    own = {"language": Tokens, "multitask": Drone, "small_tasks:nearness": Pair}
    if config.task.kind in own:
        return own[config.task.kind]()
    return build_network(config, build_dataset(config))


def take_part(config, out, model=None, **surroundings):
    """Be one device of a run; return its summary, less what the wall decides."""
    with scadles.join(config, model=model, out=out, quiet=True, **surroundings) as device:
        for batch in device.batches():
            outputs = answer(device.model, batch.x)
            device.step(device.task.minimised(outputs, batch.y), outputs, device.task.weight(batch.y))
    return device.summary.model_dump(exclude={"wall_s"})


@pytest.fixture(scope="module")
def run(in_threads, tmp_path_factory):
    """Run a configuration on threads; return device 0's summary, the model, the clocks and the folder."""

    def in_folder(name, steps=STEPS, folder=None, *, clocks=None, resume=False):
        config = make_config(name, steps)
        # initial weights come from torch's global generator, which threads share
        models = [make_model(config) for _ in range(DEVICES)]
        clocks = clocks or [scadles.VirtualClock() for _ in range(DEVICES)]
        out = folder or tmp_path_factory.mktemp("run")

        def work(fabric):
            surroundings = {"model": models[fabric.rank], "fabric": fabric, "clock": clocks[fabric.rank]}
            return take_part(config, out, resume=resume, **surroundings)

        summaries = in_threads(DEVICES, work)
        for summary in summaries:
            assert summary == summaries[0]
        return summaries[0], load_file(out / "model.safetensors"), clocks, out

    return in_folder


@pytest.fixture(scope="module")
def whole(run):
    """The outcome of a whole run of a configuration, run once."""
    return cache(run)


@pytest.fixture(scope="module")
def simulated(tmp_path_factory):
    """The outcome of a simulation of a configuration, made once: summary, model and folder."""

    @cache
    def make(name, gradients="auto"):
        out = tmp_path_factory.mktemp("simulated")
        config = load_config(make_config(name, STEPS), [f"simulation.gradients={gradients}"])
        return (
            simulate(config, model=make_model(config), out=out, quiet=True).model_dump(),
            load_file(out / "model.safetensors"),
            out,
        )

    return make


def assert_same_bits(one, other):
    assert one.keys() == other.keys()
    for name, tensor in one.items():
        assert torch.equal(tensor, other[name]), name


@pytest.mark.parametrize("name", CONFIGS)
def test_one_seed_one_result(whole, run, name):
    (first, model, *_), (second, again, *_) = whole(name), run(name)
    assert first == second
    assert_same_bits(model, again)
    assert first["steps"] == STEPS
    assert first["samples"]["trained"] > STEPS * DEVICES


@pytest.mark.parametrize("name", CONFIGS)
@pytest.mark.parametrize("stop_after", [4, 8])
def test_a_resumed_run_equals_one_that_was_never_stopped(whole, run, tmp_path, name, stop_after):
    expected, model, *_ = whole(name)
    _, _, clocks, _ = run(name, stop_after, tmp_path)
    resumed, again, *_ = run(name, STEPS, tmp_path, clocks=clocks, resume=True)
    assert_same_bits(model, again)
    assert resumed["model_sha256"] == expected["model_sha256"]
    assert resumed["samples"] == expected["samples"]
    assert resumed["shared"] == expected["shared"]
    assert [row["shared"] for row in resumed["per_device"]] == [row["shared"] for row in expected["per_device"]]
    assert [row["samples"] for row in resumed["per_device"]] == [row["samples"] for row in expected["per_device"]]
    held_out = make_config(name, STEPS).tested_on == "holdout"  # what was held out is in no checkpoint
    for figure in ("time_s", "steps", "buffer_max_samples", *(() if held_out else ("final_accuracy",))):
        assert resumed[figure] == expected[figure], figure
    for figure in ("seconds", "lr_scale_mean"):
        assert resumed[figure] == pytest.approx(expected[figure], rel=1e-12), figure


def assert_same_outcome(found, expected, model, again):
    """Two runs took the same samples in the same steps, and their parameters are equal to rounding."""
    equal = ("samples", "shared", "steps", "model", "devices", "time_s", "buffer_max_samples")
    assert found["lr_scale_mean"] == pytest.approx(expected["lr_scale_mean"], rel=1e-6)
    for figure in (*equal, "ended_by"):
        assert found[figure] == expected[figure], figure
    for mine, theirs in zip(found["per_device"], expected["per_device"], strict=True):
        assert mine["samples"] == theirs["samples"]
        assert mine["shared"] == theirs["shared"]
        assert mine["slowest_steps"] == theirs["slowest_steps"]
        assert mine["seconds"] == pytest.approx(theirs["seconds"])
    assert found["seconds"] == pytest.approx(expected["seconds"])
    assert found["final_accuracy"] == pytest.approx(expected["final_accuracy"], abs=0.006)
    own = expected["own_accuracy_range"]
    assert found["own_accuracy_range"] == (own and pytest.approx(own, abs=0.006))
    assert ("measured" in found) == ("measured" in expected)
    if "measured" in expected:
        for figure in ("task", "metric", "target"):
            assert found["measured"][figure] == expected["measured"][figure], figure
        assert found["measured"]["metrics"] == pytest.approx(expected["measured"]["metrics"], rel=2e-3, abs=1e-3)
    assert found["online_accuracy"] == pytest.approx(expected["online_accuracy"], abs=0.002)
    assert model.keys() == again.keys()
    for parameter, tensor in model.items():
        torch.testing.assert_close(again[parameter], tensor, rtol=1e-5, atol=1e-5, msg=parameter)


@pytest.mark.parametrize("name", CONFIGS)
def test_processes_end_where_threads_end(whole, in_processes, tmp_path, name):
    expected, model, *_ = whole(name)
    outcomes = in_processes(__file__, DEVICES, name, tmp_path)
    assert [code for code, _ in outcomes] == [0] * DEVICES
    assert_same_outcome(json.loads(outcomes[0][1]), expected, model, load_file(tmp_path / "model.safetensors"))


@pytest.mark.parametrize("name", [name for name, given in CONFIGS.items() if "compression" not in given])
def test_through_a_hub_all_end_where_threads_end(whole, in_threads, tmp_path, name):
    expected, model, *_ = whole(name)
    config = load_config(make_config(name, STEPS), ["fabric.backend=hub"])
    models = [make_model(config) for _ in range(DEVICES)]
    ways = {"fold": build_hub_fold(config), "check": build_tail_check(config).problem}
    hub = Hub("127.0.0.1", 0, DEVICES, least=DEVICES, **ways)
    hub.start()
    try:
        fabrics = [HubFabric(*hub.address, name=f"device-{i}", deadline_s=60.0) for i in range(DEVICES)]

        def work(fabric):
            surroundings = {"model": models[fabric.rank], "fabric": fabric, "clock": scadles.VirtualClock()}
            return take_part(config, tmp_path / f"device-{fabric.rank}", **surroundings)

        found, *others = in_threads(fabrics, work)
    finally:
        hub.close()
    for other in others:  # who takes the state of another takes its count of messages, too
        assert other | {"collectives_per_step": 0} == found | {"collectives_per_step": 0}
    assert_same_outcome(found, expected, model, load_file(tmp_path / "device-0" / "model.safetensors"))


@pytest.mark.parametrize("name", CONFIGS)
@pytest.mark.parametrize("gradients", ["auto", "per-device"])
def test_a_simulation_ends_where_threads_end(whole, simulated, name, gradients):
    expected, model, *_ = whole(name)
    found, again, _ = simulated(name, gradients)
    assert_same_outcome(found, expected, model, again)


@pytest.mark.parametrize("name", CONFIGS)
def test_a_simulation_tells_the_same_story(whole, simulated, name):
    """Every event of every device is the same, but for rounding of the model, and checkpoints."""
    (*_, folder), (*_, out) = whole(name), simulated(name)
    rounding = ROUNDING | (ROUNDING_OF_RATES if "adascale" in name else {})
    for device in range(DEVICES):
        mine, theirs = told(out, device), told(folder, device)
        assert len(mine) == len(theirs) > STEPS
        for event, other in zip(mine, theirs, strict=True):
            assert type(event) is type(other)
            for field in vars(event).keys() - {"model_sha256"}:
                expected, allowed = getattr(other, field), rounding.get(field)
                expected = pytest.approx(expected, **allowed) if allowed and expected is not None else expected
                assert getattr(event, field) == expected, (event.kind, field)


@pytest.mark.parametrize("name", ["rate auto"])
def test_all_choose_the_same_rate_and_say_why(whole, name):
    assert_all_choose_alike(whole(name), RateChange, "factor")


@pytest.mark.parametrize("name", [name for name in CONFIGS if name.startswith("window auto")])
def test_all_choose_the_same_window_and_say_why(whole, name):
    assert_all_choose_alike(whole(name), WindowChange, "window_s")


def assert_all_choose_alike(outcome, kind, chosen):
    """All devices have told of the same changes at the same steps for the same reasons, and there are some."""
    *_, folder = outcome
    changes = [
        [(event.step, getattr(event, chosen), event.why) for event in told(folder, device) if isinstance(event, kind)]
        for device in range(DEVICES)
    ]
    assert changes[0], f"{chosen} changes within these steps"
    assert changes == [changes[0]] * DEVICES


@pytest.mark.parametrize("name", [name for name in CONFIGS if name.startswith("diverging")])
def test_training_has_diverged_where_that_is_said(whole, name):
    *_, folder = whole(name)
    steps = [[e.step for e in told(folder, device) if isinstance(e, Divergence)] for device in range(DEVICES)]
    assert steps == [steps[0]] * DEVICES
    assert 4 in steps[0], "in the middle of it there is a checkpoint"


def told(folder, device):
    return [e for e in read_events(events_path(folder, device)) if not isinstance(e, Header | CheckpointWritten)]


if __name__ == "__main__":
    name, folder = sys.argv[1:]
    follow_the_script()
    config = make_config(name, STEPS)
    summary = take_part(config, Path(folder), model=make_model(config), clock=scadles.VirtualClock())
    print(json.dumps(summary), flush=True)
    os._exit(0)
