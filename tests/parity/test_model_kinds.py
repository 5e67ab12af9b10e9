"""Models as torch ships them, on two gloo processes, one of them with a slow stream: what one process makes of all.

Run as a script, this file is one of the two devices, which trains all kinds one after the other and writes down what it
trained on; the test then trains on the union of both devices' batches.
"""

import os
import sys
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy, linear, normalize
from torch.nn.utils import parametrizations

import scadles
from scadles.testing.brokers.process import free_port

STEPS, UNFREEZE_AT, CLASSES = 8, 4, 4
SETTINGS = {
    "steps": STEPS,
    "picture": False,
    "stream": {"rates": [24, 0.6]},
    "batch": {"size": 8, "max": 64},
    "lr": {"scaling": "none"},
    "evaluation": {"every_s": 3},
    "checkpoint": {"every_steps": 3},
}


class Tied(nn.Module):
    """An encoder whose weights are its decoder's as well."""

    def __init__(self):
        super().__init__()
        self.into, self.out, self.head = nn.Linear(64, 16), nn.Linear(16, 64), nn.Linear(64, CLASSES)
        self.out.weight = nn.Parameter(self.into.weight.detach().t().contiguous())
        self.again = nn.Linear(64, 16)
        self.again.weight = self.into.weight

    def forward(self, x):
        x = x.flatten(1)
        return self.head(torch.tanh(self.out(torch.tanh(self.into(x)) + self.again(x))))


class Recurrent(nn.Module):
    def __init__(self):
        super().__init__()
        self.cells, self.head = nn.LSTM(8, 12, batch_first=True), nn.Linear(12, CLASSES)

    def forward(self, x):
        return self.head(self.cells(x.flatten(1, 2))[0][:, -1])


class Attention(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.TransformerEncoderLayer(8, 2, 16, dropout=0.0, batch_first=True)
        self.register_buffer("places", torch.randn(8, 8), persistent=False)  # device 0's, on both
        self.head = nn.Linear(8, CLASSES)

    def forward(self, x):
        return self.head(self.layer(x.flatten(1, 2) + self.places).mean(dim=1))


class TwoHeads(nn.Module):
    def __init__(self):
        super().__init__()
        self.body, self.head, self.unused = nn.Linear(64, 16), nn.Linear(16, CLASSES), nn.Linear(16, 3)

    def forward(self, x):
        hidden = torch.tanh(self.body(x.flatten(1)))
        return {"aux": self.unused(hidden), "logits": self.head(hidden)}


class Embedding(nn.Module):
    """Outputs are compared with class centres that only the optimizer and the loss know."""

    def __init__(self):
        super().__init__()
        self.body = nn.Linear(64, CLASSES)

    def forward(self, x):
        return normalize(self.body(x.flatten(1)))


class Codebook(nn.Module):
    """Vector quantisation whose codes follow what is assigned to them, by moving averages in buffers."""

    def __init__(self):
        super().__init__()
        self.body, self.head = nn.Linear(64, 6), nn.Linear(6, CLASSES)
        self.register_buffer("shares", torch.ones(5))
        self.register_buffer("sums", torch.randn(5, 6))
        self.register_buffer("passes", torch.zeros((), dtype=torch.int64), persistent=False)

    def forward(self, x):
        hidden = torch.tanh(self.body(x.flatten(1)))
        codes = self.sums / self.shares[:, None]
        nearest = torch.cdist(hidden, codes).argmin(dim=1)
        if self.training:
            with torch.no_grad():
                found = nn.functional.one_hot(nearest, 5).to(hidden.dtype)
                self.shares.mul_(0.9).add_(found.mean(dim=0), alpha=0.1)
                self.sums.mul_(0.9).add_(found.t() @ hidden / len(x), alpha=0.1)
                self.passes = self.passes + 1  # replaced, not written to
        return self.head(hidden + (codes[nearest] - hidden).detach())


def spectral():
    layers = [parametrizations.spectral_norm(nn.Linear(64, 16)), nn.Tanh(), nn.Linear(16, CLASSES)]
    return nn.Sequential(nn.Flatten(), *layers)


def instance_norm():
    norm = nn.InstanceNorm2d(4, affine=True, track_running_stats=True)
    return nn.Sequential(nn.Conv2d(1, 4, 3), norm, nn.Tanh(), nn.Flatten(), nn.Linear(4 * 36, CLASSES))


def weight_norm():
    layers = [parametrizations.weight_norm(nn.Linear(64, 16)), nn.Tanh(), nn.Linear(16, CLASSES)]
    return nn.Sequential(nn.Flatten(), *layers)


def plain():
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 16), nn.Tanh(), nn.Linear(16, CLASSES))


KINDS = {
    "spectral_norm": spectral,
    "InstanceNorm": instance_norm,
    "weight_norm": weight_norm,
    "tied weights": Tied,
    "LSTM": Recurrent,
    "transformer": Attention,
    "frozen, then unfrozen": plain,
    "an unused head": TwoHeads,
    "class centres": Embedding,
    "codebook": Codebook,
    "compiled": plain,
    "autocast": plain,
}


class Training:
    """One kind: its model, what else there is to train, the optimizer, and its loss."""

    def __init__(self, kind, seed):
        torch.manual_seed(seed)
        self.kind, self.model = kind, KINDS[kind]()
        more = []
        if kind == "class centres":
            self.centres = nn.Parameter(normalize(torch.randn(CLASSES, CLASSES)))
            more = [self.centres]
        if kind == "frozen, then unfrozen":
            self.model[1].requires_grad_(False)
        self.trained = [*self.model.parameters(), *more]
        # bfloat16 rounds the gradient of a batch, and of its parts, to 8 bits: to see through that, smaller steps
        lr = 0.0003 if kind == "autocast" else 0.05
        self.optimizer = torch.optim.SGD(self.trained, lr, momentum=0.9, weight_decay=0.01)

    def loss(self, model, x, y):
        if self.kind == "autocast":
            with torch.autocast("cpu", dtype=torch.bfloat16):
                return cross_entropy(model(x), y)
        outputs = model(x)
        if self.kind == "an unused head":
            return cross_entropy(outputs["logits"], y)
        if self.kind == "class centres":
            return cross_entropy(8 * linear(outputs, normalize(self.centres)), y)
        return cross_entropy(outputs, y)

    def after(self, step):
        if self.kind == "frozen, then unfrozen" and step == UNFREEZE_AT:
            self.model[1].requires_grad_(True)


def be_a_device(dataset, folder, ports):
    settings = SETTINGS | {"data": {"dataset": f"npz:{dataset}"}}
    for kind, port in zip(KINDS, ports, strict=True):
        os.environ["MASTER_PORT"] = port
        rank = int(os.environ["RANK"])
        training = Training(kind, seed=100 + rank)  # device 0's weights, buffers and centres are what counts
        started = {name: t.clone() for name, t in state_of(training).items()}
        model = torch.compile(training.model, backend="aot_eager") if kind == "compiled" else training.model
        batches = {}
        # a clock on which nothing but waiting takes time, so that a busy machine leaves as many batches empty
        about = {"clock": scadles.VirtualClock(), "out": f"{folder}/{kind}", "quiet": True}
        with scadles.join(settings, model=model, optimizer=training.optimizer, **about) as device:
            device.on_step(lambda step, training=training: training.after(step.step))
            for batch in device.batches():
                batches[device.step_number + 1] = (batch.x, batch.y)
                device.step(training.loss(model, batch.x, batch.y))
        torch.save((started, batches, state_of(training)), f"{folder}/{kind}-{rank}.pt")


def state_of(training):
    state = dict(training.model.named_parameters()) | dict(training.model.named_buffers())
    if training.kind == "class centres":
        state["centres"] = training.centres
    return {name: tensor.detach() for name, tensor in state.items()}


@pytest.fixture(scope="module")
def two_devices(tmp_path_factory, start, npz):
    folder = tmp_path_factory.mktemp("kinds")
    ports = [free_port() for _ in KINDS]
    surroundings = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "OMP_NUM_THREADS": "1"}
    runs = [start(folder, __file__, npz, folder, *ports, RANK=str(rank), **surroundings) for rank in (0, 1)]
    try:
        for run in runs:
            assert run.wait(280) == 0, run.err
    finally:
        for run in runs:
            run.kill_all()
    return folder


def train_on_the_union(kind, started, parts):
    """What one process makes of the batches of all devices."""
    training = Training(kind, seed=0)
    with torch.no_grad():
        for name, tensor in state_of(training).items():
            tensor.copy_(started[name])
    for step in range(1, STEPS + 1):
        both = [batches[step] for batches in parts if step in batches]
        x, y = (torch.cat(column) for column in zip(*both, strict=True))
        training.optimizer.zero_grad()
        training.loss(training.model, x, y).backward()
        training.optimizer.step()
        training.after(step)
    return state_of(training)


@pytest.mark.parametrize("kind", KINDS)
def test_two_devices_make_of_a_model_what_one_process_does(two_devices, kind):
    (started, first, ours), (_, second, theirs) = (torch.load(two_devices / f"{kind}-{rank}.pt") for rank in (0, 1))
    assert len(first) == STEPS
    assert 0 < len(second) < STEPS, "the slow stream leaves some batches empty"
    expected = train_on_the_union(kind, started, [first, second])
    statistics = [name for name in ours if "running" in name or "tracked" in name]
    for name, tensor in ours.items():
        assert torch.equal(tensor, theirs[name]), name
        if name not in statistics:
            torch.testing.assert_close(tensor, expected[name], rtol=1e-5, atol=1e-5, msg=lambda m, n=name: f"{n}: {m}")
    difference = max(float((ours[name] - expected[name]).abs().max()) for name in expected if name not in statistics)
    print(f"{kind}: {difference:.1e}")


def test_what_is_saved_has_the_names_of_the_model_that_is_not_compiled(two_devices):
    from safetensors.torch import load_file

    plain().load_state_dict(load_file(two_devices / "compiled" / "model.safetensors"))


if __name__ == "__main__":
    _, dataset, folder, *ports = sys.argv
    be_a_device(dataset, Path(folder), ports)
