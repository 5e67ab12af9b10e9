"""A drone's picture and telemetry, of which a model tells what is below and where: files for runs in a folder."""

import numpy as np

MODEL = '''"""A model with two inputs and two answers."""

import torch
from torch import nn


class Drone(nn.Module):
    def __init__(self):
        super().__init__()
        self.body = nn.Sequential(nn.Linear(2 * 6 * 6 + 3, 32), nn.Tanh())
        self.kind, self.place = nn.Linear(32, 3), nn.Linear(32, 2)

    def forward(self, picture, telemetry):
        hidden = self.body(torch.cat([picture.flatten(1), telemetry], 1))
        return {"kind": self.kind(hidden), "place": self.place(hidden)}


class Blind(Drone):
    def forward(self, telemetry):
        return super().forward(torch.zeros(len(telemetry), 2, 6, 6), telemetry)


def sum_of_losses(outputs, targets):
    far = (outputs["place"] - targets["place"]).abs().mean()
    return nn.functional.cross_entropy(outputs["kind"], targets["kind"]) + far
'''
SETTINGS = {
    "model": "drone:Drone",
    "task": {"parts": {"kind": "classification", "place": {"kind": "regression", "weight": 0.5}}},
    "data": {"dataset": "npz:drone.npz"},
    "optimizer": {"lr": 0.1},
    "picture": False,
}


def arrays(n=500, seed=0):
    """Samples and targets by part, ``x.picture`` and so on, ``[n, ...]`` each."""
    rng = np.random.default_rng(seed)
    kind = rng.integers(3, size=n)
    telemetry = rng.normal([50, 0, 3], [20, 1, 0.5], size=(n, 3)).astype(np.float32)
    light = 60 * kind[:, None, None] * (np.arange(6) < 3) + 20
    picture = np.clip(light[:, None] + rng.normal(0, 20, size=(n, 2, 6, 6)), 0, 255).astype(np.uint8)
    place = telemetry[:, :2] * [2, 30] + 10 * kind[:, None] + 400
    return {"x.picture": picture, "x.telemetry": telemetry, "y.kind": kind, "y.place": place.astype(np.float32)}


def write_files(folder, **changed):
    """Write ``drone.npz`` and ``drone.py`` into a folder; ``changed`` arrays take the place of others in the file."""
    parts = arrays()
    written = {f"train_{name}": part[:400] for name, part in parts.items()}
    written |= {f"test_{name}": part[400:] for name, part in parts.items()}
    written |= changed
    np.savez(folder / "drone.npz", **{name: array for name, array in written.items() if array is not None})
    (folder / "drone.py").write_text(MODEL)
