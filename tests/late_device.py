"""One device that notes what it trained on: CONFIG FOLDER [resume]; samples are numbers, and so are their labels."""

import json
import sys
from pathlib import Path

import torch
from torch import nn

import scadles


def main(config, folder, *resume):
    model = nn.Sequential(nn.Linear(1, 4), nn.Tanh(), nn.Linear(4, 10))
    device = scadles.join(Path(config), model=model, out=folder, quiet=True, resume=bool(resume))
    with device, Path(folder, "trained.jsonl").open("a") as notes:

        def note(step, **fields):
            notes.write(json.dumps({"step": step, **fields}) + "\n")
            notes.flush()

        note(device.step_number, began=True)
        for batch in device.batches():
            # before the step, at whose end there may be a checkpoint: it counts once that one is there
            note(device.step_number + 1, x=batch.x.flatten().int().tolist(), y=batch.y.tolist())
            outputs = device.model(batch.x / 10_000)
            device.step(nn.functional.cross_entropy(outputs, batch.y), outputs)


def trained(folder):
    """Return (sample, label) of all that was trained on in steps that count."""
    steps = {}
    for line in Path(folder, "trained.jsonl").read_text().splitlines():
        try:
            said = json.loads(line)
        except ValueError:
            continue  # written when it was killed
        if "began" in said:
            steps = {step: pairs for step, pairs in steps.items() if step <= said["step"]}
        else:
            steps[said["step"]] = list(zip(said["x"], said["y"], strict=True))
    return [pair for pairs in steps.values() for pair in pairs]


if __name__ == "__main__":
    torch.manual_seed(0)
    main(*sys.argv[1:])
