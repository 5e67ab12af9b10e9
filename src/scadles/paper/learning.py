"""DDL and ScaDLES learning the same thing from the same streams for the same stream time."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from scadles.config import RunConfig, load_config
from scadles.config.tree import merged
from scadles.observe import RunFolder
from scadles.observe.paper_plots import Curve, CurvePanel
from scadles.paper.experiment import Options
from scadles.paper.published import BATCH, CONVERGENCE, DEVICES, NETWORKS, NEVER
from scadles.paper.rules import ddl_step_s, throughput_ratio
from scadles.paper.runs import Runs, key_of
from scadles.paper.settings import SEED, rates_of

Key = tuple[str, str]

KEYS: tuple[Key, ...] = tuple(CONVERGENCE)
TARGET_SHARE = 0.95
#: What ScaDLES does where window and ratio are what it chooses by what it measures, and where the rate is as well.
STEPS: Mapping[str, Any] = {"method": "scadles", "batch": {"window": "auto"}, "compression": {"ratio": "auto"}}
AUTO: Mapping[str, Any] = {"method": "auto"}
VARIANTS: Mapping[str, Mapping[str, Any]] = {
    "ddl": {"method": "ddl"},
    "weighted": {"method": "scadles", "buffer": {"policy": "persistence"}},
    "dense": {"method": "scadles"},
    "norm": {"method": "scadles", "compression": {"ratio": 0.1, "gate": "norm", "delta": 0.3}},
    "steps": STEPS,
    "auto": AUTO,
}
#: How much longer runs take than their samples say: compressed gradients are made and packed device by device.
_EFFORT = {"norm": 2.0, "steps": 8.0, "auto": 8.0}
_NETWORKS = {"mlp": "a network with one hidden layer of 64", "cnn": "a network of three convolutions"}


@dataclass(frozen=True)
class Scale:
    """How large the learning runs are.

    Attributes:
        devices: of each run.
        side: height and width of the synthetic images.
        test_samples: of the synthetic images.
        steps: of DDL, by network; ScaDLES gets the same stream time.
        tests: spread over that time.
        model: that is trained in the place of both networks.
        classes: of the synthetic images, by network.
        seeds: runs of each setting.
    """

    devices: int
    side: int
    test_samples: int
    steps: Mapping[str, int]
    tests: int
    model: str = "mlp"
    classes: Mapping[str, int] = field(default_factory=lambda: {"resnet152": 10, "vgg19": 20})
    seeds: tuple[int, ...] = (SEED,)


FULL = Scale(DEVICES, 16, 1000, {"resnet152": 100, "vgg19": 150}, 600, seeds=(SEED, SEED + 1, SEED + 2))
QUICK = Scale(8, 16, 500, {"resnet152": 70, "vgg19": 110}, 400)


@dataclass(frozen=True)
class Learnt:
    """What came of one run.

    Attributes:
        time_s: stream time of each test.
        accuracy: top-1, 0 to 1, of each test.
        step_time_s: stream time after each step.
        held: samples waiting on the fullest device after each step.
        cnc: share of the steps that were compressed.
        bytes_sent: by a device on average, in the whole run.
        left_out: mean share of the squared norm that was not picked; None without a gate by norm.
        window_s: stream seconds of all devices that a step is trained on, the median over all steps.
    """

    time_s: np.ndarray
    accuracy: np.ndarray
    step_time_s: np.ndarray
    held: np.ndarray
    cnc: float = 0.0
    bytes_sent: float = 0.0
    left_out: float | None = None
    window_s: float = math.nan

    @property
    def steps(self) -> int:
        """How many steps the run took."""
        return len(self.step_time_s)

    @property
    def bytes_per_step(self) -> float:
        """What a device sends in a step on average."""
        return self.bytes_sent / self.steps

    @property
    def bytes_per_second(self) -> float:
        """What a device sends in a second of stream on average."""
        return self.bytes_sent / float(self.step_time_s[-1])

    @property
    def best(self) -> float:
        """The best accuracy of all tests."""
        return float(self.accuracy.max())

    @property
    def final(self) -> float:
        """The mean accuracy over the last tenth of the tests, because a single test jumps up and down."""
        return float(self.accuracy[-math.ceil(len(self.accuracy) / 10) :].mean())

    def time_to(self, target: float) -> float:
        """Return the stream time of the first test that was at least as good as ``target``; infinity for none."""
        good = np.flatnonzero(self.accuracy >= target)
        return float(self.time_s[good[0]]) if len(good) else NEVER

    def held_at(self, time_s: float) -> float:
        """Return what waited on the fullest device at a stream time; at the end of the run for a later one."""
        return float(self.held[min(int(np.searchsorted(self.step_time_s, time_s)), len(self.held) - 1)])


def scale(options: Options) -> Scale:
    """Return the sizes that the options ask for."""
    return QUICK if options.quick else FULL


def learn(
    options: Options, runs: Runs, variants: Sequence[str], seeds: Sequence[int] = (SEED,)
) -> dict[int, dict[str, dict[Key, Learnt]]]:
    """Return what each variant learnt in each of the eight cells, by seed."""
    keys = [(variant, *key, seed) for seed in seeds for key in KEYS for variant in variants]
    configs = {key: config_of(options, *key) for key in keys}
    weights = {key: _EFFORT.get(key[0], 1.0) * work(configs[key], key[1], own=key[0] != "ddl") for key in keys}
    folders = runs.get(configs, weights)
    found = {key: learnt(folder) for key, folder in folders.items()}
    return {
        seed: {variant: {key: found[key_of(variant, *key, seed)] for key in KEYS} for variant in variants}
        for seed in seeds
    }


def config_of(options: Options, variant: str, network: str, name: str, seed: int = SEED) -> RunConfig:
    """Return the settings of a variant's run in a cell, over as much stream time as DDL's steps take."""
    size = scale(options)
    shared = {**settings(options, size, (network, name)), "seed": seed, "duration_s": 1.0}
    config = load_config(merged(shared, VARIANTS[variant]))
    duration_s = size.steps[network] * ddl_step_s(rates_of(config), NETWORKS[network])
    return load_config(config, [f"duration_s={duration_s}", f"evaluation.every_s={duration_s / size.tests}"])


def work(config: RunConfig, network: str, *, own: bool) -> float:
    """Return roughly how many samples a run trains on: with batches of its own, or with those of DDL."""
    rates_hz, duration_s = rates_of(config), config.duration_s or 0.0
    ddl = BATCH * config.devices * duration_s / ddl_step_s(rates_hz, NETWORKS[network])
    return ddl * throughput_ratio(rates_hz, NETWORKS[network]) if own else ddl


def rates(options: Options, key: Key, seed: int = SEED) -> tuple[float, ...]:
    """Return the rates of the devices in a cell."""
    return rates_of(config_of(options, "ddl", *key, seed))


def targets(ddl: Mapping[Key, Learnt]) -> dict[str, float]:
    """Return the accuracy to reach by network: 95 % of DDL's best, of the set in which that is lowest."""
    return {
        network: round(TARGET_SHARE * min(ddl[key].best for key in KEYS if key[0] == network), 3)
        for network in NETWORKS
    }


def remarks(options: Options, aims: Mapping[str, float]) -> tuple[str, ...]:
    """Return what a reader must know about runs that learn towards a target."""
    goals = ", ".join(f"{100 * aim:.1f} % for {NETWORKS[network].title}" for network, aim in aims.items())
    return (
        what_is_learnt(options, scale(options)),
        f"{how_it_is_learnt(scale(options))} Both methods learn for the same stream time.",
        f"Target: 95 % of DDL's best accuracy, {goals}. Final: the mean of the last tenth of all tests.",
        "Rule for the speed-up: how many more samples per second ScaDLES trains on, as if all taught alike.",
        "Runs are short: where DDL still improves at the end (see the picture), who is ahead need not end higher.",
    )


def what_is_learnt(options: Options, size: Scale) -> str:
    """Return a sentence on what is trained and what is charged."""
    classes = " and ".join(f"{size.classes[name]} ({network.title})" for name, network in NETWORKS.items())
    what = options.data or f"synthetic images of {size.side} x {size.side} in classes, {classes}"
    return (
        "The paper trains ResNet152 on CIFAR10 and VGG19 on CIFAR100 and reports top-5 accuracy. We train "
        f"{_NETWORKS[size.model]} on {what}, report top-1, and charge the time that the big network costs on a K80 "
        "behind 5 Gbps."
    )


def how_it_is_learnt(size: Scale) -> str:
    """Return a sentence on the settings of training."""
    return f"{size.devices} devices with drawn rates, learning rate 0.05, momentum 0.9, no schedule."


def speed_up(slow_s: float, fast_s: float) -> float | None:
    """Return how many times sooner the fast one was there; None where one never was.

    >>> speed_up(6.0, 3.0), speed_up(6.0, NEVER)
    (2.0, None)
    """
    return slow_s / fast_s if math.isfinite(slow_s) and math.isfinite(fast_s) else None


def settings(options: Options, size: Scale, key: Key) -> dict[str, Any]:
    """Return the settings that all learning runs of a cell share, without a method and an end."""
    network, name = key
    return {
        "seed": SEED,
        "devices": size.devices,
        "model": size.model,
        "picture": False,
        "stream": {"rates": name},
        "cost": {"profile": NETWORKS[network].cost_profile},
        "data": data_of(options, size.classes[network], size.side, size.test_samples),
    }


def learnt(run: RunFolder) -> Learnt:
    """Return what came of a run."""
    time_s, accuracy = run.tests()
    held = [run.column(device, "held") + run.column(device, "lag") for device in run.devices]
    fleet_hz = sum(float(np.median(run.column(device, "rate_hz"))) for device in run.devices)
    plain = Learnt(
        time_s,
        accuracy,
        step_time_s=run.column(run.devices[0], "time_s"),
        held=np.max(held, axis=0),
        bytes_sent=run.summary.bytes_sent / run.summary.devices,
        window_s=float(np.median(run.column(run.devices[0], "total_batch"))) / fleet_hz,
    )
    compressed = run.summary.compressed
    if compressed is None:
        return plain
    left_out = None if compressed.kept_energy is None else 1 - compressed.kept_energy
    return replace(plain, cnc=compressed.cnc, left_out=left_out)


def mean_accuracy(runs: Sequence[Learnt]) -> tuple[np.ndarray, np.ndarray]:
    """Return the steps of the tests that all runs have, and the mean accuracy in percent at each, ``[tests]`` both."""
    tests = min(len(run.accuracy) for run in runs)
    steps = np.searchsorted(runs[0].step_time_s, runs[0].time_s[:tests]) + 1
    return steps, np.mean([100 * run.accuracy[:tests] for run in runs], axis=0)


def accuracy_panel(title: str, x_label: str, curves: Sequence[Curve]) -> CurvePanel:
    """Return a panel of accuracies in percent."""
    return CurvePanel(title=title, y_label="top-1 accuracy (%)", x_label=x_label, curves=curves, y_range=(0, 102))


def data_of(options: Options, classes: int, side: int, test_samples: int) -> dict[str, Any]:
    """Return the settings of what is learnt: the data set of the options, or else synthetic images."""
    if options.data is not None:
        return {"dataset": options.data}
    return {
        "dataset": "synthetic-images",
        "classes": classes,
        "shape": [3, side, side],
        "test_samples": test_samples,
    }
