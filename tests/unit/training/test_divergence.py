"""Training that diverges on devices with a model each."""

import pytest
import torch
from torch.nn.functional import cross_entropy

import scadles
from scadles.errors import RunError
from scadles.observe import Divergence, RunFolder

DEVICES = 2


@pytest.fixture
def train(in_threads, tmp_path):
    def run(spoiled_after=None, **more):
        tree = {"model": "mlp", "devices": DEVICES, "picture": False, "lr": {"guard": True}}
        config = scadles.load_config({**tree, **more})

        def work(fabric):
            about = {"fabric": fabric, "clock": scadles.VirtualClock(), "out": tmp_path, "quiet": True}
            with scadles.join(config, **about) as device:
                device.on_step(lambda step: spoil(device.model) if step.step == spoiled_after else None)
                for batch in device.batches():
                    device.step(cross_entropy(device.model(batch.x), batch.y))
            return device.summary

        return in_threads(DEVICES, work)

    return run


@torch.no_grad()
def spoil(model):
    for parameter in model.parameters():
        parameter.fill_(torch.nan)


def test_all_devices_go_back_together(train, tmp_path):
    summary, other = train(spoiled_after=50, steps=100)
    assert summary.model_sha256 == other.model_sha256
    assert summary.diverged.went_back == 1
    assert summary.final_accuracy > 0.8
    for device in range(DEVICES):
        found = [event for event in RunFolder(tmp_path).events(device) if isinstance(event, Divergence)]
        assert [(one.what, one.step, one.back_to) for one in found] == [("tried", 53, 40), ("back", 54, 40)]


def test_a_batch_that_counts_for_nothing_is_no_divergence(train, in_threads, tmp_path):
    config = scadles.load_config({"model": "mlp", "steps": 40, "picture": False, "lr": {"guard": True}})
    with scadles.join(config, clock=scadles.VirtualClock(), out=tmp_path, quiet=True) as device:
        for batch in device.batches():
            device.step(cross_entropy(device.model(batch.x), batch.y), weight=float(device.step_number < 25))
    assert device.summary.diverged is None


def test_a_run_that_is_hopeless_ends_with_a_sentence_and_its_results(train, tmp_path):
    with pytest.raises(RunError, match=r"training has diverged again and again .* lower optimizer\.lr"):
        train(steps=100, optimizer={"lr": 1e7})
    folder = RunFolder(tmp_path)
    assert folder.summary.ended_by == "diverged"
    assert folder.summary.diverged.went_back == 6
