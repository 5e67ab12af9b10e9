"""Accuracy after equally many steps and bytes per device and step, by how gradients are compressed.

Sixteen simulated devices of the paper's stream set S1 and a network of three convolutions, as in examples/s1.yaml;
every step is compressed, and momentum is the optimizer's. The sparse methods add up by `split`, PowerSGD's messages go
from all to all. One seed: differences of a few points mean nothing.

    python benchmarks/methods.py [--steps 200] [--ratio 0.05] [--seed 0]
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path

from scadles.observe import RunFolder
from scadles.simulation import simulate

WAYS = {
    "none": {},
    "float16": {"method": "whole", "ratio": 1, "values": "float16"},
    "int8": {"method": "whole", "ratio": 1, "values": "int8"},
    "topk": {"method": "topk", "reduction": "split"},
    "randomk": {"method": "randomk", "reduction": "split"},
    "powersgd": {"method": "powersgd"},
    "powersgd, float32": {"method": "powersgd", "values": "float32"},
}


def run(compression: dict, options: argparse.Namespace, folder: Path) -> RunFolder:
    """Simulate with one way of compression."""
    config = {
        "devices": 16,
        "model": "cnn",
        "steps": options.steps,
        "seed": options.seed,
        "data": {"dataset": "synthetic-images", "shape": [3, 16, 16]},
        "stream": {"rates": "S1"},
        "evaluation": {"every_s": 5},
        "compression": {"ratio": options.ratio, "gate": "always", **compression} if compression else {},
    }
    simulate(config, out=folder, quiet=True)
    return RunFolder(folder)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--ratio", type=float, default=0.05, help="of the sparse methods and of PowerSGD")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    print(f"16 devices, {options.steps} steps, ratio {options.ratio:g}, seed {options.seed}")
    print(f"{'':18}{'final':>8}{'best':>8}{'bytes':>10}{'of dense':>10}  how")
    dense = None
    with tempfile.TemporaryDirectory() as folder:
        for number, (name, compression) in enumerate(WAYS.items()):
            summary = run(compression, options, Path(folder) / str(number)).summary
            sent = summary.bytes_sent / summary.devices / summary.steps
            dense = dense or sent
            how = summary.compressed.reduction_why if summary.compressed else "a ring of float32"
            accuracy = f"{100 * summary.final_accuracy:8.1f}{100 * summary.best_accuracy:8.1f}"
            print(f"{name:18}{accuracy}{sent:10.0f}{f'1/{dense / sent:.1f}':>10}  {how}", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
