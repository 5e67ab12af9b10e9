"""Streams that are objects, given to scadles.join and scadles.train."""

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch.utils.data import IterableDataset

import scadles
from scadles.assembly import build_dataset, build_network, build_partition, samples_of
from scadles.config import load_config
from scadles.errors import ConfigError

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


class Played(IterableDataset):
    """What a replayed stream would bring."""

    def __init__(self, config, device):
        dataset = build_dataset(config)
        partition = build_partition(config, dataset)
        self._samples, self._count = samples_of(dataset, partition, device), partition.pass_size(device)

    def __iter__(self):
        for number in range(self._count):
            x, y = self._samples(np.array([number]))
            yield x[0], y[0]


@pytest.fixture
def run(in_threads, tmp_path):
    """Run on threads; ``streams(device)`` are given. Returns device 0's summary and the model."""

    def make(name, streams, **surroundings):
        config = load_config(SETTINGS)
        torch.manual_seed(0)
        models = [build_network(config, build_dataset(config)) for _ in range(DEVICES)]

        def work(fabric):
            more = {"stream": streams(fabric.rank)} if streams else {"clock": scadles.VirtualClock()}
            with scadles.join(config, model=models[fabric.rank], out=tmp_path / name, fabric=fabric, **more) as device:
                for batch in device.batches():
                    outputs = device.model(batch.x)
                    device.step(device.task.minimised(outputs, batch.y), outputs)
            return device.summary

        return in_threads(DEVICES, work)[0], load_file(tmp_path / name / "model.safetensors")

    return make


def test_the_same_arrivals_by_python_end_in_the_same_model(run):
    config = load_config(SETTINGS)
    replayed, model = run("replayed", None)
    played, again = run("played", lambda device: Played(config, device))
    assert played.model_sha256 == replayed.model_sha256
    assert all(torch.equal(model[name], again[name]) for name in model)
    assert [row.samples for row in played.per_device] == [row.samples for row in replayed.per_device]
    assert (played.ended_by, played.steps) == (replayed.ended_by, replayed.steps)


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
