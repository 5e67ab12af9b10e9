"""What a hub refuses to add up, over loopback: the others do the step again without whoever sent it."""

from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack

import pytest
import torch

from scadles.assembly.exchange import build_tail_check
from scadles.config import load_config
from scadles.errors import MembershipChangedError
from scadles.exchange.aggregation import GradientExchange
from scadles.fabric.hub import Hub, HubFabric
from scadles.testing.elastic import come_in

pytestmark = pytest.mark.timeout(120)

LIMIT_S = 60.0
DEVICES, FIELDS, VALUES = 3, GradientExchange.fields, 300_000


@pytest.fixture
def fleet():
    """Three devices in one view of a hub that knows the settings, and what it has said."""
    config = load_config({"devices": DEVICES, "steps": 1, "fabric": {"backend": "hub"}, "batch": {"max": 64}})
    said = []
    with ExitStack() as closing:
        hub = Hub("127.0.0.1", 0, DEVICES, least=DEVICES, check=build_tail_check(config).problem, say=said.append)
        closing.callback(hub.close)
        hub.start()
        fabrics = []
        for number in range(DEVICES):
            fabrics.append(HubFabric(*hub.address, name=f"cam-{number}", deadline_s=LIMIT_S))
            closing.callback(fabrics[-1].close)
        with ThreadPoolExecutor(DEVICES) as pool:
            list(pool.map(lambda fabric: come_in(fabric, 0), fabrics, timeout=LIMIT_S))
        hub._views.least = 1
        yield hub, sorted(fabrics, key=lambda fabric: fabric.rank), said


def message_of(rank, weight=8.0):
    message = torch.ones(VALUES + DEVICES * FIELDS)
    tail = message[VALUES:].view(DEVICES, FIELDS)
    tail.zero_()
    tail[rank, :2] = torch.tensor([8.0, weight])
    return message


def spoil(attack, message, rank):
    """Return what a liar sends in place of a message."""
    tail = message[VALUES:].view(DEVICES, FIELDS)
    if attack == "a weight":
        tail[rank, 1] = 1e6
    elif attack == "another's place":
        tail[(rank + 1) % DEVICES, 1] = 1.0
    elif attack == "infinity":
        message[7] = float("inf")
    elif attack == "another length":
        return message[:-1].clone()
    return message


SAID = {
    "a weight": "its report says weight 1e+06, and the settings allow 0 to 65",
    "another's place": "a report in another device's place",
    "infinity": "NaN or infinity in a sum, which no device sends",
    "another length": "",  # its end lies elsewhere, or it brings less than others
    "another step": "a note of step 7, and this is step 1",
    "another kind": "bytes to a reduce where others bring",
}


def take_step(fabric, attack):
    """Take a step, again where somebody is left out; return the weights that came, or None of who was left out."""
    message = message_of(fabric.rank)
    fabric.note(7 if attack == "another step" else 1, {})
    try:
        sent = spoil(attack, message, fabric.rank)
        (fabric.reduce if attack == "another kind" else fabric.reduce_step)(sent, "a step").wait()
    except MembershipChangedError as error:
        if error.detached:
            return None
        come_in(fabric, 0)
        message = message_of(fabric.rank)
        fabric.note(1, {})
        fabric.reduce_step(message, "a step").wait()
    return message[0].item(), message[VALUES:].view(DEVICES, FIELDS)[:, 1].tolist()


@pytest.mark.parametrize("attack", SAID)
@pytest.mark.parametrize("liar", [0, 2])
def test_the_others_do_the_step_without_it(fleet, attack, liar):
    hub, fabrics, said = fleet
    with ThreadPoolExecutor(DEVICES) as pool:
        ways = [attack if fabric.rank == liar else "" for fabric in fabrics]
        outcomes = list(pool.map(take_step, fabrics, ways, timeout=LIMIT_S))
    assert outcomes.pop(liar) is None
    weights = [0.0 if rank == liar else 8.0 for rank in range(DEVICES)]
    assert outcomes == [(2.0, weights)] * 2
    [line] = [line for line in said if "has left" in line]
    assert line.startswith(f"{fabrics[liar]._name} (device {liar}) has left: what it sent was refused: ")
    assert SAID[attack] in line
    assert hub.refused == 1


def test_honest_messages_are_added_up(fleet):
    hub, fabrics, said = fleet
    with ThreadPoolExecutor(DEVICES) as pool:
        outcomes = list(pool.map(take_step, fabrics, [""] * DEVICES, timeout=LIMIT_S))
    assert outcomes == [(3.0, [8.0] * DEVICES)] * DEVICES
    assert hub.refused == 0
    assert not any("has left" in line for line in said)
