"""A drone's picture and telemetry in; what is below it, and where, out: data and a model for two_inputs.yaml.

    python examples/two_inputs.py

trains four simulated devices, and uses the model on samples that no run has seen.
"""

import tempfile
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file
from torch import nn

import scadles

KINDS = ("field", "road", "water")


class Drone(nn.Module):
    """Takes the parts of a sample by their names, and answers with the names of the targets' parts."""

    def __init__(self):
        super().__init__()
        self.eye = nn.Sequential(nn.Conv2d(2, 8, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(2), nn.Flatten())
        self.body = nn.Sequential(nn.Linear(32 + 3, 32), nn.Tanh())
        self.kind, self.place = nn.Linear(32, len(KINDS)), nn.Linear(32, 2)

    def forward(self, picture, telemetry):
        seen = self.body(torch.cat([self.eye(picture), telemetry], 1))
        return {"kind": self.kind(seen), "place": self.place(seen)}


def data():
    """Return the training and the test part."""
    return make(2000, seed=0), make(400, seed=1)


def make(n, seed):
    """Return samples and targets by part, ``[n, ...]`` each: the places depend on both inputs."""
    rng = np.random.default_rng(seed)
    kind = rng.integers(len(KINDS), size=n)
    stripes = 50 * np.cos(np.arange(8) * (kind + 1)[:, None])[:, None, None, :]
    picture = np.clip(128 + stripes + rng.normal(0, 25, size=(n, 2, 8, 8)), 0, 255).astype(np.uint8)
    telemetry = rng.normal([80, 0, 12], [25, 1, 4], size=(n, 3)).astype(np.float32)
    place = (telemetry[:, :2] * [1, 20] + 15 * kind[:, None]).astype(np.float32)
    return {"picture": picture, "telemetry": telemetry}, {"kind": kind, "place": place}


def main(folder):
    summary = scadles.simulate(Path(__file__).with_suffix(".yaml"), out=folder / "run")
    print(f"after {summary.time_to_target_s} s of stream:", summary.measured.metrics)

    file = folder / "run" / "model.safetensors"
    model, preparation = Drone().eval(), scadles.Preparation.of(file)
    model.load_state_dict(load_file(file))
    unseen, true = make(5, seed=2)
    with torch.no_grad():
        raw = {name: torch.from_numpy(part) for name, part in unseen.items()}
        said = preparation.answers(model(**preparation.samples(raw)))
    for kind, found, place in zip(said["kind"].argmax(1), said["place"], true["place"], strict=True):
        print(f"{KINDS[int(kind)]} at {found[0]:.0f}, {found[1]:.0f}; it is at {place[0]:.0f}, {place[1]:.0f}")


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as name:
        main(Path(name))
