"""Two inputs, two answers: a drone's picture and telemetry in; what is below it, and where, out.

    python examples/two_inputs.py

makes a data set, trains four simulated devices on it, and uses the model on samples that no run has seen.
"""

import tempfile
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file
from torch import nn

import scadles

KINDS = ("field", "road", "water")
SETTINGS = {
    "devices": 4,
    "task": {"parts": {"kind": "classification", "place": {"kind": "regression", "weight": 0.5}}},
    "target": {"metric": "place.mae", "at_most": 3.0},
    "duration_s": 120,
    "stream": {"rates": [50, 38, 12, 82]},
    "optimizer": {"lr": 0.1},
    "picture": False,
}


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


def make(n, seed):
    """Return samples and targets by part, ``[n, ...]`` each: the places depend on both inputs."""
    rng = np.random.default_rng(seed)
    kind = rng.integers(len(KINDS), size=n)
    stripes = 50 * np.cos(np.arange(8) * (kind + 1)[:, None])[:, None, None, :]
    picture = np.clip(128 + stripes + rng.normal(0, 25, size=(n, 2, 8, 8)), 0, 255).astype(np.uint8)
    telemetry = rng.normal([80, 0, 12], [25, 1, 4], size=(n, 3)).astype(np.float32)
    place = (telemetry[:, :2] * [1, 20] + 15 * kind[:, None]).astype(np.float32)
    return {"x.picture": picture, "x.telemetry": telemetry, "y.kind": kind, "y.place": place}


def main(folder):
    train, test, unseen = make(2000, seed=0), make(400, seed=1), make(5, seed=2)
    parts = {f"train_{name}": part for name, part in train.items()} | {f"test_{n}": part for n, part in test.items()}
    np.savez(folder / "drone.npz", **parts)
    summary = scadles.simulate(
        SETTINGS | {"data": {"dataset": f"npz:{folder}/drone.npz"}}, model=Drone(), out=folder / "run"
    )
    print(f"after {summary.time_to_target_s} s of stream:", summary.measured.metrics)

    file = folder / "run" / "model.safetensors"
    model, preparation = Drone().eval(), scadles.Preparation.of(file)
    model.load_state_dict(load_file(file))
    raw = {name: torch.from_numpy(unseen[f"x.{name}"]) for name in ("picture", "telemetry")}
    with torch.no_grad():
        said = preparation.answers(model(**preparation.samples(raw)))
    for kind, place, true in zip(said["kind"].argmax(1), said["place"], unseen["y.place"], strict=True):
        print(f"{KINDS[int(kind)]} at {place[0]:.0f}, {place[1]:.0f}; it is at {true[0]:.0f}, {true[1]:.0f}")


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as name:
        main(Path(name))
