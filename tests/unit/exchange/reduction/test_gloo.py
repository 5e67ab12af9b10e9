"""All ways between processes; run as a script, this file is one device of a gloo group."""

import hashlib
import json
import os
import statistics
import sys

import pytest
import torch

from scadles.clock import WallClock
from scadles.exchange.compression import ExactTopK
from scadles.exchange.reduction import GatherReducer, PowerSgdReducer, SplitReducer
from scadles.fabric import TorchFabric

DEVICES, N, K, STEPS = 4, 1_000_000, 20_000, 5
REDUCERS = {
    "gather": lambda fabric: GatherReducer(fabric, ExactTopK(K), N),
    "split": lambda fabric: SplitReducer(fabric, ExactTopK(K), N),
    "powersgd": lambda fabric: PowerSgdReducer(fabric, [(5000,), (1000, 995)], K / N),
}


@pytest.fixture(scope="module")
def outcomes(in_processes):
    said = in_processes(__file__, DEVICES)
    assert [code for code, _ in said] == [0] * DEVICES
    return [json.loads(line) for _, line in said]


@pytest.mark.parametrize("name", REDUCERS)
def test_every_process_gets_the_same_bits(outcomes, name):
    assert len({outcome[name]["digest"] for outcome in outcomes}) == 1


@pytest.mark.parametrize("name", REDUCERS)
def test_nothing_is_lost_between_processes(outcomes, name):
    for outcome in outcomes:
        assert outcome[name]["worst"] < 1e-5
        assert outcome[name]["entries"] > K


@pytest.mark.parametrize("name", REDUCERS)
def test_the_kernel_counts_the_bytes_that_the_volume_says(outcomes, name):
    for outcome in outcomes:
        if not outcome["counted_by"].startswith("kernel"):
            pytest.skip("this system does not count")
        assert outcome[name]["volume"] <= outcome[name]["bytes_sent"] <= 1.05 * outcome[name]["volume"]


def one_device(fabric, make):
    reducer = make(fabric)
    generator = torch.Generator().manual_seed(fabric.rank)
    residual, updates, arrived = torch.zeros(N), torch.zeros(N).double(), torch.zeros(N).double()
    digest = hashlib.sha256()
    bytes_sent = []
    for step in range(STEPS):
        u = torch.randn(N, generator=generator) ** 3
        updates += u
        v = residual + u
        fabric.gather(torch.zeros(1), "starting together")
        before = fabric.bytes_sent()
        reduction = reducer.reduce(v, [float(fabric.rank)] * 9, step, f"gradients of step {step}")
        # what is still under way has not left yet; once everybody meets again it has arrived
        fabric.gather(torch.zeros(1), "meeting again")
        bytes_sent.append(fabric.bytes_sent() - before)
        residual = v - torch.zeros(N).index_copy_(0, *reduction.taken)
        arrived += reduction.total
        digest.update(reduction.total.numpy().tobytes() + reduction.scalars.tobytes())
    left = fabric.gather(updates - residual.double(), "what has left").sum(dim=0)
    return {
        "digest": digest.hexdigest(),
        "worst": float((left - arrived).abs().max() / left.abs().max()),
        "entries": int((arrived != 0).sum()),
        "bytes_sent": statistics.median(bytes_sent),  # a step in which TCP had to send again shall not count
        "volume": reducer.volume(9).bytes_sent,
    }


if __name__ == "__main__":
    end = TorchFabric("gloo", 60.0, torch.device("cpu"), sleep=WallClock().sleep)
    said = {name: one_device(end, make) for name, make in REDUCERS.items()}
    print(json.dumps({**said, "counted_by": end.bytes_counted_by}), flush=True)
    sys.stdout.flush()
    os._exit(0)
