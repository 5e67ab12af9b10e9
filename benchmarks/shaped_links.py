"""Stream time to the target over thin links: dense, compressed, and by what buys most, measured and predicted.

Four device processes, each in a network namespace of its own, on one bridge; every link is shaped in both directions by
the kernel's token bucket. They exchange with each other (gloo) or through a hub at the bridge, whose own end is not
shaped. The simulator predicts the same runs from the rates of the links and from what was measured
beforehand:

- *Bandwidth.* A bucket counts whole frames: 1448 of 1514 bytes are payload, and for every two frames that come in, an
  acknowledgement of 66 bytes goes out through the bucket of the other direction. Frames that a full bucket drops are
  sent again; that is not charged (3 to 6 % of the bytes at 20 Mbit/s, next to nothing at 100).
- *Latency.* A ring has 2 (N - 1) rounds, an all-gather N - 1, and each waits for a frame to pass two buckets and for
  processes to wake up, of which there are more than cores. Measured: a sum of 40 kB over the shaped links, a round of
  it less its time on the wire. The same is charged for each way to the hub and back.
- *Compute.* What a step takes on free links from the moment at which the last device has its batch, all devices
  computing at once on the cores there are. It holds everything that is no waiting for links: forward and backward pass,
  selection and coding, the exchange's own work, the optimizer.

MB sent, as the kernel counts it, also holds the initial model and what was sent again. Needs root and iproute2,
and about 15 minutes for all rows; where they are missing it says so and does nothing. ``--quick`` only predicts, with
nominal links and no costs but theirs, on any machine.

    python benchmarks/shaped_links.py [--rates 100 20] [--only dense auto] [--backend gloo hub] [--out DIR] [--quick]
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import yaml

DEVICES = 4
# what is put over the settings below; the simulator is given the same, and costs
VARIANTS = {
    "dense": [],
    "compressed": ["compression.ratio=0.01", "compression.gate=always"],
    "a tenth": ["compression.ratio=0.1", "compression.gate=always"],
    "auto": ["compression.ratio=auto"],
    "method auto": ["method=auto"],
}
SETTINGS: dict[str, Any] = {
    "devices": DEVICES,
    "model": "shaped_links:network",
    "target_accuracy": 0.93,
    "duration_s": 240,
    "picture": False,
    "stream": {"rates": [200, 152, 48, 328]},
    "batch": {"window_s": 0.25},
    # all runs learn from the same samples in the same order, so that nothing but the links differs
    "buffer": {"policy": "persistence"},
    "evaluation": {"every_s": 0.25},
    "checkpoint": {"every_steps": 1_000_000},
}
CALIBRATION_STEPS = 40
START_S = 120
PORT, HUB_PORT = 29533, 29534
HUB_ADDRESS = "10.77.0.254"
PAYLOAD = 1448 / (1514 + 66 / 2)
PROBE_VALUES = 10_000


def network(shape, classes):
    """A fully connected network of 1.08 million parameters on the digits."""
    from torch import nn

    inputs = shape[0] * shape[1] * shape[2]
    hidden = [nn.Linear(inputs, 1000), nn.ReLU(), nn.Linear(1000, 1000), nn.ReLU()]
    return nn.Sequential(nn.Flatten(), *hidden, nn.Linear(1000, classes))


class Namespaces:
    """A bridge and four devices, each with one link to it; everything goes away with the namespaces."""

    def __init__(self) -> None:
        self.hub = f"scadles-{os.getpid()}-hub"
        self.devices = [f"scadles-{os.getpid()}-{rank}" for rank in range(DEVICES)]

    def __enter__(self) -> Namespaces:
        try:
            for name in (self.hub, *self.devices):
                _command("ip", "netns", "add", name)
            _command("ip", "-n", self.hub, "link", "set", "lo", "up")
            _command("ip", "-n", self.hub, "link", "add", "bridge", "type", "bridge")
            _command("ip", "-n", self.hub, "addr", "add", f"{HUB_ADDRESS}/24", "dev", "bridge")
            _command("ip", "-n", self.hub, "link", "set", "bridge", "up")
            for rank, name in enumerate(self.devices):
                end = f"to{rank}"
                _command(
                    "ip", "-n", name, "link", "add", "eth0", "type", "veth", "peer", "name", end, "netns", self.hub
                )
                _command("ip", "-n", self.hub, "link", "set", end, "master", "bridge", "up")
                _command("ip", "-n", name, "addr", "add", f"10.77.0.{rank + 1}/24", "dev", "eth0")
                for interface in ("lo", "eth0"):
                    _command("ip", "-n", name, "link", "set", interface, "up")
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        there = subprocess.run(["ip", "netns", "list"], capture_output=True, text=True, check=True).stdout
        there = {line.split()[0] for line in there.splitlines() if line}
        for name in (self.hub, *self.devices):
            if name in there:
                _command("ip", "netns", "del", name)

    def shape(
        self, mbit: float, ranks: Sequence[int] = range(DEVICES), burst: str = "32kbit", queue: str = "50ms"
    ) -> None:
        """Shape the links of some devices at both ends.

        Args:
            mbit: megabits a second.
            ranks: of the devices.
            burst: what passes at once after a silence.
            queue: how long a frame may wait; what would wait longer is dropped.
        """
        for rank in ranks:
            name = self.devices[rank]
            for where, interface in ((name, "eth0"), (self.hub, f"to{rank}")):
                bucket = ("rate", f"{mbit}mbit", "burst", burst, "latency", queue)
                _command("tc", "-n", where, "qdisc", "replace", "dev", interface, "root", "tbf", *bucket)

    def free(self) -> None:
        """Let all links be as fast as they can."""
        for rank, name in enumerate(self.devices):
            for where, interface in ((name, "eth0"), (self.hub, f"to{rank}")):
                subprocess.run(
                    ["tc", "-n", where, "qdisc", "del", "dev", interface, "root"], capture_output=True, check=False
                )

    def run(self, devices: Sequence[list[str]], timeout_s: float, log: Path, hub: Sequence[str] = ()) -> None:
        """Run ``python ARGUMENTS`` of each device in its namespace, and of a hub at the bridge; wait for all of them.

        Args:
            devices: arguments by device.
            timeout_s: seconds of wall time.
            log: the first one's output; those of others lie beside it.
            hub: its arguments; empty for none.
        """
        started: list[subprocess.Popen[bytes]] = []
        until = time.monotonic() + timeout_s
        ends = [*zip(self.devices, devices, strict=True), *([(self.hub, hub)] if hub else [])]
        with ExitStack() as files:
            try:
                for rank, (name, arguments) in enumerate(ends):
                    output = files.enter_context((log if rank == 0 else log.with_suffix(f".{rank}.log")).open("wb"))
                    command = ["ip", "netns", "exec", name, sys.executable, *arguments]
                    environment = _environment(rank if rank < DEVICES else None)
                    started.append(subprocess.Popen(command, env=environment, stdout=output, stderr=subprocess.STDOUT))
                for process in started:
                    process.wait(max(0.0, until - time.monotonic()))
            finally:
                for process in started:
                    if process.poll() is None:
                        process.kill()
                        process.wait()
        if any(process.returncode for process in started):
            codes = [process.returncode for process in started]
            raise RuntimeError(f"devices ended with {codes}; {log} says:\n{log.read_text()[-2000:]}")


def _command(*words: str) -> None:
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{' '.join(words)}: {done.stderr.strip()}")


def _environment(rank: int | None = None) -> dict[str, str]:
    path = os.pathsep.join([str(Path(__file__).parent), *filter(None, [os.environ.get("PYTHONPATH")])])
    environment = {**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"}
    if rank is not None:
        environment |= {"RANK": str(rank), "WORLD_SIZE": str(DEVICES), "MASTER_ADDR": "10.77.0.1"}
        environment |= {"MASTER_PORT": str(PORT), "GLOO_SOCKET_IFNAME": "eth0", "RES_OPTIONS": "timeout:1 attempts:1"}
    return environment


def train(links: Namespaces, variant: str, backend: str, out: Path, settings: list[str]) -> dict[str, Any]:
    """Run the devices and return the summary."""
    given = [word for setting in VARIANTS[variant] + settings for word in ("--set", setting)]
    # tests take wall time in which the stream stands still
    timeout_s = START_S + 2 * SETTINGS["duration_s"]
    program, settings_file, log = ["-m", "scadles"], str(out.parent / "run.yaml"), out.with_suffix(".log")
    if backend == "gloo":
        arguments = [*program, "train", settings_file, "--out", str(out), "--quiet", *given]
        links.run([arguments] * DEVICES, timeout_s, log)
        return json.loads((out / "summary.json").read_text())
    place = f"{HUB_ADDRESS}:{HUB_PORT}"
    hub = [*program, "hub", settings_file, "--listen", place, "--out", str(out / "hub"), "--quiet", "--insecure"]
    hub += [*given, "--set", f"fabric.min_devices={DEVICES}"]
    allowed = ["--allow", f"model={SETTINGS['model']}", "--insecure", "--quiet"]
    names = [f"device-{rank}" for rank in range(DEVICES)]
    devices = [[*program, "join", place, "--name", name, "--out", str(out / name), *allowed] for name in names]
    links.run(devices, timeout_s, log, hub)
    return json.loads((out / names[0] / "summary.json").read_text())


def predict(variant: str, backend: str, out: Path, costs: dict[str, float]) -> dict[str, Any]:
    """Simulate the same and return the summary."""
    given = [*VARIANTS[variant], *(f"cost.{name}={value!r}" for name, value in costs.items())]
    given += ["fabric.backend=hub"] if backend == "hub" else []
    arguments = ["-m", "scadles", "simulate", str(out.parent / "run.yaml"), "--out", str(out), "--quiet"]
    arguments += [word for setting in given for word in ("--set", setting)]
    subprocess.run([sys.executable, *arguments], env=_environment(), timeout=600, check=True)
    return json.loads((out / "summary.json").read_text())


def busy_s(run: Path) -> float:
    """Return how long a step takes from when the last device has its batch: the median over steps."""
    each: dict[int, list[float]] = {}
    for events in sorted(run.glob("**/events-*.jsonl")):
        for line in events.read_text().splitlines():
            event = json.loads(line)
            if event["event"] == "step":
                each.setdefault(event["step"], []).append(event["compute_s"] + event["sync_s"])
    return statistics.median(min(times) for times in each.values())


def latency_s(links: Namespaces, mbit: float, log: Path) -> float:
    """Return what a round of a small sum takes beside its bytes on the wire."""
    links.run([[__file__, "--probe"]] * DEVICES, START_S, log)
    taken_s = float(log.read_text().split()[-1])
    wire_s = 8 * 4 * PROBE_VALUES / DEVICES / (mbit * 1e6 * PAYLOAD)
    return max(0.0, taken_s / (2 * (DEVICES - 1)) - wire_s)


def probe() -> None:
    """Print the median time of a sum of 40 kB over all devices."""
    import torch
    import torch.distributed as dist

    dist.init_process_group("gloo")
    values, taken_s = torch.zeros(PROBE_VALUES), []
    for _ in range(50):
        dist.barrier()
        start = time.perf_counter()
        dist.all_reduce(values)
        taken_s.append(time.perf_counter() - start)
    print(statistics.median(taken_s))
    dist.destroy_process_group()


def compare(links: Namespaces, rates: list[float], variants: list[str], backend: str, out: Path) -> None:
    """Measure and predict everything, and print it line by line."""
    compute_s = {}
    print("through a hub at the bridge\n" if backend == "hub" else "devices with each other\n")
    for variant in dict.fromkeys(["dense", "compressed", *variants]):
        run = out / f"free-{variant}"
        train(links, variant, backend, run, [f"steps={CALIBRATION_STEPS}", "target_accuracy=null"])
        compute_s[variant] = busy_s(run)
        print(f"a step of {variant} on free links: {compute_s[variant] * 1e3:.0f} ms")
    print("\nmeasured / predicted")
    print(f"{'Mbit/s':>7} {'':12}{'steps':>12}{'s per step':>16}{'MB sent':>16}{'s to the target':>18}{'ratio':>8}")
    for mbit in rates:
        links.shape(mbit)
        bps, delay_s = mbit * 1e6 * PAYLOAD, latency_s(links, mbit, out / f"{mbit:g}-probe.log")
        costs = {"link.up_bps": bps, "link.down_bps": bps, "link.latency_s": delay_s}
        times: dict[str, tuple[float, float]] = {}
        for variant in variants:
            run = out / f"{mbit:g}-{variant}"
            real = train(links, variant, backend, run, [])
            step_s = {"compute.step_s": compute_s[variant]}
            if "auto" in variant:  # its steps are of both kinds
                coding_s = max(0.0, compute_s["compressed"] - compute_s["dense"])
                step_s = {"compute.step_s": compute_s["dense"], "compute.coding_s": coding_s}
            guess = predict(variant, backend, run.with_name(f"{run.name}-predicted"), costs | step_s)
            times[variant] = _to_target(real), _to_target(guess)
            print(_row(mbit, variant, real, guess), flush=True)
        print(f"{'':7} {bps / 1e6:.1f} Mbit/s of payload, latency {delay_s * 1e3:.1f} ms")
        for variant in times.keys() - {"dense"} if "dense" in times else ():
            real_gain, guessed_gain = (
                dense / other for dense, other in zip(times["dense"], times[variant], strict=True)
            )
            print(f"{'':7} {variant} {real_gain:.1f} times sooner than dense, predicted {guessed_gain:.1f}")
        print()


def predict_all(rates: list[float], variants: list[str], backend: str, out: Path) -> None:
    """Print what the simulator says of nominal links, line by line."""
    print(f"{'Mbit/s':>7} {'':12}{'steps':>7}{'s per step':>12}{'MB sent':>9}{'s to the target':>17}  steps by ratio")
    for mbit in rates:
        for variant in variants:
            bps = mbit * 1e6 * PAYLOAD
            guess = predict(variant, backend, out / f"{mbit:g}-{variant}", {"link.up_bps": bps, "link.down_bps": bps})
            each, ratios = guess["time_s"] / guess["steps"], (guess["compressed"] or {}).get("ratios") or {}
            print(
                f"{mbit:7g} {variant:12}{guess['steps']:7}{each:12.3f}{guess['bytes_sent'] / 1e6:9.1f}"
                f"{_to_target(guess):17.1f}  {', '.join(f'{ratio}: {steps}' for ratio, steps in ratios.items())}",
                flush=True,
            )


def _row(mbit: float, variant: str, real: dict[str, Any], guess: dict[str, Any]) -> str:
    pair = (real, guess)
    steps = " / ".join(str(summary["steps"]) for summary in pair)
    each = " / ".join(f"{summary['time_s'] / summary['steps']:.3f}" for summary in pair)
    sent = " / ".join(f"{summary['bytes_sent'] / 1e6:.1f}" for summary in pair)
    times = f"{_to_target(real):.1f} / {_to_target(guess):.1f}"
    ratio = _to_target(guess) / _to_target(real)
    windows_s = [summary["window"]["window_s"] for summary in pair if "window" in summary]
    chosen = f"  window {' / '.join(f'{window_s:.3g}' for window_s in windows_s)} s" if windows_s else ""
    return f"{mbit:7g} {variant:12}{steps:>12}{each:>16}{sent:>16}{times:>18}{ratio:>8.3f}{chosen}"


def _to_target(summary: dict[str, Any]) -> float:
    time_s = summary["time_to_target_s"]
    return float("nan") if time_s is None else float(time_s)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rates", type=float, nargs="+", default=[100, 20], help="Mbit/s of the links")
    parser.add_argument("--only", choices=VARIANTS, nargs="+", default=list(VARIANTS), help="leave the others out")
    parser.add_argument("--backend", choices=("gloo", "hub"), nargs="+", default=["gloo"], help="how they exchange")
    parser.add_argument("--quick", action="store_true", help="predict only")
    parser.add_argument("--out", type=Path, help="keep the run folders here")
    parser.add_argument("--probe", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.probe:
        probe()
        return 0
    if options.quick:
        with tempfile.TemporaryDirectory() as folder:
            for backend in options.backend:
                out = _prepared((options.out or Path(folder)) / backend)
                predict_all(options.rates, options.only, backend, out)
        return 0
    if os.geteuid() != 0 or not (shutil.which("ip") and shutil.which("tc")):
        print("shaped links need root and iproute2 (apt-get install iproute2): nothing was measured")
        return 0
    # more processes than cores, as scadles train --local does; the device processes inherit it
    os.sched_setscheduler(0, os.SCHED_BATCH, os.sched_param(0))
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    with tempfile.TemporaryDirectory() as folder, Namespaces() as links:
        for backend in options.backend:
            links.free()
            out = _prepared((options.out or Path(folder)) / backend)
            compare(links, options.rates, options.only, backend, out)
    return 0


def _prepared(out: Path) -> Path:
    """Return the folder with the settings in it."""
    out.mkdir(parents=True, exist_ok=True)
    (out / "run.yaml").write_text(yaml.safe_dump(SETTINGS))
    return out


if __name__ == "__main__":
    sys.exit(main())
