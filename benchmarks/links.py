"""Devices in network namespaces of their own, each behind a link that is shaped; a hub; what their runs say.

Parts of ``shaped_links.py`` and ``hub_links.py``; they need root and iproute2.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

DEVICES = 4
NAMES = [f"cam-{rank}" for rank in range(DEVICES)]
PORT = 29533
HUB_ADDRESS, HUB_PORT = "10.77.0.254", 29534
#: Of the bytes of frames in both directions.
PAYLOAD = 1448 / (1514 + 66 / 2)
START_S, RUN_S = 120, 600


class Namespaces:
    """A bridge and four devices, each with one link to it; everything goes away with the namespaces.

    At the bridge is also the place of a hub, whose own end is not shaped.
    """

    def __init__(self) -> None:
        self.hub = f"scadles-{os.getpid()}-hub"
        self.devices = [f"scadles-{os.getpid()}-{rank}" for rank in range(DEVICES)]

    def __enter__(self) -> Namespaces:
        try:
            for name in (self.hub, *self.devices):
                command("ip", "netns", "add", name)
            command("ip", "-n", self.hub, "link", "add", "bridge", "type", "bridge")
            command("ip", "-n", self.hub, "addr", "add", f"{HUB_ADDRESS}/24", "dev", "bridge")
            command("ip", "-n", self.hub, "link", "set", "bridge", "up")
            for rank, name in enumerate(self.devices):
                end = f"to{rank}"
                command("ip", "-n", name, "link", "add", "eth0", "type", "veth", "peer", "name", end, "netns", self.hub)
                command("ip", "-n", self.hub, "link", "set", end, "master", "bridge", "up")
                command("ip", "-n", name, "addr", "add", f"10.77.0.{rank + 1}/24", "dev", "eth0")
                for interface in ("lo", "eth0"):
                    command("ip", "-n", name, "link", "set", interface, "up")
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        there = subprocess.run(["ip", "netns", "list"], capture_output=True, text=True, check=True).stdout
        there = {line.split()[0] for line in there.splitlines() if line}
        for name in (self.hub, *self.devices):
            if name in there:
                command("ip", "netns", "del", name)

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
                command("tc", "-n", where, "qdisc", "replace", "dev", interface, "root", "tbf", *bucket)

    def run(self, arguments: list[str], timeout_s: float, log: Path) -> None:
        """Run ``python ARGUMENTS`` as a device in every namespace and wait for all; the first one's output is kept."""
        started: list[subprocess.Popen[bytes]] = []
        until = time.monotonic() + timeout_s
        with ExitStack() as files:
            try:
                for rank, name in enumerate(self.devices):
                    output = files.enter_context((log if rank == 0 else log.with_suffix(f".{rank}.log")).open("wb"))
                    words = ["ip", "netns", "exec", name, sys.executable, *arguments]
                    started.append(
                        subprocess.Popen(words, env=environment(rank), stdout=output, stderr=subprocess.STDOUT)
                    )
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


def command(*words: str) -> None:
    """Run a command that must not fail."""
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{' '.join(words)}: {done.stderr.strip()}")


def environment(rank: int | None = None) -> dict[str, str]:
    """Return the variables of a process: of a device that meets the others by its rank, or of any other one."""
    path = os.pathsep.join([str(Path(__file__).parent), *filter(None, [os.environ.get("PYTHONPATH")])])
    variables = {**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"}
    if rank is not None:
        variables |= {"RANK": str(rank), "WORLD_SIZE": str(DEVICES), "MASTER_ADDR": "10.77.0.1"}
        variables |= {"MASTER_PORT": str(PORT), "GLOO_SOCKET_IFNAME": "eth0", "RES_OPTIONS": "timeout:1 attempts:1"}
    return variables


class Fleet:
    """A hub and its devices in namespaces, until the run has ended.

    Args:
        links: where they run.
        out: the folder of this run; the devices' are in it.
        given: settings over those of ``run.yaml`` beside it.
        model: what devices let the hub name, with a * for more.
    """

    def __init__(self, links: Namespaces, out: Path, given: list[str], model: str) -> None:
        self.out, self._links, self._files = out, links, ExitStack()
        out.mkdir(parents=True)
        settings = [word for setting in given for word in ("--set", setting)]
        place = f"{HUB_ADDRESS}:{HUB_PORT}"
        hub = ["hub", str(out.parent / "run.yaml"), "--listen", place, "--insecure", "--out", str(out / "hub")]
        self._processes = [self._start(links.hub, "hub", [*hub, *settings])]
        self.until(lambda: f" on {place}" in self.said("hub"), "an address", START_S)
        for namespace, name in zip(links.devices, NAMES, strict=True):
            join = ["join", place, "--insecure", "--name", name, "--out", str(out / name), "--quiet"]
            self._processes.append(self._start(namespace, name, [*join, "--allow", f"model={model}"]))

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
        return steps_in(self.out / NAMES[rank])

    def _start(self, namespace: str, name: str, arguments: list[str]) -> subprocess.Popen[bytes]:
        log = self._files.enter_context((self.out / f"{name}.log").open("wb"))
        words = ["ip", "netns", "exec", namespace, sys.executable, "-m", "scadles", *arguments]
        variables = {**environment(), "PYTHONUNBUFFERED": "1"}
        return subprocess.Popen(words, env=variables, stdout=log, stderr=subprocess.STDOUT)

    def _words(self) -> str:
        return "\n".join(f"{path.name}: {path.read_text()[-1000:]}" for path in sorted(self.out.glob("*.log")))


def steps_in(folder: Path, files: str = "events-*.jsonl") -> list[dict[str, Any]]:
    """Return the events of steps that are in a folder and those below, so far."""
    found = [line for path in folder.rglob(files) for line in path.read_text().splitlines(keepends=True)]
    events = [json.loads(line) for line in found if line.endswith("\n")]
    return [event for event in events if event["event"] == "step"]


def busy_s(run: Path) -> float:
    """Return how long a step takes from when the last device has its batch: the median over steps."""
    each: dict[int, list[float]] = {}
    for event in steps_in(run):
        each.setdefault(event["step"], []).append(event["compute_s"] + event["sync_s"])
    return statistics.median(min(times) for times in each.values())
