"""A hub whose devices have links of their own: a thin one beside fast ones, and one that drops; measured and predicted.

A hub and four devices are processes in network namespaces of their own, on one bridge; ``scadles simulate`` predicts
the same runs from the rates of the links and from what was measured beforehand:

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
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, NamedTuple

import yaml
from links import DEVICES, PAYLOAD, Fleet, Namespaces, busy_s, command, environment, steps_in

THIN, FAST_MBIT = DEVICES - 1, 100.0
BURST = "1540b"  # one frame: more would pass for nothing after each silence, and messages are small
QUEUE = "500ms"  # at 1 Mbit/s 50 ms are five frames, and every compressed message would lose some
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
MODEL = "hub_links:*"
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


def train(links: Namespaces, out: Path, given: list[str]) -> Path:
    """Run a training to its end, and return its folder."""
    with Fleet(links, out, given, MODEL) as fleet:
        fleet.wait()
    return out


def predict(out: Path, given: list[str]) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """Simulate the same; return the events of device 0's steps, and the summary."""
    arguments = ["-m", "scadles", "simulate", str(out.parent / "run.yaml"), "--out", str(out), "--quiet"]
    arguments += [word for setting in given for word in ("--set", setting)]
    subprocess.run([sys.executable, *arguments], env=environment(), timeout=600, check=True)
    return steps_in(out, "events-0.jsonl"), json.loads((out / "summary.json").read_text())


def each_s(steps: list[dict[str, Any]]) -> float:
    """Return seconds a step, the first one's left out, in which devices come together."""
    return (steps[-1]["time_s"] - steps[0]["time_s"]) / (len(steps) - 1)


def thin_bytes(links: Namespaces) -> tuple[int, int]:
    """Return the bytes that have passed the thin link's buckets so far, up and down."""
    passed = []
    for namespace, interface in ((links.devices[THIN], "eth0"), (links.hub, f"to{THIN}")):
        words = ["tc", "-n", namespace, "-s", "-j", "qdisc", "show", "dev", interface]
        [found] = json.loads(subprocess.run(words, capture_output=True, text=True, check=True).stdout)
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
    with Fleet(links, out / row.name, [*given, f"steps={row.steps}"], MODEL) as fleet:
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
    with Fleet(links, out / "drop", given, MODEL) as fleet:
        fleet.until(lambda: any(step["time_s"] > drop_s for step in fleet.steps(0)), "start")
        cut_s = fleet.steps(0)[-1]["time_s"]
        command("bridge", "-n", links.hub, "link", "set", "dev", f"to{THIN}", "state", "disabled")
        time.sleep(drop_s)
        command("bridge", "-n", links.hub, "link", "set", "dev", f"to{THIN}", "state", "forwarding")
        fleet.wait()
    real = fleet.steps(0)
    windows = f"[[0, {cut_s}], [{cut_s + drop_s}, {10 * duration_s}]]"
    always = "{}"
    available = ", ".join([always] * THIN + [f"{{windows_s: {windows}}}"])
    bps = FAST_MBIT * 1e6 * PAYLOAD
    costs = [f"cost.availability=[{available}]", f"cost.link.up_bps={bps}", f"cost.link.down_bps={bps}"]
    guess, _ = predict(out / "predicted-drop", [*given, *costs, f"cost.compute.step_s={busy_s(fleet.out)!r}"])
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
