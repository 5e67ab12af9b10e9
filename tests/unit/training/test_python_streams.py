"""Streams that are objects, given to scadles.join and scadles.train."""

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import nn
from torch.utils.data import IterableDataset

import scadles
from scadles.assembly import build_dataset, build_network, build_partition, samples_of
from scadles.config import load_config
from scadles.errors import ConfigError
from scadles.fabric.hub import Hub
from scadles.structures import answer, pick

DEVICES = 2
SETTINGS = {
    "method": "ddl",
    "model": "mlp",
    "devices": DEVICES,
    "seed": 3,
    "picture": False,
    "batch": {"size": 16},
    "stream": {"rates": 4000, "end": "stop"},
}


class Drone(nn.Module):
    """Two inputs by name, two answers."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.body, self.kind, self.box = nn.Linear(21, 16), nn.Linear(16, 2), nn.Linear(16, 2)

    def forward(self, telemetry, picture):
        hidden = torch.tanh(self.body(torch.cat([picture.flatten(1), telemetry], 1)))
        return {"box": self.box(hidden), "kind": self.kind(hidden)}


@pytest.fixture(params=["one part", "several parts"])
def settings(request, tmp_path):
    if request.param == "one part":
        return SETTINGS
    rng = np.random.default_rng(0)
    picture, telemetry = rng.integers(256, size=(240, 2, 3, 3), dtype=np.uint8), rng.normal(3, 2, size=(240, 3))
    arrays = {"x.picture": picture, "x.telemetry": telemetry}
    arrays |= {"y.kind": (picture[:, 0].mean((1, 2)) > 128) + 0, "y.box": 20 + 4 * telemetry[:, :2]}
    parts = {"train": slice(200), "test": slice(200, None)}
    named = {f"{part}_{name}": x[rows] for name, x in arrays.items() for part, rows in parts.items()}
    np.savez(tmp_path / "drone.npz", **named)
    task = {"parts": {"kind": "classification", "box": "regression"}}
    return SETTINGS | {"data": {"dataset": f"npz:{tmp_path}/drone.npz"}, "task": task}


class Played(IterableDataset):
    """What a replayed stream would bring."""

    def __init__(self, config, device):
        dataset = build_dataset(config)
        partition = build_partition(config, dataset)
        self._layout, self._target = dataset.layout, dataset.target
        self._samples, self._count = samples_of(dataset, partition, device), partition.pass_size(device)

    def __iter__(self):
        for number in range(self._count):
            x, y = self._samples(np.array([number]))
            x = x if self._layout is None else self._layout.unpack(x)
            yield pick(x, 0), pick(self._target.unpack(y), 0)


@pytest.fixture
def run(in_threads, settings, tmp_path):
    """Run on threads; ``streams(device)`` are given. Returns device 0's summary and the model."""

    def make(name, streams, **surroundings):
        config = load_config(settings)
        torch.manual_seed(0)
        own = Drone if config.task.parts else lambda: build_network(config, build_dataset(config))
        models = [own() for _ in range(DEVICES)]

        def work(fabric):
            more = {"stream": streams(fabric.rank)} if streams else {"clock": scadles.VirtualClock()}
            with scadles.join(config, model=models[fabric.rank], out=tmp_path / name, fabric=fabric, **more) as device:
                for batch in device.batches():
                    outputs = answer(device.model, batch.x)
                    device.step(device.task.minimised(outputs, batch.y), outputs)
            return device.summary

        return in_threads(DEVICES, work)[0], load_file(tmp_path / name / "model.safetensors")

    return make


def both_alike(run, settings):
    """Run the same arrivals from a replay and from Python, to the same model and accounts; return both summaries."""
    config = load_config(settings)
    replayed, model = run("replayed", None)
    played, again = run("played", lambda device: Played(config, device))
    assert played.model_sha256 == replayed.model_sha256
    assert all(torch.equal(model[name], again[name]) for name in model)
    assert [row.samples for row in played.per_device] == [row.samples for row in replayed.per_device]
    return replayed, played


def test_the_same_arrivals_by_python_end_in_the_same_model(run, settings):
    replayed, played = both_alike(run, settings)
    assert (played.ended_by, played.steps) == (replayed.ended_by, replayed.steps)


@pytest.mark.parametrize("on", ["holdout", "stream"])
def test_tests_are_on_the_same_samples(run, settings, on):
    settings |= {"evaluation": {"on": on, "holdout_every": 4}}
    _, played = both_alike(run, settings)
    assert (played.samples.tested > 0) == (on == "holdout")
    assert played.samples.balanced


@pytest.mark.parametrize("on", ["holdout", "stream"])
def test_a_stream_of_python_needs_no_data_set(tmp_path, on):
    def readings(start):
        while True:
            yield np.full(3, start % 2, dtype=np.float32), start % 2
            start += 1

    settings = {"steps": 5, "picture": False, "batch": {"rule": "fixed", "size": 40}, "evaluation": {"on": on}}
    settings |= {"data": {"dataset": "none", "classes": 2, "normalize": "running"}}
    settings |= {"stream": {"codec": {"shape": [3]}}, "buffer": {"policy": "persistence"}}
    summary = scadles.train(settings, stream=readings, out=tmp_path / "run", quiet=True)
    assert (summary.dataset, summary.tested_on, summary.samples.rejected) == ("none", on, 0)
    assert summary.samples.balanced
    assert (summary.samples.tested > 0) == (on == "holdout")


@pytest.mark.parametrize("on", ["holdout", "stream"])
def test_a_hub_with_streams_of_python_needs_no_data_set(in_threads, tmp_path, on):
    settings = {"steps": 6, "picture": False, "batch": {"rule": "fixed", "size": 40}, "evaluation": {"on": on}}
    settings |= {"data": {"dataset": "none", "classes": 2}, "stream": {"codec": {"shape": [3]}}}
    settings |= {"method": "scadles", "devices": 2, "fabric": {"backend": "hub"}, "buffer": {"policy": "persistence"}}
    hub = Hub("127.0.0.1", 0, 2, least=2, settings=load_config(settings).model_dump(mode="json"))
    hub.start()

    def readings(start):
        while True:
            yield np.full(3, start % 2, dtype=np.float32), start % 2
            start += 1

    def work(fabric):
        name, address = f"cam-{fabric.rank}", "{}:{}".format(*hub.address)
        about = {"hub": address, "name": name, "stream": readings, "out": tmp_path / name, "quiet": True}
        return scadles.train(**about, insecure=True)

    try:
        summaries = in_threads(2, work)
    finally:
        hub.close()
    assert {one.model_sha256 for one in summaries} == {summaries[0].model_sha256}
    assert (summaries[0].dataset, summaries[0].tested_on, summaries[0].steps) == ("none", on, 6)
    assert summaries[0].samples.balanced
    assert (summaries[0].samples.tested > 0) == (on == "holdout")


def test_a_stream_is_given_to_train_as_well(tmp_path):
    settings = {"model": "mlp", "steps": 3, "picture": False, "batch": {"max": 16}, "stream": {"url": "replay://"}}

    def frames(start):
        while True:
            yield np.full((1, 8, 8), start % 17, dtype=np.uint8), start % 10
            start += 1

    summary = scadles.train(settings, stream=frames, out=tmp_path / "run", quiet=True)
    assert (summary.steps, summary.samples.rejected) == (3, 0)
    assert "url: python://" in (tmp_path / "run" / "config.yaml").read_text()


def test_a_live_stream_cannot_be_hurried(tmp_path):
    with pytest.raises(ConfigError, match=r"clock\.speed 20 needs a replayed stream; python is live"):
        scadles.join({"steps": 1, "clock": {"speed": 20}}, stream=[], out=tmp_path / "run")
