"""ScaDLES from Python: whole runs, loops of one's own, and what happens when those do not go to the end."""

import json
import time

import pytest
import torch
from torch.nn.functional import cross_entropy

import scadles
from scadles.errors import PeerLostError, RunError
from scadles.observe import NonFinite, RunFolder, Step
from scadles.testing.brokers.process import free_port

# Run as each of two devices: arguments are the data set and a port for each run.
SCRIPT = '''
import json
import os
import sys

import torch
from torch import nn
from torch.nn.functional import cross_entropy

import scadles

SETTINGS = {
    "method": "ddl", "steps": 12, "data": {"dataset": "npz:" + sys.argv[1]}, "stream": {"rates": [200, 100]},
    "batch": {"size": 16}, "clock": {"speed": 20}, "checkpoint": {"every_steps": 4},
}


def loss_of(outputs, labels):
    return cross_entropy(outputs, labels, label_smoothing=0.1)


def network():
    torch.manual_seed(7)
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 16), nn.Tanh(), nn.Linear(16, 4))


class Root(torch.autograd.Function):
    """One, but its gradient is NaN."""

    @staticmethod
    def forward(context, x):
        return torch.ones_like(x)

    @staticmethod
    def backward(context, gradient):
        return gradient * float("nan")


_, _, *ports = sys.argv
os.environ["MASTER_PORT"] = ports[0]
whole = scadles.train(SETTINGS, model=network(), loss=loss_of, out="whole", quiet=True)

os.environ["MASTER_PORT"] = ports[1]
model = network()
with scadles.join(SETTINGS, model=model, loss=loss_of, out="own", quiet=True) as device:
    for batch in device.batches():
        assert len(batch) == 16 == len(batch.x) == len(batch.y)
        device.step(loss_of(model(batch.x), batch.y))
own = device.summary

os.environ["MASTER_PORT"] = ports[2]
model = network()
optimizer = torch.optim.SGD(model.parameters(), 0.05)
with scadles.join(SETTINGS, model=model, optimizer=optimizer, out="early", quiet=True) as device:
    for count, batch in enumerate(device.batches(), start=1):
        loss = loss_of(model(batch.x), batch.y)
        if device.rank == 1 and count == 3:
            loss = loss * Root.apply(model(batch.x).mean())
        if device.rank == 1 and count == 5:
            loss = loss + float("inf")
        if device.rank == 1 and count == 8:
            break
        device.step(loss)
print(json.dumps([summary.model_dump(mode="json") for summary in (whole, own, device.summary)]))
'''


@pytest.fixture(scope="module")
def two_devices(tmp_path_factory, start, npz):
    """Three runs of the same two processes: with train(), with a loop, and with a loop that ends early."""
    folder = tmp_path_factory.mktemp("library")
    (folder / "script.py").write_text(SCRIPT)
    ports = [free_port() for _ in range(3)]
    surroundings = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1"}
    runs = [start(folder, "script.py", npz, *ports, RANK=str(rank), **surroundings) for rank in (0, 1)]
    try:
        for run in runs:
            assert run.wait() == 0, run.err
    finally:
        for run in runs:
            run.kill_all()
    return folder, [json.loads(run.out) for run in runs]


def test_every_device_gets_the_same_summary(two_devices):
    for mine, other in zip(*two_devices[1], strict=True):
        for moment in ("wall_s", "time_s"):
            mine.pop(moment), other.pop(moment)
        assert mine == other


def test_train_and_a_loop_of_ones_own_come_to_the_same(two_devices):
    folder, [(whole, own, _), _] = two_devices
    assert whole["model_sha256"] == own["model_sha256"]
    assert whole["ended_by"] == own["ended_by"] == "steps"
    for device in (0, 1):
        steps = [RunFolder(folder / name).steps(device) for name in ("whole", "own")]
        for one, two in zip(*steps, strict=True):
            assert (one.offsets, one.loss, one.lr, one.batch) == (two.offsets, two.loss, two.lr, two.batch)
    assert whole["final_accuracy"] == own["final_accuracy"] > 0.8


def test_accuracy_on_a_devices_own_stream_is_of_the_model_before_it_was_trained_on_that(two_devices):
    folder, [(whole, own, _), _] = two_devices
    for device, row in enumerate(whole["per_device"]):
        steps = RunFolder(folder / "whole").steps(device)
        right = [step.correct for step in steps]
        assert row["online_accuracy"] == sum(right) / (16 * len(right))
        assert sum(right[:3]) < sum(right[-3:])
    assert 0.25 < whole["online_accuracy"] < whole["final_accuracy"]
    # a loop of one's own that keeps the outputs to itself is not counted
    assert own["online_accuracy"] is None
    assert {step.correct for step in RunFolder(folder / "own").steps(0)} == {None}


def test_a_gradient_that_is_not_finite_is_left_out(two_devices):
    folder, [(_, _, early), _] = two_devices
    run = RunFolder(folder / "early")
    assert [row["non_finite_steps"] for row in early["per_device"]] == [0, 2]
    assert [event.step for event in run.events(1) if isinstance(event, NonFinite)] == [3, 5]
    assert [step.batch for step in run.steps(1)] == [16, 16, 0, 16, 0, 16, 16, 0]
    assert [step.total_batch for step in run.steps(0)] == [32, 32, 16, 32, 16, 32, 32, 16]
    samples = early["per_device"][1]["samples"]
    assert (samples["trained"], samples["rejected"]) == (5 * 16, 2 * 16)
    assert all(step.loss is not None and step.loss < 10 for step in run.steps(0))


def test_leaving_the_loop_early_ends_the_run_on_all_devices(two_devices):
    folder, [(_, _, early), _] = two_devices
    assert (early["ended_by"], early["steps"]) == ("stopped", 8)
    assert (folder / "early" / "model.safetensors").exists()
    samples = early["per_device"][1]["samples"]
    assert samples["received"] == samples["trained"] + samples["rejected"] + samples["held"]
    # the batch that was gathered last was given back
    assert samples["held"] >= 16


@pytest.fixture
def settings(npz):
    return {
        "method": "ddl",
        "steps": 4,
        "data": {"dataset": f"npz:{npz}"},
        "stream": {"rates": 100},
        "batch": {"size": 8},
        "clock": {"speed": 40},
        "checkpoint": {"every_steps": 2},
    }


@pytest.fixture
def alone(settings, tmp_path, monkeypatch):
    """Join a run of one device in this process."""
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    return lambda **changes: scadles.join(settings | changes, out=tmp_path / "run", quiet=True)


def in_run(device, loop):
    with device:
        loop(device)


def test_two_steps_for_one_batch(alone):
    def careless(device):
        for batch in device.batches():
            device.step(cross_entropy(device.model(batch.x), batch.y))
            device.step(cross_entropy(device.model(batch.x), batch.y))

    with pytest.raises(RunError, match=r"step\(\) without a batch: call it once for each batch"):
        in_run(alone(), careless)


def test_a_batch_without_a_step(alone):
    with pytest.raises(RunError, match=r"call device\.step\(loss\) once for every batch"):
        in_run(alone(), lambda device: list(device.batches()))


def test_a_loss_that_is_not_one_number(alone):
    def careless(device):
        for batch in device.batches():
            device.step(cross_entropy(device.model(batch.x), batch.y, reduction="none"))

    with pytest.raises(RunError, match=r"mean over the batch, one number; it has shape \(8,\)"):
        in_run(alone(), careless)


def test_outputs_of_another_batch(alone):
    def careless(device):
        for batch in device.batches():
            outputs = device.model(batch.x)
            device.step(cross_entropy(outputs, batch.y), outputs[:5])

    with pytest.raises(RunError, match=r"the outputs must be \[8, classes\], as the batch; their shape is \[5, 4\]"):
        in_run(alone(), careless)


def test_what_was_done_until_a_mistake_can_be_gone_on_with(alone, settings, tmp_path):
    def mistaken(device):
        for count, batch in enumerate(device.batches()):
            device.step(cross_entropy(device.model(batch.x), batch.y) / (3 - count or 1 / 0))

    with pytest.raises(ZeroDivisionError):
        in_run(alone(), mistaken)
    summary = scadles.train(settings, out=tmp_path / "run", resume=True, quiet=True)
    assert (summary.steps, summary.ended_by, summary.samples.trained) == (4, "steps", 32)
    assert [step.offsets for step in RunFolder(tmp_path / "run").steps(0)] == [(0, 7), (8, 15), (16, 23), (24, 31)]


def test_resuming_a_run_that_had_reached_its_end_changes_nothing(settings, tmp_path, monkeypatch):
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    first = scadles.train(settings, out=tmp_path / "run", quiet=True)
    again = scadles.train(settings, out=tmp_path / "run", resume=True, quiet=True)
    assert again.model_sha256 == first.model_sha256
    assert (again.steps, again.final_accuracy) == (first.steps, first.final_accuracy)
    # what was held then is still to come, from the source
    assert again.samples.trained == again.samples.received == first.samples.trained == 32


def test_an_error_in_one_devices_loop_ends_the_others_at_once(in_threads, settings, tmp_path):
    def work(fabric):
        with scadles.join(settings | {"steps": 1000}, out=tmp_path / "run", quiet=True, fabric=fabric) as device:
            for count, batch in enumerate(device.batches(), start=1):
                if device.rank == 1 and count == 4:
                    raise LookupError("a mistake in the user's loop")
                try:
                    device.step(cross_entropy(device.model(batch.x), batch.y))
                except PeerLostError as error:
                    lost.append((device.rank, str(error)))
                    raise

    lost = []
    since_s = time.monotonic()
    with pytest.raises(LookupError):
        in_threads(3, work)
    assert time.monotonic() - since_s < 20
    assert sorted(lost) == [
        (0, "lost device 1 during gradients of step 4: it has left"),
        (2, "lost device 1 during gradients of step 4: it has left"),
    ]


def test_a_loop_may_see_what_happens(alone):
    with alone() as device:
        steps = [device.step(cross_entropy(device.model(batch.x), batch.y)) for batch in device.batches()]
    assert all(isinstance(step, Step) for step in steps)
    assert [step.step for step in steps] == [1, 2, 3, 4]
    assert device.summary.time_s >= steps[-1].time_s
    assert torch.is_grad_enabled()
