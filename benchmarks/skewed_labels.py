"""Skewed labels in real runs: what one has to do about it, on the digits with four gloo processes.

The ways of ``scadles paper noniid``, lived instead of simulated: BatchNorm with each device's own running statistics
(as published) and with averaged ones, data injection on each of the two, and GroupNorm; with all labels on every device
and with one label on each of four (the digits 0 to 3), or three of all ten digits on each. Every device trains on 16
own samples in each step, in the same order in all runs, so that nothing but the ways differs. Prints the accuracy after
the last step, and what was injected and sent.

The network matters: resnet8 takes the mean of each channel over the picture, as the paper's ResNet does, which is what
BatchNorm of a batch of one label makes the same for all labels. cnn keeps four places apart and loses far less.

    python benchmarks/skewed_labels.py [--labels 1] [--model resnet8] [--steps 300] [--seed 0] [--only own] [--out DIR]
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from scadles.config.tree import merged
from scadles.data import load_digits
from scadles.observe import RunFolder
from scadles.paper.skewed import WAYS, needed

DEVICES = 4
TITLES = {"iid": "all labels", "labels": "{} a device"}
SETTINGS: dict[str, Any] = {
    "devices": DEVICES,
    "picture": False,
    "stream": {"rates": 100},
    "clock": {"speed": 50},
    "batch": {"rule": "fixed", "size": 16},
    "buffer": {"policy": "persistence"},
    "lr": {"scaling": "none"},
    "evaluation": {"every_s": 1_000_000},  # once, after the last step
    "checkpoint": {"every_steps": 1_000_000},
}


def four_digits(folder: Path) -> str:
    """Write a data set of the digits 0 to 3; return it as ``data.dataset`` has it."""
    digits = load_digits()
    path, arrays = folder / "four-digits.npz", {}
    train = digits.samples(np.arange(digits.train_size or 0))
    for part, (x, y) in {"train": train, "test": digits.test()}.items():
        arrays[f"{part}_x"], arrays[f"{part}_y"] = x[y < DEVICES].numpy(), y[y < DEVICES].numpy()
    np.savez(path, **arrays)
    return f"npz:{path}"


def run(way: str, given: dict[str, Any], folder: Path) -> RunFolder:
    """Train in processes of this machine; return what they left behind."""
    data = given["data"]
    name = f"{given['model']}-{way}-{data['partition']}-{data['labels_per_device']}-{given['seed']}"
    config = folder / f"{name}.yaml"
    config.write_text(yaml.safe_dump(merged(merged(SETTINGS, given), WAYS[way].settings)))
    command = [sys.executable, "-m", "scadles", "train", str(config), "--local", str(DEVICES)]
    done = subprocess.run(
        [*command, "--out", str(folder / name)], capture_output=True, text=True, check=False, timeout=1800
    )
    if done.returncode:
        raise SystemExit(f"{name} ended with {done.returncode}: {done.stderr[-2000:]}")
    return RunFolder(folder / name)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--labels", type=int, choices=[1, 3], default=1)
    parser.add_argument("--model", default="resnet8")
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", choices=list(WAYS))
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    folder = options.out or Path(tempfile.mkdtemp(prefix="scadles-skewed-"))
    folder.mkdir(parents=True, exist_ok=True)
    dataset = four_digits(folder) if options.labels == 1 else "digits"
    given = {"model": options.model, "steps": options.steps, "seed": options.seed}
    what = "the digits 0 to 3" if options.labels == 1 else "all digits"
    print(
        f"{DEVICES} gloo processes, {options.model}, {what}, {options.steps} steps of {DEVICES} x 16 own "
        f"samples, seed {options.seed}"
    )
    print(f"{'way':20} {'labels':15} {'accuracy':>9} {'of devices':>15} {'injected':>9} {'MB sent':>8}")
    for way, split in ((way, split) for way in WAYS for split in TITLES):
        if (options.only and way != options.only) or not needed(way, split):
            continue
        data = {"dataset": dataset, "labels_per_device": options.labels, "partition": split}
        summary = run(way, {**given, "data": data}, folder).summary
        own = summary.own_accuracy_range
        spread = f"{100 * own[0]:.1f} to {100 * own[1]:.1f}" if own else "common"
        labels, accuracy = TITLES[split].format(options.labels), 100 * (summary.final_accuracy or 0)
        print(
            f"{WAYS[way].title:20} {labels:15} {accuracy:9.1f} {spread:>15} "
            f"{summary.samples.injected:9,} {summary.bytes_sent / 1e6:8.1f}",
            flush=True,
        )


if __name__ == "__main__":
    main()
