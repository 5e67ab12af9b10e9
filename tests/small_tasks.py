"""Tasks without a data set, for tests of what is done with them."""

from scadles.config import load_config
from scadles.targets import TargetType
from scadles.tasks import make_task
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
