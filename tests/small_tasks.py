"""Tasks without a data set, for tests of what is done with them."""

import torch
from torch import nn

from scadles import Task
from scadles.config import load_config
from scadles.targets import TargetType
from scadles.tasks import SampleMean, make_task
from scadles.tasks.kinds import Samples


def task_of(kind="classification", shape=(4,), target=None, vocabulary=None, scale=None, **settings):
    """The task that settings describe; ``goal=`` is what is to be reached."""
    goal = settings.pop("goal", {})
    config = load_config({"steps": 1, "task": {"kind": kind, **settings}, **goal})
    horizon = config.task.horizon
    target = TargetType.none() if target is None else target
    return make_task(config, Samples("samples", shape, target, vocabulary, scale, horizon))


def classification(classes, **settings):
    return task_of(target=TargetType.label(classes), **settings)


def nearness():
    """A task of the user's: how far two points of a sample are from each other along the first axis."""
    off = SampleMean("off", lambda said, true: (said - true).abs(), higher_is_better=False)

    def loss(outputs, targets):
        return nn.functional.mse_loss(outputs.flatten(), targets[0].to(outputs.dtype))

    return Task(
        loss=loss,
        metrics=[off],
        pair=lambda x, y: (x[::-1], y),
        fit=lambda outputs, y: outputs.flatten(),
        in_own_units=lambda said, true: (said, true[0]),
    )


def brighter(x):
    """Samples of which one part is another."""
    return x | {"telemetry": x["telemetry"] * 1.5 + 1}


def jittered(x, seed):
    """Samples of another size each, and with noise of a generator that is seeded."""
    generator = torch.Generator().manual_seed(seed)
    return x * (0.5 + torch.rand(len(x), 1, 1)) + 0.1 * torch.randn(x.shape, generator=generator)
