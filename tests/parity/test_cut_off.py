"""A device is cut off at the worst moment and comes back at once: all go on with the same model, buffers included."""

from concurrent.futures import ThreadPoolExecutor
from functools import partial
from threading import Barrier

import pytest
import torch
from torch import nn

import scadles
from hub_devices import LIMIT_S, until
from scadles.config import load_config
from scadles.errors import MembershipChangedError
from scadles.fabric.hub import Hub, HubFabric, members
from scadles.observe import Finished, Step, events_path, read_events

DEVICES = 3
STEPS = 12
AFTER = 8  # a step after which all test the model and write a checkpoint
GRADIENTS = f"gradients of step {AFTER + 1}"
PHASES = [
    GRADIENTS,
    f"BatchNorm statistics after step {AFTER}",
    f"test after step {AFTER}",
    f"comparing models after step {AFTER}",
]
SETTINGS = {
    "devices": DEVICES,
    "seed": 3,
    "steps": STEPS,
    "picture": False,
    "target_accuracy": None,
    "stop_at_target": False,
    "batch": {"min": 4},
    "data": {"normalize": "running"},
    "checkpoint": {"every_steps": 4},
    "evaluation": {"every_s": 0.5},
}


class Counting(nn.Module):
    """Has running statistics, and another buffer that each pass in training changes."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.body = nn.Sequential(nn.Flatten(), nn.Linear(64, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Linear(16, 10))
        self.register_buffer("mean", torch.zeros(1))

    def forward(self, x):
        if self.training:
            self.mean = 0.9 * self.mean + 0.1 * x.detach().mean() + 0.1
        return self.body(x)


@pytest.fixture(autouse=True)
def _silence_is_no_loss(monkeypatch):
    """The test alone decides who is lost, however busy the machine is."""
    monkeypatch.setattr(members, "LEAST_S", LIMIT_S)
    monkeypatch.setattr(members, "_LEAST_OF_FEW_S", LIMIT_S)


class CutFabric(HubFabric):
    """Loses its hub in a phase: before it has brought its part, or when all have it but for the answer to itself."""

    cut_in, answered, was_cut = "", False, False

    def reduce(self, bucket, phase):
        return self._started(lambda: HubFabric.reduce(self, bucket, phase), phase)

    def reduce_step(self, bucket, phase):
        return self._started(lambda: HubFabric.reduce_step(self, bucket, phase), phase)

    def gather(self, values, phase):
        return self._cut_around(lambda: HubFabric.gather(self, values, phase), phase)

    def _started(self, start, phase):
        if phase != self.cut_in or self.was_cut:
            return start()
        return Waited(lambda: self._cut_around(lambda: start().wait(), phase))

    def _cut_around(self, take_part, phase):
        if phase != self.cut_in or self.was_cut:
            return take_part()
        self.was_cut = True
        if self.answered:
            take_part()  # the others have the answer, or it is on its way
        self._session.close("a test")
        if self.answered:
            raise MembershipChangedError("cut off without the answer", detached=True)
        return take_part()


class Waited:
    def __init__(self, wait):
        self.wait = wait


def run(folder, cut, *, least=DEVICES, prepare=None, **more):
    """Run devices of which some are cut off; return each one's events and model."""
    config = load_config({**SETTINGS, "stream": {"rates": [40, 12, 21.5]}, **more}, ["fabric.backend=hub"])
    hub = Hub("127.0.0.1", 0, DEVICES, least=least)
    hub.start()
    models = [Counting() for _ in range(DEVICES)]

    def work(fabric):
        try:
            about = {"fabric": fabric, "clock": scadles.VirtualClock(), "out": folder / f"{fabric.rank}", "quiet": True}
            with scadles.join(config, model=models[fabric.rank], **about) as device:
                for batch in device.batches():
                    outputs = device.model(batch.x)
                    device.step(nn.functional.cross_entropy(outputs, batch.y), outputs)
        except BaseException:
            fabric.close()
            raise

    try:
        fabrics = [CutFabric(*hub.address, name=f"device-{i}", deadline_s=LIMIT_S) for i in range(DEVICES)]
        for device, phase, answered in cut:
            fabrics[device].cut_in, fabrics[device].answered = phase, answered
        (prepare or all_have_made_their_gradients)(hub, fabrics)
        with ThreadPoolExecutor(len(fabrics)) as pool:
            for outcome in [pool.submit(work, fabric) for fabric in fabrics]:
                outcome.result(2 * LIMIT_S)
    finally:
        hub.close()
    assert all(fabrics[device].was_cut for device, *_ in cut)
    events = {i: list(read_events(events_path(folder / f"{i}", i))) for i in range(DEVICES)}
    return events, models


def assert_all_have_one_model(events, models):
    ends = [[event for event in said if isinstance(event, Finished)][-1] for said in events.values()]
    assert [(end.reason, end.step) for end in ends] == [("steps", STEPS)] * len(ends)
    assert len({end.model_sha256 for end in ends}) == 1
    for model in models[1:]:
        for name, tensor in models[0].state_dict().items():
            assert torch.equal(tensor, model.state_dict()[name]), name


def all_have_made_their_gradients(hub, fabrics):
    """Let nobody be cut off while gradients are added up before all have made a pass."""
    together, note = Barrier(DEVICES), HubFabric.note

    def wait_for_all(fabric, step, content):
        if step == AFTER + 1 and not fabric.has_waited and any(one.cut_in == GRADIENTS for one in fabrics):
            fabric.has_waited = True
            together.wait(LIMIT_S)
        note(fabric, step, content)

    for fabric in fabrics:
        fabric.has_waited = False
        fabric.note = partial(wait_for_all, fabric)


@pytest.mark.parametrize("phase", PHASES)
@pytest.mark.parametrize("answered", [False, True])
@pytest.mark.parametrize("device", [0, 2])
def test_where_all_wait_for_it(tmp_path, phase, answered, device):
    """Device 0 is the one whose state all go on from."""
    assert_all_have_one_model(*run(tmp_path, [(device, phase, answered)]))


@pytest.mark.parametrize("phase", PHASES)
@pytest.mark.parametrize("device", [0, 2])
def test_where_samples_are_shared(tmp_path, phase, device):
    """Nobody can send the step's gradients once more: all begin a step without a batch."""
    sharing = {"injection": {"alpha": 0.5, "beta": 0.25}}
    assert_all_have_one_model(*run(tmp_path, [(device, phase, False)], **sharing))


@pytest.mark.parametrize("phase", PHASES)
@pytest.mark.parametrize("answered", [False, True])
@pytest.mark.parametrize("device", [0, 2])
def test_where_the_others_go_on_without_it(tmp_path, phase, answered, device):
    """It follows them, and counts again before the run ends."""

    def prepare(hub, fabrics):
        all_have_made_their_gradients(hub, fabrics)
        for fabric in fabrics:
            fabric.note = come_back_before(hub, fabrics[device], fabric.note)

    events, models = run(tmp_path, [(device, phase, answered)], least=2, prepare=prepare)
    assert_all_have_one_model(events, models)


def come_back_before(hub, cut, note):
    """Let no device take the next steps before the one that was cut off waits, or is near."""

    def wait_for_it(step, content):
        if step in (AFTER + 2, AFTER + 3) and not cut.follows:
            until(lambda: is_back(hub, f"device-{cut.rank}", step), "who was cut off")
        note(step, content)

    return wait_for_it


def is_back(hub, name, step):
    state = hub.state()
    near = [member.name for member in list(hub._views.members.values()) if member.is_near]
    return name in (*state.members, *near, *(state.waiting if step == AFTER + 2 else ()))


def test_one_that_only_follows_when_all_others_wait(tmp_path):
    """A new device has made no pass yet when a step comes to nothing for it."""

    def prepare(hub, fabrics):
        *others, new = fabrics
        enter, members_of_hub = new.enter, hub._views.members

        def enter_late(step):
            until(lambda: hub.state().step >= AFTER - 1, "steps of the others")
            return enter(step)

        def wait_for_the_new_one(fabric, step, content):
            if step == AFTER:
                until(lambda: "device-2" in hub.state().waiting, "the new one")
            if step == AFTER + 1:
                until(lambda: others[0].was_cut or members_of_hub[new.rank].is_near, "the new one to be near")
            HubFabric.note(fabric, step, content)

        new.enter = enter_late
        for fabric in others:
            fabric.note = partial(wait_for_the_new_one, fabric)

    events, models = run(tmp_path, [(0, GRADIENTS, False)], least=2, prepare=prepare)
    assert_all_have_one_model(events, models)
    assert min(event.step for event in events[2] if isinstance(event, Step)) > AFTER
