"""Few labels a device against all labels everywhere: the runs (paper, sections II and V).

The paper trains with BatchNorm and lets every device keep its own running statistics. Beside that stand our default,
which averages them, the paper's data injection on each of the two, and GroupNorm, which moves no data.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from scadles.config import RunConfig, load_config
from scadles.config.tree import merged
from scadles.paper.experiment import Options
from scadles.paper.learning import Learnt, data_of
from scadles.paper.published import NETWORKS

BATCH = 16
SPLITS = ("iid", "labels")
_INJECTION = {"injection": {"alpha": 0.5, "beta": 0.5}}


@dataclass(frozen=True)
class Setting:
    """How the labels lie in the paper's runs of one network.

    Attributes:
        devices: of each run.
        labels: of one device.
        few: that number in words.
    """

    devices: int
    labels: int
    few: str

    def title(self, split: str) -> str:
        """Return how labels lie, in words."""
        return f"{self.few} a device" if split == "labels" else "all everywhere"


SETTINGS: Mapping[str, Setting] = {"resnet152": Setting(10, 1, "one"), "vgg19": Setting(25, 4, "four")}


@dataclass(frozen=True)
class Way:
    """What is done about labels that lie unequally.

    Attributes:
        title: in tables and pictures.
        settings: of its runs.
        base: the way whose accuracy with all labels everywhere it is measured against; itself by default.
        role: its colour.
        style: of its line.
    """

    title: str
    settings: Mapping[str, Any]
    role: str
    base: str | None = None
    style: str = "line"


_LOCAL = {"aggregation": {"batchnorm": "local"}}
WAYS: Mapping[str, Way] = {
    "own": Way("own statistics", _LOCAL, "ddl"),
    "averaged": Way("averaged", {}, "rule"),
    "own-injected": Way("own (.5, .5)", _LOCAL | _INJECTION, "ddl", "own", "dashed"),
    "averaged-injected": Way("averaged (.5, .5)", _INJECTION, "rule", "averaged", "dashed"),
    "group": Way("GroupNorm", {"normalization": "group"}, "ours"),
}
#: Network, way, split and seed.
Key = tuple[str, str, str, int]
Results = Mapping[Key, Learnt]


@dataclass(frozen=True)
class Size:
    """How large the runs are.

    Attributes:
        side: height and width of the pictures.
        test_samples: of a data set.
        steps: of a run.
        tests: spread over them.
        seeds: how many runs of each, by network.
    """

    side: int
    test_samples: int
    steps: int
    tests: int
    seeds: Mapping[str, int]


FULL = Size(32, 1000, 600, 60, {"resnet152": 3, "vgg19": 3})
QUICK = Size(16, 500, 300, 30, {"resnet152": 3, "vgg19": 1})


def size_of(options: Options) -> Size:
    """Return how large the runs are that the options ask for."""
    return QUICK if options.quick else FULL


def keys_of(options: Options, size: Size) -> list[Key]:
    """Return all runs; a data set of one's own is dealt to one setting's devices only."""
    networks = list(SETTINGS)[:1] if options.data else list(SETTINGS)
    return [
        (network, name, split, seed)
        for network in networks
        for name in WAYS
        for split in SPLITS
        for seed in range(size.seeds[network])
        if needed(name, split)
    ]


def needed(name: str, split: str) -> bool:
    """Whether a way has such a run: where all labels are everywhere, nothing has to be injected."""
    return split != "iid" or WAYS[name].base is None


def run_config(options: Options, size: Size, key: Key) -> RunConfig:
    """Return the settings of one run."""
    network, name, split, seed = key
    setting = SETTINGS[network]
    shared = {
        "seed": seed,
        "devices": setting.devices,
        "model": "cnn",
        "picture": False,
        "steps": size.steps,
        # labels come equally often, as in the test set, and every way gets the same rate whatever it trains on
        "stream": {"rates": BATCH},
        "lr": {"scaling": "none"},
        "data": {"partition": split, "labels_per_device": setting.labels}
        | data_of(options, NETWORKS[network].classes, size.side, size.test_samples),
        "evaluation": {"every_s": size.steps / size.tests},
    }
    return load_config(merged(shared, WAYS[name].settings))


def samples_of(config: RunConfig) -> float:
    """Return roughly how many samples a run trains on."""
    shared = config.injection.alpha * config.injection.beta * config.devices
    return config.devices * BATCH * (config.steps or 0) * (1 + shared)
