"""The paper's numbers, as data: what its tables print and what can be read off its figures.

Contradictions among them are kept as they are; experiments name them in notes.
"""

from __future__ import annotations

import math
from typing import NamedTuple

SETS = ("S1", "S2", "S1'", "S2'")
DEVICES = 16
BATCH = 64
SAMPLE_BYTES = 3 * 1024
GB = 2**30
NEVER = math.inf


class Network(NamedTuple):
    """One of the two networks the paper trains, and what a step of it costs on a K80 behind 5 Gbps.

    Attributes:
        title: as printed.
        cost_profile: name in ``cost.profile``.
        sync_s: all-reduce of its gradients among 16 devices.
        compute_s: forward and backward of 64 images; other batches in proportion.
        classes: of the data set it is trained on.
        parameters: its number of floats.
    """

    title: str
    cost_profile: str
    sync_s: float
    compute_s: float
    classes: int
    parameters: int

    def step_s(self, batch: float = BATCH, devices: int = DEVICES) -> float:
        """Return the seconds of a step once a batch is there.

        Gradients travel around a ring of N, which costs each link 2 (N - 1) / N of their size; 16 are the paper's.

        >>> NETWORKS["resnet152"].step_s(), NETWORKS["vgg19"].step_s()
        (1.2, 1.6)
        >>> NETWORKS["resnet152"].step_s(devices=8)
        1.13
        """
        ring = (1 - 1 / devices) / (1 - 1 / DEVICES)
        return round(self.sync_s * ring + self.compute_s * batch / BATCH, 6)


NETWORKS = {
    "resnet152": Network("ResNet152", "k80-resnet152", 1.05, 0.15, 10, 60_200_000),
    "vgg19": Network("VGG19", "k80-vgg19", 1.45, 0.15, 100, 143_700_000),
}

#: Extra seconds to gather a batch, fastest and slowest device, by (batch, set).
GATHERING: dict[tuple[int, str], tuple[float, float]] = {
    (64, "S1"): (-0.22, 4.33),
    (64, "S2"): (-0.85, -0.53),
    (64, "S1'"): (-0.30, 1.91),
    (64, "S2'"): (-0.79, -0.71),
    (512, "S1"): (5.24, 41.7),
    (512, "S2"): (0.25, 2.76),
    (512, "S1'"): (4.56, 22.3),
    (512, "S2'"): (0.71, 1.35),
}

#: GB accumulated by DDL after so many steps, by (network, rate in images per second, steps).
ACCUMULATED: dict[tuple[str, int, int], float] = {
    ("resnet152", 100, 1_000): 0.35,
    ("resnet152", 100, 10_000): 3.5,
    ("resnet152", 100, 100_000): 34.33,
    ("resnet152", 600, 1_000): 2.06,
    ("resnet152", 600, 10_000): 20.6,
    ("resnet152", 600, 100_000): 200.6,
    ("vgg19", 100, 1_000): 0.47,
    ("vgg19", 100, 10_000): 4.69,
    ("vgg19", 100, 100_000): 46.8,
    ("vgg19", 600, 1_000): 2.75,
    ("vgg19", 600, 10_000): 27.5,
    ("vgg19", 600, 100_000): 274.83,
}


class Held(NamedTuple):
    """Samples in the buffer at convergence under both policies, and the reduction as printed."""

    persistence: float
    truncation: float
    reduction: float


HELD: dict[tuple[str, str], Held] = {
    ("resnet152", "S1"): Held(2.9e5, 129, 2238),
    ("resnet152", "S2"): Held(4.36e6, 633, 6889),
    ("resnet152", "S1'"): Held(6.2e5, 143, 4340),
    ("resnet152", "S2'"): Held(3.6e6, 384, 9429),
    ("vgg19", "S1"): Held(1e5, 118, 848),
    ("vgg19", "S2"): Held(4e6, 523, 7830),
    ("vgg19", "S1'"): Held(3.7e5, 129, 2861),
    ("vgg19", "S2'"): Held(2.5e6, 360, 6956),
}


class Learnt(NamedTuple):
    """One curve of the convergence figure: hours to its target (95 % or 84 %), final top-5 accuracy in percent."""

    hours: float
    final: float


TARGET_TOP5 = {"resnet152": 95, "vgg19": 84}
CONVERGENCE: dict[tuple[str, str], tuple[Learnt, Learnt]] = {
    ("resnet152", "S1"): (Learnt(7.0, 89.3), Learnt(2.58, 96.4)),
    ("resnet152", "S2"): (Learnt(1.53, 97.5), Learnt(NEVER, 94.4)),
    ("resnet152", "S1'"): (Learnt(3.23, 95.6), Learnt(1.65, 95.9)),
    ("resnet152", "S2'"): (Learnt(1.44, 97.7), Learnt(NEVER, 94.2)),
    ("vgg19", "S1"): (Learnt(5.51, 84.0), Learnt(2.63, 86.6)),
    ("vgg19", "S2"): (Learnt(1.39, 87.0), Learnt(NEVER, 78.6)),
    ("vgg19", "S1'"): (Learnt(3.17, 84.1), Learnt(1.48, 87.6)),
    ("vgg19", "S2'"): (Learnt(1.27, 86.8), Learnt(0.58, 85.5)),
}

#: Speed-up of weighted aggregation alone as the text prints it; the figure gives other ratios.
PRINTED_SPEED_UP = {
    ("resnet152", "S1"): 3.33,
    ("resnet152", "S1'"): 3.6,
    ("vgg19", "S1"): 1.92,
    ("vgg19", "S1'"): 4.0,
}


class Overall(NamedTuple):
    """ScaDLES against DDL: accuracy change in points, GB of buffer saved, speed-up to convergence."""

    points: float
    saved_gb: float
    speed_up: float


OVERALL: dict[tuple[str, str], Overall] = {
    ("resnet152", "S1"): Overall(-0.06, 0.6, 1.89),
    ("resnet152", "S2"): Overall(-0.32, 5.9, 1.15),
    ("resnet152", "S1'"): Overall(-0.13, 0.8, 3.29),
    ("resnet152", "S2'"): Overall(-0.21, 4.03, 1.42),
    ("vgg19", "S1"): Overall(-1.93, 0.26, 1.56),
    ("vgg19", "S2"): Overall(-4.18, 3.91, 2.83),
    ("vgg19", "S1'"): Overall(-2.03, 0.35, 2.06),
    ("vgg19", "S2'"): Overall(-1.59, 2.58, 2.13),
}


#: Records per second observed on each of so many concurrent Kafka topics, by (topics, wanted rate).
OBSERVED: dict[tuple[int, int], float] = {
    (1, 100): 97,
    (4, 100): 97,
    (8, 100): 97,
    (16, 100): 96,
    (32, 100): 81,
    (1, 600): 600,
    (4, 600): 570,
    (8, 600): 560,
    (16, 600): 550,
    (32, 600): 540,
}


class Compressed(NamedTuple):
    """Adaptive compression: share of compressed steps, top-5 accuracy in percent, floats sent by a device."""

    cnc: float
    accuracy: float
    floats: float


#: By (network, CR, delta).
COMPRESSION: dict[tuple[str, float, float], Compressed] = {
    ("resnet152", 0.1, 0.1): Compressed(0.29, 97.55, 4.43e11),
    ("resnet152", 0.1, 0.2): Compressed(0.99, 96.81, 0.56e11),
    ("resnet152", 0.1, 0.3): Compressed(1.0, 98.41, 0.4e11),
    ("resnet152", 0.1, 0.4): Compressed(1.0, 98.57, 0.4e11),
    ("resnet152", 0.01, 0.1): Compressed(0.0, 97.39, 6.02e11),
    ("resnet152", 0.01, 0.2): Compressed(0.17, 97.47, 4.99e11),
    ("resnet152", 0.01, 0.3): Compressed(0.43, 96.72, 2.56e11),
    ("resnet152", 0.01, 0.4): Compressed(0.99, 94.97, 6.32e8),
    ("vgg19", 0.1, 0.1): Compressed(0.0, 85.45, 1.3e12),
    ("vgg19", 0.1, 0.2): Compressed(0.08, 84.74, 1.19e12),
    ("vgg19", 0.1, 0.3): Compressed(1.0, 81.91, 1.3e10),
    ("vgg19", 0.1, 0.4): Compressed(1.0, 81.78, 1.3e10),
    ("vgg19", 0.01, 0.1): Compressed(0.0, 84.68, 1.3e12),
    ("vgg19", 0.01, 0.2): Compressed(0.0, 83.98, 1.3e12),
    ("vgg19", 0.01, 0.3): Compressed(0.0, 83.94, 1.3e12),
    ("vgg19", 0.01, 0.4): Compressed(0.004, 84.39, 1.29e12),
}


def dense(network: str) -> Compressed:
    """Return the mean of the paper's runs of a network in which no step was compressed.

    >>> round(dense("vgg19").accuracy, 2), dense("vgg19").floats
    (84.51, 1300000000000.0)
    """
    runs = [run for (name, _, _), run in COMPRESSION.items() if name == network and run.cnc == 0]
    return Compressed(0.0, sum(run.accuracy for run in runs) / len(runs), runs[0].floats)


class NonIid(NamedTuple):
    """Top-5 accuracy in percent where each device has few labels, in the paper's BatchNorm with own statistics.

    Attributes:
        saturates: without injection, as the text says.
        injected: best with (.5, .5), read off the figure of injection.
    """

    saturates: float
    injected: float


#: ResNet152: 10 devices of one label each; VGG19: 25 devices of four labels each, of 100.
NON_IID = {"resnet152": NonIid(56.0, 94.5), "vgg19": NonIid(35.0, 79.6)}

# Best top-5 accuracy in percent, read off the figure of injection: (.5, .5), (.25, .25), (.1, .1), (.05, .05) and none.
INJECTED_BEST = {"resnet152": (94.5, 91.4, 75.7, 70.2, 67.2), "vgg19": (79.6, 79.7, 76.4, 75.2, 32.7)}

# Least and most KB shared in a step by 10 devices, for the same four pairs; each sample counted once, at its sender.
INJECTED_KB = {
    "S1": ((201, 504), (45, 165), (6, 27), (3, 15)),
    "S2": ((1185, 2843), (306, 921), (42, 123), (21, 63)),
    "S1'": ((297, 675), (63, 207), (9, 30), (6, 15)),
    "S2'": ((1707, 2121), (483, 642), (63, 90), (33, 45)),
}
