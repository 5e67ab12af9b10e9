"""A hub against gloo's ring on the same messages, in turns within one run, on this machine's loopback.

Every device is a process; the hub is one more. Prints each way's median time for a sum over all devices, and the ratio
of hub to gloo, turn by turn. With ``--tls`` the same hub with TLS against plain sockets: for the dense sum, and for a
step that is compressed to the ratio of ``--ratio``, selection included.

    python benchmarks/hub.py [--tls] [--devices 4] [--parameters 11000000] [--turns 30] [--ratio 0.1]
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import ExitStack
from multiprocessing.connection import Connection
from pathlib import Path
from typing import NamedTuple

import shared
import torch
import torch.distributed as dist
from torch.multiprocessing import get_context

from scadles.assembly.exchange import build_exchange
from scadles.config import load_config
from scadles.exchange.aggregation import Report
from scadles.exchange.reduction import VectorOwner
from scadles.fabric import Fabric, TorchFabric
from scadles.fabric.hub import Hub, HubFabric, enrol
from scadles.security import Credentials, Guard
from scadles.testing.elastic import come_in

WARM_UP = 3
RUN = "benchmark"


class Served(NamedTuple):
    """Where hubs listen: one with plain sockets, one with TLS, and what enrols devices at that."""

    plain: tuple[str, int]
    secure: tuple[str, int]
    token: str
    ca_hash: str


class Way(NamedTuple):
    """One way to take a step, and the one that it is compared with."""

    name: str
    prepare: Callable[[int], None]
    step: Callable[[], None]
    against: str


def hub(devices: int, tell: Connection) -> None:
    """Serve until the benchmark ends."""
    with tempfile.TemporaryDirectory() as folder:
        guard = Guard(Path(folder), RUN)
        settings = {"least": devices, "fold": VectorOwner().fold}
        hubs = [Hub("127.0.0.1", 0, devices, **settings), Hub("127.0.0.1", 0, devices, guard=guard, **settings)]
        for serving in hubs:
            serving.start()
        tell.send(Served(*(serving.address for serving in hubs), guard.new_token(devices), guard.ca_hash))
        tell.recv()


def device(rank: int, options: argparse.Namespace, served: Served) -> None:
    """Take steps in turns; device 0 prints."""
    os.environ.update(
        RANK=str(rank), WORLD_SIZE=str(options.devices), MASTER_ADDR="127.0.0.1", MASTER_PORT=str(options.port)
    )
    torch.set_num_threads(1)
    ring = TorchFabric("gloo", 120.0, torch.device("cpu"), time.sleep)
    with ExitStack() as closing:
        closing.callback(ring.close)
        plain = HubFabric(*served.plain, name=f"device-{rank}")
        closing.callback(plain.close)
        come_in(plain, 0)
        if options.tls:
            folder = closing.enter_context(tempfile.TemporaryDirectory())
            credentials = Credentials(Path(folder) / "identity")
            enrol(served.secure, f"device-{rank}", served.token, served.ca_hash, credentials)
            secure = HubFabric(*served.secure, name=f"device-{rank}", credentials=credentials)
            closing.callback(secure.close)
            come_in(secure, 0)
            ways = [
                dense("dense, plain sockets", "", plain, rank, options),
                dense("dense, TLS", "dense, plain sockets", secure, rank, options),
                compressed("compressed, plain sockets", "", plain, rank, options),
                compressed("compressed, TLS", "compressed, plain sockets", secure, rank, options),
            ]
        else:
            ways = [
                dense("gloo's ring", "", ring, rank, options),
                dense("hub, plain sockets", "gloo's ring", plain, rank, options),
            ]
        times = in_turns(ways, options.turns)
        if rank == 0:
            report(times, ways, options)


def dense(name: str, against: str, fabric: Fabric, rank: int, options: argparse.Namespace) -> Way:
    """Return the sum of all gradients, which is checked after each step."""
    bucket = torch.randn(options.parameters)
    expected = [0.0]

    def prepare(turn: int) -> None:
        if expected[0] and not bool((bucket == expected[0]).all()):
            raise AssertionError(f"{name}: a sum is {bucket[0]}, not {expected[0]}")
        bucket.fill_(float(turn + rank))
        expected[0] = sum(float(turn + other) for other in range(options.devices))

    return Way(name, prepare, lambda: fabric.reduce(bucket, "benchmark").wait(), against)


def compressed(name: str, against: str, fabric: Fabric, rank: int, options: argparse.Namespace) -> Way:
    """Return the exchange of a compressed step, selection and residual included."""
    section = {"ratio": options.ratio, "gate": "always"}
    tree = {"devices": options.devices, "steps": 1, "fabric": {"backend": "hub"}, "compression": section}
    parameter = torch.nn.Parameter(torch.zeros(options.parameters))
    exchange = build_exchange(load_config(tree), [parameter], fabric)
    gradient = torch.randn(options.parameters, generator=torch.Generator().manual_seed(rank)) ** 3

    def prepare(_: int) -> None:
        exchange.begin(4.0, "benchmark")
        exchange.parameters[0].grad = gradient.clone()

    return Way(name, prepare, lambda: exchange.finish(Report(batch=4, weight=4)), against)


def in_turns(ways: list[Way], turns: int) -> dict[str, list[float]]:
    """Return the seconds of each step, all devices together, by the name of the way."""
    times: dict[str, list[float]] = {way.name: [] for way in ways}
    for turn in range(turns + WARM_UP):
        for way in ways:
            way.prepare(turn)
            dist.barrier()
            start = time.perf_counter()
            way.step()
            dist.barrier()
            if turn >= WARM_UP:
                times[way.name].append(time.perf_counter() - start)
    return times


def report(times: dict[str, list[float]], ways: list[Way], options: argparse.Namespace) -> None:
    """Print medians, and the ratios turn by turn."""
    megabytes = options.parameters * 4 / 1e6
    print(f"{options.devices} devices, {megabytes:.3g} MB each, {options.turns} turns, {os.cpu_count()} cores")
    for way in ways:
        line = f"{way.name:26}{statistics.median(times[way.name]) * 1e3:10.2f} ms"
        if way.against:
            pairs = zip(times[way.name], times[way.against], strict=True)
            ratio = statistics.median(mine / other for mine, other in pairs)
            line += f"   {ratio:.2f} of {way.against}, turn by turn"
        print(line)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tls", action="store_true", help="TLS against plain sockets, in place of gloo")
    parser.add_argument("--devices", type=int, default=4)
    parser.add_argument("--parameters", type=int, default=11_000_000)
    parser.add_argument("--turns", type=int, default=30)
    parser.add_argument("--ratio", type=float, default=0.1, help="of a compressed step")
    parser.add_argument("--port", type=int, default=29573)
    options = parser.parse_args()
    ours, theirs = get_context("spawn").Pipe()
    serving = get_context("spawn").Process(target=hub, args=(options.devices, theirs))
    serving.start()
    try:
        return shared.in_processes(device, options.devices, options, ours.recv())
    finally:
        ours.send("done")
        serving.join()


if __name__ == "__main__":
    sys.exit(main())
