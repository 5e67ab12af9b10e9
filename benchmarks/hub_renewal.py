"""Certificates that renew themselves every few seconds while a run goes on: is a step lost to that, or slower?

A hub with TLS, four devices in processes of their own, each with its loop. Certificates live for twice ``--every``, so
that each device has a new one signed every ``--every`` seconds. Now and then the connections of one device are cut, so
that it comes back with its newest certificate; the step that this voids, and that alone, is done again.

Prints what was renewed and shown, whether anybody was lost or refused beside those cuts, whether a step is missing or
was taken twice, and how long steps took next to a renewal. Exit code 1 where a renewal has cost a step.

    python benchmarks/hub_renewal.py [--minutes 2] [--every 20] [--cut 60] [--devices 4]
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
import time
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import shared  # noqa: F401  before torch
import torch
from torch.multiprocessing import get_context
from torch.nn.functional import cross_entropy

import scadles
from scadles.assembly.hub import build_hub, build_journal
from scadles.config import load_config
from scadles.fabric.hub import Hub, enrol
from scadles.security import Credentials, Guard, Identity

RATE_HZ, BATCH = 160, 8
NEAR_S = 1.0
LOOK_S = 0.05


class CountingGuard(Guard):
    """A guard that remembers which certificates it has seen and signed, and when."""

    def __init__(self, *arguments: Any, **more: Any) -> None:
        super().__init__(*arguments, **more)
        self.shown: list[tuple[str, str]] = []
        self.renewed: list[tuple[float, str]] = []

    def identify(self, certificate: bytes | None) -> Identity:
        identity = super().identify(certificate)
        self.shown.append((identity.name, identity.serial))
        return identity

    def answer(self, hello: dict[str, Any], certificate: bytes | None) -> dict[str, Any] | None:
        answer = super().answer(hello, certificate)
        if hello.get("role") == "renew":
            self.renewed.append((time.monotonic(), str(hello["name"])))
        return answer


@dataclass
class Cut:
    """A device whose connections were cut, from when until when it was missing."""

    name: str
    from_s: float
    until_s: float = float("inf")


@dataclass
class Said:
    """What a hub says of those who come and go."""

    cuts: list[Cut] = field(default_factory=list)
    lost: list[str] = field(default_factory=list)

    def __call__(self, line: str) -> None:
        name = line.partition(" ")[0]
        missing = [cut for cut in self.cuts if cut.until_s == float("inf")]
        if "takes part" in line:
            for cut in missing:
                cut.until_s = time.monotonic() if cut.name == name else cut.until_s
        elif name not in [cut.name for cut in missing] and (
            "refused" in line or ("has left" in line and "goodbye" not in line)
        ):
            self.lost.append(line)


def device(name: str, folder: Path, address: tuple[str, int], token: str, ca_hash: str) -> None:
    """Take steps until the run ends, and write down when each was done."""
    torch.set_num_threads(1)
    identity = folder / f"{name}-identity"
    enrol(address, name, token, ca_hash, Credentials(identity))
    done: list[tuple[int, float]] = []
    place = {"hub": f"{address[0]}:{address[1]}", "name": name, "identity": identity}
    with scadles.join(**place, out=folder / name, quiet=True) as taking_part:
        taking_part.on_step(lambda step: done.append((step.step, time.monotonic())))
        for batch in taking_part.batches():
            outputs = taking_part.model(batch.x)
            taking_part.step(cross_entropy(outputs, batch.y), outputs)
    np.save(folder / f"{name}.npy", np.array(done))


def cut(hub: Hub, name: str) -> None:
    """End the connections of a device, as a router does that forgets them."""
    with hub._views.lock:
        members = [member for member in hub._views.members.values() if member.name == name]
    for member in members:
        for connection in member.connections():
            connection.close()


def serve(options: argparse.Namespace, folder: Path) -> int:
    """Let the run go on to its end; return the exit code."""
    names = [f"cam-{number}" for number in range(1, options.devices + 1)]
    config = load_config(
        {
            "method": "ddl",
            "devices": options.devices,
            "duration_s": 60 * options.minutes,
            "target_accuracy": None,
            "stop_at_target": False,
            "picture": False,
            "stream": {"rates": RATE_HZ},
            "batch": {"size": BATCH, "max_wait_s": 60},
            "evaluation": {"every_s": 1e6},
            "fabric": {"backend": "hub", "min_devices": options.devices},
        }
    )
    said = Said()
    with build_journal(config, folder / "hub", print) as journal:
        guard = CountingGuard(folder / "hub", journal.run, life_s=2 * options.every)
        hub = build_hub(config, "127.0.0.1", 0, journal, said, guard=guard)
        hub.start()
        place = (folder, hub.address, guard.new_token(options.devices), guard.ca_hash)
        devices = [get_context("spawn").Process(target=device, args=(name, *place)) for name in names]
        for one in devices:
            one.start()
        try:
            watch(hub, said, devices, names, options)
        finally:
            for one in devices:
                one.kill()
                one.join()
            hub.close()
    codes = [one.exitcode for one in devices]
    if codes != [0] * options.devices:
        print(f"devices ended with {codes}: {said.lost}")
        return 1
    return report(guard, said, hub.refused, {name: np.load(folder / f"{name}.npy") for name in names}, options)


def watch(hub: Hub, said: Said, devices: list[Any], names: list[str], options: argparse.Namespace) -> None:
    """Cut a device off from time to time, one after the other, until all have ended."""
    next_s = float("inf")
    while any(one.exitcode is None for one in devices) and not any(one.exitcode for one in devices):
        now_s, here = time.monotonic(), len(hub.members()) == options.devices
        if next_s == float("inf") and here:
            hub.need(1)  # all begin together, and later nobody waits for one that is cut off
            next_s = now_s + options.cut
        if now_s > next_s and here and not hub.ended_by:
            said.cuts.append(Cut(names[len(said.cuts) % len(names)], now_s))
            cut(hub, said.cuts[-1].name)
            next_s = now_s + options.cut
        time.sleep(LOOK_S)


def report(
    guard: CountingGuard, said: Said, refused: int, done: dict[str, np.ndarray], options: argparse.Namespace
) -> int:
    """Print what came of it; return the exit code."""
    first = dict(reversed(guard.shown))
    renewals = {name: sum(one == name for _, one in guard.renewed) for name in done}
    with_new = sum(serial != first[name] for name, serial in guard.shown)
    steps = {name: rows[:, 0].astype(int) for name, rows in done.items()}
    taken = np.unique(np.concatenate(list(steps.values())))
    missing = int(taken[-1]) - len(taken)
    repeated = sum(len(mine) - len(np.unique(mine)) for mine in steps.values())
    near, elsewhere = durations(guard, said, done)
    print(f"{options.devices} devices, {options.minutes:g} minutes, certificates of {2 * options.every:g} s")
    print(f"renewals by device          {', '.join(f'{name} {count}' for name, count in renewals.items())}")
    print(f"connections made            {len(guard.shown)}, {with_new} of them with a renewed certificate")
    print(f"devices cut off on purpose  {len(said.cuts)}")
    print(
        f"lost to a renewal           {len(said.lost)}, {refused} refused{''.join(f'; {line}' for line in said.lost)}"
    )
    print(f"steps                       {int(taken[-1])}, {missing} missing, {repeated} taken twice")
    for where, seconds in (("elsewhere", elsewhere), (f"within {NEAR_S:g} s of a renewal", near)):
        if seconds:
            median_ms, longest_ms = 1e3 * statistics.median(seconds), 1e3 * max(seconds)
            print(f"a step {where:28} median {median_ms:.1f} ms, longest {longest_ms:.1f} ms")
    return int(bool(said.lost or refused or missing or repeated or not all(renewals.values()) or not with_new))


def durations(guard: CountingGuard, said: Said, done: dict[str, np.ndarray]) -> tuple[list[float], list[float]]:
    """Return the seconds between two steps of a device, near renewals and elsewhere; none while somebody is cut off."""
    near, elsewhere = [], []
    renewed = np.array([at_s for at_s, _ in guard.renewed])
    for rows in done.values():
        for before_s, after_s in pairwise(rows[:, 1]):
            if any(before_s < one.until_s + NEAR_S and after_s > one.from_s for one in said.cuts):
                continue
            is_near = ((renewed > before_s - NEAR_S) & (renewed < after_s + NEAR_S)).any()
            (near if is_near else elsewhere).append(float(after_s - before_s))
    return near, elsewhere


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=2.0)
    parser.add_argument("--every", type=float, default=20.0, help="seconds after which a certificate is renewed")
    parser.add_argument("--cut", type=float, default=60.0, help="seconds after which another device is cut off")
    parser.add_argument("--devices", type=int, default=4)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        return serve(options, Path(folder))


if __name__ == "__main__":
    sys.exit(main())
