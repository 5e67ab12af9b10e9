"""A hub whose devices have links of their own: a thin one beside fast ones, and one that drops; measured and predicted.

A hub and four devices are processes in network namespaces of their own, on one bridge; ``scadles simulate`` predicts
the same runs with ``cost.collective: star`` from the rates of the links and from what was measured beforehand:

- *Bandwidth, compute* as in ``shaped_links.py``: whole frames and acknowledgements count; a step on free links gives
  everything that is no waiting for links. Latency is below 1 ms here, and not charged.
- *Absence*: from the moment at which the link drops until it is there again (``cost.availability``). How long a hub
  takes to notice, and a device to find it again, is what may differ.

First part: one link of the given rate, the others of 100 Mbit/s, dense and compressed, and a message of several pieces.
Bytes are what passes the buckets of the thin link once all have the initial model: whole frames, acknowledgements of
the other direction, signs of life. Not charged is that a bucket lets one frame pass at once after each silence. Second
part: the link of one device drops for 10 s of 40. Needs root and iproute2, and about 6 minutes.

    python benchmarks/hub_links.py [--mbit 1] [--drop-s 10] [--only links|drop] [--out DIR]
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import re
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any, NamedTuple

import yaml
from shaped_links import DEVICES, PAYLOAD, Namespaces, _command, _environment

ADDRESS, PORT = "10.77.0.254", 29534
THIN, FAST_MBIT = DEVICES - 1, 100.0
BURST = "1540b"  # one frame: more would pass for nothing after each silence, and messages are small
QUEUE = "500ms"  # at 1 Mbit/s 50 ms are five frames, and every compressed message would lose some
START_S, RUN_S = 60, 240
CALIBRATION_STEPS, BATCH = 40, 16
SETTINGS: dict[str, Any] = {
    "method": "ddl",
    "devices": DEVICES,
    "steps": 1,
    "target_accuracy": None,
    "stop_at_target": False,
    "picture": False,
    "stream": {"rates": 400},
    "batch": {"size": BATCH, "max_wait_s": 60},
    "evaluation": {"every_s": 1e6},
    "checkpoint": {"every_steps": 1_000_000},
    "fabric": {"backend": "hub", "min_devices": DEVICES},
}
COMPRESSED = ["compression.ratio=0.1", "compression.gate=always"]


class Row(NamedTuple):
    """A run over a thin link: its name, the network, what is set, the link's rate against the asked one, its steps."""

    name: str
    model: str
    given: list[str]
    times_faster: float
    steps: int


ROWS = [
    Row("dense", "small", [], 1, 9),
    Row("compressed", "small", COMPRESSED, 1, 100),
    Row("dense, pieces", "large", [], 20, 8),
]


def small(shape, classes):
    """A fully connected network of 75,010 parameters on the digits."""
    return _network(shape, classes, 1000)


def large(shape, classes):
    """One of 1.08 million parameters, whose gradients travel in five pieces."""
    return _network(shape, classes, 14_360)


def _network(shape, classes, hidden):
    from torch import nn

    return nn.Sequential(
        nn.Flatten(), nn.Linear(shape[0] * shape[1] * shape[2], hidden), nn.ReLU(), nn.Linear(hidden, classes)
    )


class Fleet:
    """A hub and its devices in namespaces, until the run has ended.

    Args:
        links: where they run.
        out: the folder of this run; the devices' are in it.
        given: settings over those of ``run.yaml`` beside it.
    """

    def __init__(self, links: Namespaces, out: Path, given: list[str]) -> None:
        self.out, self._links, self._files = out, links, ExitStack()
        out.mkdir(parents=True)
        settings = [word for setting in given for word in ("--set", setting)]
        hub = [
            "hub",
            str(out.parent / "run.yaml"),
            "--listen",
            f"{ADDRESS}:{PORT}",
            "--insecure",
            "--out",
            str(out / "hub"),
        ]
        self._processes = [self._start(links.hub, "hub", ["-m", "scadles", *hub, *settings])]
        self.until(lambda: f" on {ADDRESS}:{PORT}" in self.said("hub"), "an address", START_S)
        for rank, name in enumerate(links.devices):
            join = [
                "join",
                f"{ADDRESS}:{PORT}",
                "--insecure",
                "--name",
                f"cam-{rank}",
                "--out",
                str(out / f"cam-{rank}"),
                "--quiet",
                "--allow",
                "model=hub_links:*",
            ]
            self._processes.append(self._start(name, f"cam-{rank}", ["-m", "scadles", *join]))

    def __enter__(self) -> Fleet:
        return self

    def __exit__(self, *_: object) -> None:
        for process in self._processes:
            if process.poll() is None:
                process.kill()
                process.wait()
        self._files.close()

    def until(self, condition: Callable[[], Any], what: str, limit_s: float = RUN_S) -> None:
        """Wait for ``condition()`` while all of them run."""
        until_s = time.monotonic() + limit_s
        while True:
            codes = [process.poll() for process in self._processes]
            if condition():
                return
            if any(codes) or None not in codes or time.monotonic() > until_s:
                raise RuntimeError(f"no {what}: {self._words()}")
            time.sleep(0.02)

    def wait(self) -> None:
        """Wait for the end of the run."""
        self.until(lambda: all(process.poll() == 0 for process in self._processes), "end of the run")

    def said(self, name: str) -> str:
        return (self.out / f"{name}.log").read_text()

    def steps(self, rank: int) -> list[dict[str, Any]]:
        """Return the events of a device's steps so far."""
        folder = self.out / f"cam-{rank}"
        found = [line for path in folder.glob("events-*.jsonl") for line in path.read_text().splitlines(keepends=True)]
        events = [json.loads(line) for line in found if line.endswith("\n")]
        return [event for event in events if event["event"] == "step"]

    def _start(self, namespace: str, name: str, arguments: list[str]) -> subprocess.Popen[bytes]:
        log = self._files.enter_context((self.out / f"{name}.log").open("wb"))
        command = ["ip", "netns", "exec", namespace, sys.executable, *arguments]
        environment = {**_environment(), "PYTHONUNBUFFERED": "1"}
        return subprocess.Popen(command, env=environment, stdout=log, stderr=subprocess.STDOUT)

    def _words(self) -> str:
        return "\n".join(f"{path.name}: {path.read_text()[-1000:]}" for path in sorted(self.out.glob("*.log")))


def train(links: Namespaces, out: Path, given: list[str]) -> Fleet:
    """Run a training to its end."""
    with Fleet(links, out, given) as fleet:
        fleet.wait()
    return fleet


def predict(out: Path, given: list[str]) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """Simulate the same; return the events of device 0's steps, and the summary."""
    arguments = ["-m", "scadles", "simulate", str(out.parent / "run.yaml"), "--out", str(out), "--quiet"]
    arguments += [word for setting in [*given, "cost.collective=star"] for word in ("--set", setting)]
    subprocess.run([sys.executable, *arguments], env=_environment(), timeout=600, check=True)
    events = [json.loads(line) for line in (out / "events-0.jsonl").read_text().splitlines()]
    return [event for event in events if event["event"] == "step"], json.loads((out / "summary.json").read_text())


def each_s(steps: list[dict[str, Any]]) -> float:
    """Return seconds a step, the first one's left out, in which devices come together."""
    return (steps[-1]["time_s"] - steps[0]["time_s"]) / (len(steps) - 1)


def busy_s(fleet: Fleet) -> float:
    """Return how long a step takes on free links from when the last device has its batch: the median over steps."""
    each: dict[int, list[float]] = {}
    for rank in range(DEVICES):
        for step in fleet.steps(rank):
            each.setdefault(step["step"], []).append(step["compute_s"] + step["sync_s"])
    return statistics.median(min(times) for times in each.values())


def thin_bytes(links: Namespaces) -> tuple[int, int]:
    """Return the bytes that have passed the thin link's buckets so far, up and down."""
    passed = []
    for namespace, interface in ((links.devices[THIN], "eth0"), (links.hub, f"to{THIN}")):
        command = ["tc", "-n", namespace, "-s", "-j", "qdisc", "show", "dev", interface]
        [found] = json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
        passed.append(found["bytes"])
    return passed[0], passed[1]


def compare_links(links: Namespaces, mbit: float, rows: list[Row], out: Path) -> None:
    """Measure and predict steps over a thin link, and print them line by line."""
    compute_s = {}
    for row in rows:
        given = [f"model=hub_links:{row.model}", *row.given, f"steps={CALIBRATION_STEPS}"]
        compute_s[row.name] = busy_s(train(links, out / f"free-{row.name}", given))
        print(f"a step of {row.name} on free links: {compute_s[row.name] * 1e3:.1f} ms", flush=True)
    print(f"\n{DEVICES} devices, the last one's link beside {FAST_MBIT:g} Mbit/s; measured / predicted, ratio")
    print(f"{'Mbit/s':>7} {'':15}{'s per step':>24}{'kB up a step':>26}{'kB down a step':>26}")
    for row in rows:
        rate = mbit * row.times_faster
        links.shape(FAST_MBIT)
        links.shape(rate, [THIN], BURST, QUEUE)
        bps = [FAST_MBIT * 1e6 * PAYLOAD] * THIN + [rate * 1e6 * PAYLOAD]
        given = [f"model=hub_links:{row.model}", *row.given]
        real, up, down = measured(links, row, given, out)
        costs = {"link.up_bps": bps, "link.down_bps": bps}
        said = [f"cost.{name}={value!r}" for name, value in costs.items()]
        said += [f"cost.compute.step_s={compute_s[row.name]!r}", f"steps={row.steps}"]
        steps, summary = predict(out / f"predicted-{row.name}", [*given, *said])
        frames_bytes = summary["bytes_sent"] / summary["steps"] / (2 * DEVICES) / PAYLOAD
        print(
            f"{rate:7g} {row.name:15}"
            + pair(each_s(real), each_s(steps), "{:.3f}", 24)
            + pair(up / 1e3, frames_bytes / 1e3, "{:.1f}", 26)
            + pair(down / 1e3, frames_bytes / 1e3, "{:.1f}", 26),
            flush=True,
        )


def measured(links: Namespaces, row: Row, given: list[str], out: Path) -> tuple[list[dict[str, Any]], float, float]:
    """Return device 0's steps, and the bytes of a step at the thin link, up and down, once all have the model."""
    counted = []
    with Fleet(links, out / row.name, [*given, f"steps={row.steps}"]) as fleet:
        for least in (2, row.steps - 1):
            fleet.until(lambda least=least: len(fleet.steps(0)) >= least, f"step {least}")
            counted.append((*thin_bytes(links), len(fleet.steps(0))))
        fleet.wait()
    up, down, steps = (after - before for before, after in zip(*counted, strict=True))
    return fleet.steps(0), up / steps, down / steps


def pair(real: float, guess: float, form: str, width: int) -> str:
    """Return both, and how they relate."""
    return f"{form.format(real)} / {form.format(guess)}, {real / guess:.2f}".rjust(width)


def compare_drop(links: Namespaces, drop_s: float, out: Path) -> None:
    """Let a link drop, and print who took part when, measured and predicted."""
    links.shape(FAST_MBIT)
    duration_s = 4 * drop_s
    given = ["model=hub_links:small", "steps=null", f"duration_s={duration_s}", f"fabric.min_devices={THIN}"]
    given += [f"stream.rates={5 * BATCH}"]
    with Fleet(links, out / "drop", given) as fleet:
        fleet.until(lambda: any(step["time_s"] > drop_s for step in fleet.steps(0)), "start")
        cut_s = fleet.steps(0)[-1]["time_s"]
        _command("bridge", "-n", links.hub, "link", "set", "dev", f"to{THIN}", "state", "disabled")
        time.sleep(drop_s)
        _command("bridge", "-n", links.hub, "link", "set", "dev", f"to{THIN}", "state", "forwarding")
        fleet.wait()
    real = fleet.steps(0)
    windows = f"[[0, {cut_s}], [{cut_s + drop_s}, {10 * duration_s}]]"
    always = "{}"
    available = ", ".join([always] * THIN + [f"{{windows_s: {windows}}}"])
    bps = FAST_MBIT * 1e6 * PAYLOAD
    costs = [f"cost.availability=[{available}]", f"cost.link.up_bps={bps}", f"cost.link.down_bps={bps}"]
    guess, _ = predict(out / "predicted-drop", [*given, *costs, f"cost.compute.step_s={busy_s(fleet)!r}"])
    print(f"\na link drops for {drop_s:g} s, at {cut_s:.1f} of {duration_s:g} s; measured / predicted, ratio")
    pause_s = max(after["time_s"] - before["time_s"] for before, after in itertools.pairwise(real))
    print(f"longest time between two steps of the others: {pause_s:.2f} s")
    for name, count in (
        ("steps", len),
        ("steps with all devices", lambda steps: len(steps) - len(absent(steps))),
        ("steps without it", lambda steps: len(absent(steps))),
        ("seconds without it", lambda steps: absent(steps)[-1]["time_s"] - cut_s),
    ):
        print(f"{name:24}" + pair(count(real), count(guess), "{:.4g}", 26))
    print(re.sub(r"(?m)^.*(takes part|refused|hub of run).*\n", "", fleet.said("hub")))


def absent(steps: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return those in which fewer devices than all took part."""
    return [step for step in steps if step["total_batch"] <= BATCH * THIN]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--mbit", type=float, default=1.0, help="Mbit/s of the thin link")
    parser.add_argument("--drop-s", type=float, default=10.0, help="how long a link drops, in a run of four times that")
    parser.add_argument("--only", choices=["links", "drop"], help="leave the other part out")
    parser.add_argument("--out", type=Path, help="keep the run folders here")
    options = parser.parse_args()
    if os.geteuid() != 0 or not (shutil.which("ip") and shutil.which("tc")):
        print("shaped links need root and iproute2 (apt-get install iproute2): nothing was measured")
        return 0
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    with tempfile.TemporaryDirectory() as folder, Namespaces() as links:
        _command("ip", "-n", links.hub, "addr", "add", f"{ADDRESS}/24", "dev", "bridge")
        out = options.out or Path(folder)
        out.mkdir(parents=True, exist_ok=True)
        (out / "run.yaml").write_text(yaml.safe_dump(SETTINGS))
        if options.only != "drop":
            compare_links(links, options.mbit, ROWS, out)
        if options.only != "links":
            compare_drop(links, options.drop_s, out)
    return 0


if __name__ == "__main__":
    sys.exit(main())
