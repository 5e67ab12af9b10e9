"""Devices small enough to be checked against plain torch in float64."""

import torch
from torch import nn

from scadles.clock import VirtualClock
from scadles.device.buffer import Buffer, Persistence
from scadles.device.connected import ConnectedDevice
from scadles.device.intake import Intake
from scadles.device.learner import Learner
from scadles.exchange.aggregation import GradientExchange, LearningRate
from scadles.streams import Arrivals, Inspector, RateMeter, RateProfile, ReplaySource

CLASSES = 3


def samples_of(device):
    """Samples by offset, ``[4]`` each; every device has others."""

    def samples(offsets):
        angle = (torch.from_numpy(offsets).double()[:, None] + 100 * device) * torch.tensor([0.7, 1.3, 2.1, 0.1])
        return angle.sin(), torch.from_numpy(offsets + device) % CLASSES

    return samples


def make_model(*, norm=False):
    """Two layers, the same weights each time."""
    model = nn.Sequential(nn.Linear(4, 6), nn.BatchNorm1d(6) if norm else nn.Tanh(), nn.Linear(6, CLASSES)).double()
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for p in model.parameters():
            p.copy_(torch.randn(p.shape, generator=generator))
    return model


def make_device(
    fabric,
    *,
    rate_hz,
    rule,
    samples=None,
    policy=None,
    norm=False,
    lr=0.1,
    momentum=0.0,
    mean="weighted",
    bucket_bytes=None,
    shares=None,
    records=None,
    waits=False,
):
    """A device in virtual time, its stream open.

    Its samples are device 0's unless others are given; ``shares`` is its part in the sharing of samples. The stream has
    ``records``, or no end; it ``waits`` where all of these have arrived and been taken in before the first step.
    """
    clock = VirtualClock()
    source = ReplaySource(samples or samples_of(0), Arrivals(RateProfile.constant(rate_hz)), clock, records=records)
    inspector = Inspector((4,), torch.float64, CLASSES)
    intake = Intake(source, inspector, Buffer(1000), policy or Persistence(), RateMeter(), clock)
    model = make_model(norm=norm)
    learner = Learner(
        model,
        torch.optim.SGD(model.parameters(), lr=lr, momentum=momentum),
        LearningRate("linear", base_batch=8 * fabric.size),
        GradientExchange(model.parameters(), fabric.reduce, fabric.rank, fabric.size, bucket_bytes),
        prepare=lambda x: x,
        mean=mean,
    )
    device = ConnectedDevice(intake, rule, learner, fabric, clock, shares)
    intake.open()
    if waits:
        clock.sleep(records / rate_hz)
        intake.pull()
    return device
