"""Compression through a hub: bytes of a device in each direction, and the time of a step, against the dense sum.

All devices are threads of one process, the hub's included, so times compare ways and say nothing of a network.

    python benchmarks/hub_compression.py [--devices 4 64] [--ratios 0.1 0.01] [--parameters 1000000] [--steps 5]
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from concurrent.futures import ThreadPoolExecutor

import torch

from scadles.assembly.exchange import build_exchange
from scadles.config import load_config
from scadles.exchange.aggregation import Report
from scadles.exchange.reduction import VectorOwner
from scadles.fabric.hub import Hub, HubFabric
from scadles.testing.elastic import come_in

WAYS = ("dense", "gather", "hub")


def settings(way: str, ratio: float) -> dict[str, object]:
    """Return the section on compression for one way."""
    if way == "dense":
        return {}
    return {"ratio": ratio, "gate": "always", "reduction": "gather" if way == "gather" else "auto"}


def measure(way: str, devices: int, ratio: float, options: argparse.Namespace) -> tuple[float, float, float]:
    """Return kilobytes up and down of device 0 in one step, and the median seconds of a step."""
    torch.set_num_threads(1)
    hub = Hub("127.0.0.1", 0, devices, least=devices, fold=VectorOwner().fold)
    hub.start()
    tree = {"devices": devices, "steps": 1, "fabric": {"backend": "hub"}, "compression": settings(way, ratio)}
    config = load_config(tree)
    fabrics = [HubFabric(*hub.address, name=f"device-{i}", deadline_s=120.0) for i in range(devices)]

    def work(fabric: HubFabric) -> tuple[float, float, float]:
        come_in(fabric, 0)
        exchange = build_exchange(config, [torch.nn.Parameter(torch.zeros(options.parameters))], fabric)
        generator = torch.Generator().manual_seed(fabric.rank)
        moved, taken = (0, 0), []
        for _ in range(options.steps + 1):
            exchange.begin(4.0, "benchmark")
            exchange.parameters[0].grad = torch.randn(options.parameters, generator=generator) ** 3
            fabric.gather(torch.zeros(1), "all begin together")
            before = _moved(fabric)
            start = time.perf_counter()
            exchange.finish(Report(batch=4, weight=4))
            taken.append(time.perf_counter() - start)
            moved = tuple(after - was for after, was in zip(_moved(fabric), before, strict=True))
        return moved[0] / 1e3, moved[1] / 1e3, statistics.median(taken[1:])

    try:
        with ThreadPoolExecutor(devices) as pool:
            return next(iter(list(pool.map(work, fabrics))))
    finally:
        for fabric in fabrics:
            fabric.close()
        hub.close()


def _moved(fabric: HubFabric) -> tuple[int, int]:
    """Return what the two data connections of a device have counted."""
    session = fabric._session
    return session.up.sent, session.down.received


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--devices", type=int, nargs="+", default=[4, 64])
    parser.add_argument("--ratios", type=float, nargs="+", default=[0.1, 0.01])
    parser.add_argument("--parameters", type=int, default=1_000_000)
    parser.add_argument("--steps", type=int, default=5)
    options = parser.parse_args()
    dense_kb = options.parameters * 4 / 1e3
    print("devices  ratio  way          kB up  of dense   kB down  of dense    ms a step")
    for devices in options.devices:
        for ratio in options.ratios:
            for way in WAYS:
                up, down, seconds = measure(way, devices, ratio, options)
                shares = f"{up:9.1f}  1/{dense_kb / up:<6.0f} {down:9.1f}  1/{dense_kb / down:<7.2f}"
                print(f"{devices:7}  {ratio:5g}  {way:8} {shares} {seconds * 1e3:9.1f}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
