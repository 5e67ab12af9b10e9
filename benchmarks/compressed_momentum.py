"""Steps to a target by what becomes of momentum where gradients are compressed, over those of dense steps.

Simulated devices, one second of stream a step, every step compressed, nothing charged. Rules:

- after: the optimizer's momentum, on what all devices' messages come to
- before: momentum on each device, on what goes into the residual (`compression.momentum`)
- masked: the same, where momentum of an entry ends when it is sent (Deep Gradient Compression, section 3.2)
- half: half of it ends
- decay: before, and a residual of which a twentieth is given up in each step
- ef21: EF21-SGDM (Fatkhullin, Tyurin and Richtarik 2023), of the same gain and horizon

    python benchmarks/compressed_momentum.py [--quick] [--model mlp] [--data digits] [--rates S1 S2] [--labels 0 2]
        [--ratios 0.1 0.03 0.01] [--rules after before ...] [--seeds 3] [--devices 16] [--target 0.95] [--steps 250]

Each line has the steps of each seed (- is never), the mean ratio to dense, and the share of the squared norm that was
picked.
"""

from __future__ import annotations

import argparse
import sys
from statistics import fmean

import torch
from torch import Tensor

from scadles import assembly
from scadles.config import RunConfig, load_config
from scadles.exchange.compression import ErrorFeedback, Feedback, MomentumCorrection
from scadles.exchange.reduction import ClusterExchange
from scadles.simulation.simulator import Simulator

MOMENTUM = 0.9
DENSE, AFTER, EF21 = "dense", "after", "ef21"


class Masked(MomentumCorrection):
    """Momentum of which a share ends where an entry is sent."""

    def __init__(self, n: int, share: float) -> None:
        super().__init__(ErrorFeedback(n), n, MOMENTUM)
        self._share = share

    def sent(self, indices: Tensor, values: Tensor) -> None:
        super().sent(indices, values)
        self._velocity[indices] *= 1 - self._share


class Decaying(ErrorFeedback):
    """A residual of which a share is given up in each step."""

    def __init__(self, n: int, share: float) -> None:
        super().__init__(n)
        self._share = share

    def add(self, update: Tensor) -> Tensor:
        self._residual.mul_(1 - self._share)
        return super().add(update)


class Ef21(Feedback):
    """What is sent is the change of an estimate of the averaged gradient; the optimizer applies the sum of changes."""

    def __init__(self, n: int) -> None:
        self._average, self._estimate, self._change = torch.zeros(n), torch.zeros(n), torch.zeros(n)

    def add(self, update: Tensor) -> Tensor:
        self._average.mul_(MOMENTUM).add_(update, alpha=1 - MOMENTUM)
        return torch.sub(self._average, self._estimate, out=self._change)

    def sent(self, indices: Tensor, values: Tensor) -> None:
        self._estimate.index_add_(0, indices, values)

    def sent_all(self, values: Tensor | None = None) -> None:
        self._estimate.add_(self._change if values is None else values)

    def state(self) -> dict[str, Tensor]:
        return {"average": self._average, "estimate": self._estimate}

    def load(self, state: dict[str, Tensor]) -> None:
        self._average.copy_(state["average"])
        self._estimate.copy_(state["estimate"])


RULES = {
    AFTER: ErrorFeedback,
    "before": lambda n: MomentumCorrection(ErrorFeedback(n), n, MOMENTUM),
    "masked": lambda n: Masked(n, 1.0),
    "half": lambda n: Masked(n, 0.5),
    "decay": lambda n: MomentumCorrection(Decaying(n, 0.05), n, MOMENTUM),
    EF21: Ef21,
}


def settings(options: argparse.Namespace, rates: str, labels: int, ratio: float, rule: str, seed: int) -> RunConfig:
    """Return the settings of one run."""
    tree = {
        "seed": seed,
        "devices": options.devices,
        "model": options.model,
        "picture": False,
        "steps": options.steps,
        "target_accuracy": options.target,
        "stop_at_target": True,
        "evaluation": {"every_s": 5.0},
        "stream": {"rates": rates},
        "cost": {"profile": "free"},
        "data": {"dataset": options.data},
        "optimizer": {"momentum": MOMENTUM if rule in (DENSE, AFTER) else 0.0},
    }
    if options.data == "synthetic-images":
        tree["data"] |= {"shape": [1, 16, 16], "test_samples": 1000}
    if labels:
        tree["data"] |= {"partition": "labels", "labels_per_device": labels}
    if rule != DENSE:
        tree["compression"] = {"ratio": ratio, "gate": "always"}
    return load_config(tree)


def run(config: RunConfig, rule: str) -> tuple[int | None, float]:
    """Return the steps to the target, None for never, and the mean share of the squared norm that was picked."""
    torch.set_num_threads(1)
    dataset = assembly.build_dataset(config)
    model = assembly.build_network(config, dataset)
    optimizer = None
    if rule == EF21:  # with a momentum of 1 an optimizer applies the sum of all that came
        lr = config.optimizer.lr / (1 - MOMENTUM)
        optimizer = torch.optim.SGD(model.parameters(), lr, momentum=1.0, weight_decay=config.optimizer.weight_decay)
    simulator = Simulator(config, dataset, model, optimizer)
    exchange = simulator.learner.exchange
    if isinstance(exchange, ClusterExchange):
        for compressor in exchange.compressors:  # rules that are no settings
            compressor._feedback = RULES[rule](compressor.reducer.n)
    summary = simulator.run()
    kept = summary.compressed.kept_energy if summary.compressed else None
    return summary.steps if summary.time_to_target_s is not None else None, kept or 1.0


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="one seed, slow streams, shared labels, three rules")
    parser.add_argument("--model", default="mlp")
    parser.add_argument("--data", default="digits", help="digits or synthetic-images")
    parser.add_argument("--rates", nargs="+", default=["S1", "S2"])
    parser.add_argument("--labels", nargs="+", type=int, default=[0, 2], help="labels of each device; 0: all")
    parser.add_argument("--ratios", nargs="+", type=float, default=[0.1, 0.03, 0.01])
    parser.add_argument("--rules", nargs="+", choices=list(RULES), default=list(RULES))
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--devices", type=int, default=16)
    parser.add_argument("--target", type=float, default=0.95)
    parser.add_argument("--steps", type=int, default=250, help="at most")
    options = parser.parse_args()
    if options.quick:
        options.rates, options.labels, options.ratios, options.seeds = ["S1"], [0], [0.1], 1
        options.rules, options.devices, options.target = [AFTER, "before", "masked"], 8, 0.9
    print(f"{options.data}, {options.model}, {options.devices} devices, target {options.target:g}")
    for rates in options.rates:
        for labels in options.labels:
            rows = [(1.0, DENSE), *((ratio, rule) for ratio in options.ratios for rule in options.rules)]
            dense: list[int | None] = []
            for ratio, rule in rows:
                found = [
                    run(settings(options, rates, labels, ratio, rule, seed), rule) for seed in range(options.seeds)
                ]
                steps = [one[0] for one in found]
                dense = steps if rule == DENSE else dense
                times = [one / base for one, base in zip(steps, dense, strict=True) if one and base]
                mean = f"{fmean(times):6.2f}" if len(times) == len(steps) else "     -"
                said = " ".join(f"{one or '-':>5}" for one in steps)
                kept = fmean(one[1] for one in found)
                print(f"{rates:4}{labels:3}{ratio:6g} {rule:8}{said}{mean}{kept:7.3f}", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
