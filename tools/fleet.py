"""A demo of a hub: four devices, of which one is killed and comes back, one comes late, one leaves and comes back.

python tools/fleet.py [--out runs/fleet] [--steps 500]
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import signal
import socket
import sys
from collections.abc import Callable
from multiprocessing import get_context
from pathlib import Path
from threading import Event
from typing import Any

os.environ["OMP_NUM_THREADS"] = "1"  # before torch is imported; all share this machine

import scadles.training.run  # noqa: F401  imported once, for all processes
from scadles.cli.app import main as scadles_main
from scadles.clock import wall_seconds
from scadles.observe import Finished, Step, read_events
from scadles.observe.presence import plot_presence

EXAMPLE = Path(__file__).parents[1] / "examples" / "digits.yaml"
LOOK_S = 0.05
#: Exit codes; neither the one of a device that was killed, below 0, nor of one that was told to end, 143.
FAILED = range(1, 128)
GIVE_UP_S = 300.0


class Fleet:
    """A hub and devices, as processes.

    Args:
        out: a folder for each.
        settings: of the run, beside those of the example.
    """

    def __init__(self, out: Path, settings: list[str]) -> None:
        self._out, self._began_s = out, wall_seconds()
        self._running: dict[str, Any] = {}
        more = [part for setting in settings for part in ("--set", setting)]
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self._address = f"127.0.0.1:{free.getsockname()[1]}"
        self._start("hub", "hub", str(EXAMPLE), "--listen", self._address, "--out", str(out / "hub"), *more)

    def join(self, name: str) -> None:
        """Start a device."""
        self._start(name, "join", self._address, "--name", name, "--out", str(self._out / name), "--quiet")

    def signal(self, name: str, number: int) -> None:
        """Send a signal to a device, and wait for its end."""
        os.kill(self._running[name].pid, number)
        self._running[name].join(GIVE_UP_S)

    def end(self) -> dict[str, int]:
        """Wait until all have ended; return their exit codes."""
        for process in self._running.values():
            process.join(GIVE_UP_S)
        return {name: process.exitcode for name, process in self._running.items()}

    def close(self) -> None:
        """End whoever still runs."""
        for process in self._running.values():
            process.kill()

    def events(self, name: str, kind: Any) -> list[Any]:
        """Return a device's events of a kind."""
        found = [path for path in (self._out / name).glob("events-*.jsonl") if path.stat().st_size]
        return [event for path in found for event in read_events(path) if isinstance(event, kind)]

    def until_step(self, name: str, step: int) -> int:
        """Wait until a device takes a step behind this one; return which."""
        self.until(lambda: any(event.step > step for event in self.events(name, Step)), f"{name}, step {step}")
        return int(self.events(name, Step)[-1].step)

    def until(self, condition: Callable[[], Any], what: str) -> Any:
        """Wait for a condition and return what it says."""
        give_up_s = wall_seconds() + GIVE_UP_S
        while not (found := condition()):
            if wall_seconds() > give_up_s or any((one.exitcode or 0) in FAILED for one in self._running.values()):
                raise SystemExit(f"no {what}: see {self._out}/*.txt")
            Event().wait(LOOK_S)
        return found

    def tell(self, what: str) -> None:
        """Say what happens, and when."""
        print(f"{wall_seconds() - self._began_s:5.1f} s  {what}", flush=True)

    def _start(self, name: str, *arguments: str) -> None:
        said = self._out / f"{name}.txt"
        self._running[name] = get_context("fork").Process(target=_be_scadles, args=(arguments, said))
        self._running[name].start()


def _be_scadles(arguments: tuple[str, ...], said: Path) -> None:
    """Be what ``scadles ARGUMENTS`` is, without importing everything once more."""
    os.setsid()
    with said.open("a") as file:
        for descriptor in (1, 2):
            os.dup2(file.fileno(), descriptor)
    sys.argv = ["scadles", *arguments]
    scadles_main()


def demonstrate(fleet: Fleet) -> None:
    """Let devices come and go."""
    names = ("cam-1", "cam-2", "cam-3")
    for name in names:
        fleet.join(name)
    step = max(fleet.until_step(name, 0) for name in names)
    fleet.tell(f"cam-1, cam-2 and cam-3 learn; they have taken {step} steps")
    fleet.until_step("cam-1", 60)
    fleet.join("cam-4")
    step = fleet.until_step("cam-4", 0)
    fleet.tell(f"cam-4 has come late, to step {step}, with the model of the others")
    fleet.until_step("cam-1", 140)
    fleet.signal("cam-2", signal.SIGKILL)
    last = fleet.events("cam-2", Step)[-1].step
    step = fleet.until_step("cam-1", last + 40)
    fleet.tell(f"cam-2 was killed with -9 after step {last}; the others have come to step {step}")
    fleet.join("cam-2")
    fleet.tell(f"cam-2 is back, at step {fleet.until_step('cam-2', last + 1)}")
    fleet.until_step("cam-1", 260)
    fleet.signal("cam-3", signal.SIGTERM)
    last = fleet.events("cam-3", Finished)[-1].step
    fleet.tell(f"cam-3 was told to end, and has left after step {last} with a checkpoint of its own")
    fleet.until_step("cam-1", last + 60)
    fleet.join("cam-3")
    fleet.tell(f"cam-3 is back, at step {fleet.until_step('cam-3', last)}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("runs/fleet"))
    parser.add_argument("--steps", type=int, default=500)
    options = parser.parse_args()
    shutil.rmtree(options.out, ignore_errors=True)
    options.out.mkdir(parents=True)
    fleet = Fleet(
        options.out,
        [f"steps={options.steps}", "duration_s=1e6", "stop_at_target=false", "picture=false", "fabric.min_devices=2"],
    )
    try:
        demonstrate(fleet)
        codes = fleet.end()
    finally:
        fleet.close()
    names = sorted(set(codes) - {"hub"})
    ends = {name: fleet.events(name, Finished)[-1] for name in names}
    summary = next(options.out.glob("*/summary.json"))  # each device has one, of the same run
    accuracy = json.loads(summary.read_text())["final_accuracy"]
    fleet.tell(f"all have ended, the hub too, with exit codes {sorted(set(codes.values()))}; accuracy {accuracy:.1%}")
    for name, end in ends.items():
        ledger, steps = end.ledger, len(fleet.events(name, Step))
        counted = ", ".join(f"{ledger[where]:,} {where}" for where in ("received", "trained", "dropped", "held"))
        print(f"  {name}: {steps} of {end.step} steps; {counted}; model {end.model_sha256[:8]}")
    picture = options.out / "who.png"
    plot_presence([path for name in names for path in (options.out / name).glob("events-*.jsonl")], picture)
    print(f"who was there when: {picture}")


if __name__ == "__main__":
    main()
