"""Large networks of torchvision in real runs, as a user starts them."""

import importlib.util
import math

import pytest
import torch

import scadles
from scadles.observe import RunFolder

pytestmark = [
    pytest.mark.timeout(300),
    pytest.mark.skipif(
        importlib.util.find_spec("torchvision") is None,
        reason="torchvision is not installed: pip install 'scadles[vision]'",
    ),
]
SETTINGS = {
    "model": "torchvision:resnet18",
    "steps": 5,
    "data": {"dataset": "synthetic-images", "test_samples": 20},
    "stream": {"rates": 8},
    "optimizer": {"lr": 0.02},
    "evaluation": {"every_s": 3600},
}


def assert_trained(folder, devices):
    summary = folder.summary
    assert (summary.steps, summary.ended_by, summary.model) == (5, "steps", "torchvision:resnet18")
    losses = [step.loss for step in folder.steps(0)]
    assert len(losses) == 5
    assert all(math.isfinite(loss) for loss in losses)
    assert sum(row.non_finite_steps for row in summary.per_device) == 0
    assert len(summary.per_device) == devices
    assert summary.samples.trained >= 5 * 2 * devices


def test_resnet18_trains_on_two_gloo_processes(tmp_path, start_training, write_config):
    config = write_config(tmp_path / "c.yaml", **SETTINGS)
    run = start_training(tmp_path, config, "--local", 2, "--out", "run")
    assert run.wait(250) == 0, run.err
    folder = RunFolder(tmp_path / "run")
    assert_trained(folder, 2)
    # each step sends the gradient once around a ring of two: 11.2 M parameters of 4 bytes a device
    assert folder.summary.bytes_sent > 5 * 2 * 11_170_000 * 4


def test_an_unknown_network_is_refused_with_a_hint(tmp_path, start_training, write_config):
    config = write_config(tmp_path / "c.yaml", **(SETTINGS | {"model": "torchvision:resnet19"}))
    run = start_training(tmp_path, config, "--out", "run")
    assert run.wait(60) == 2
    assert "model 'torchvision:resnet19': unknown network; did you mean resnet18?" in run.err.replace("\n", " ")
    assert "Traceback" not in run.err


@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device: run it on a machine that has one")
@pytest.mark.parametrize("normalization", ["batch", "group"])
def test_resnet18_trains_on_a_cuda_device(tmp_path, normalization):
    summary = scadles.train(SETTINGS | {"normalization": normalization}, out=tmp_path / "run", quiet=True)
    assert summary.steps == 5
    assert_trained(RunFolder(tmp_path / "run"), 1)
