"""Hub, devices and publisher as processes that are killed, stopped and started again, and how far they have come."""

from __future__ import annotations

import faulthandler
import json
import os
import signal
import sys
import time
from dataclasses import dataclass, field
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import scadles.cli.hub
import scadles.cli.publish
import scadles.training.run  # noqa: F401  imported once, for all processes
from scadles.cli.app import main as scadles_main
from scadles.fabric.hub import HubFabric


@dataclass
class Process:
    """A hub, a device or a publisher, over all the processes that it is one after the other."""

    name: str
    arguments: list[str]
    folder: Path
    now: Any = None
    started_s: float = 0.0
    starts_at_s: float = 0.0
    goes_on_at_s: float = 0.0
    is_stopped: bool = False
    codes: list[int] = field(default_factory=list)
    was_killed: bool = False
    ends_with: int = 0
    was_ended: bool = False

    @property
    def said(self) -> Path:
        return self.folder / f"{self.name}.txt"

    @property
    def times(self) -> Path:
        return self.folder / f"{self.name}.times"

    @property
    def runs(self) -> bool:
        return self.now is not None and self.now.exitcode is None

    def start(self) -> None:
        self.started_s, self.was_killed, self.is_stopped = time.monotonic(), False, False
        self.now = get_context("fork").Process(target=_be_scadles, args=(self.arguments, self.said, self.times))
        self.now.start()

    def kill(self, back_s: float) -> None:
        self.was_killed, self.starts_at_s = True, time.monotonic() + back_s
        os.kill(self.now.pid, signal.SIGKILL)
        self.now.join()
        self.codes.append(self.now.exitcode)

    def end(self) -> None:
        """Ask it, once, to end in an orderly way."""
        if self.runs and not self.was_ended:
            self.was_ended = True
            os.kill(self.now.pid, signal.SIGINT)

    def stop(self, for_s: float) -> None:
        self.is_stopped, self.goes_on_at_s = True, time.monotonic() + for_s
        os.kill(self.now.pid, signal.SIGSTOP)

    def look(self) -> None:
        """Start what was killed and let go on what was stopped, when it is time to."""
        now_s = time.monotonic()
        if self.is_stopped and self.runs and now_s >= self.goes_on_at_s:
            self.is_stopped = False
            os.kill(self.now.pid, signal.SIGCONT)
        if self.was_killed and now_s >= self.starts_at_s:
            self.start()


def _be_scadles(arguments: list[str], said: Path, times: Path) -> None:
    os.setsid()
    signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored in what a shell starts in the background
    descriptor = os.open(said, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(descriptor, 1)
    os.dup2(descriptor, 2)
    faulthandler.register(signal.SIGUSR1)  # says where a process hangs
    enter, since_s = HubFabric.enter, time.monotonic()

    def timed(self: HubFabric, step: int) -> Any:
        ready_s = time.monotonic()
        view = enter(self, step)
        with times.open("a") as file:
            file.write(json.dumps([ready_s - since_s, time.monotonic() - ready_s]) + "\n")
        HubFabric.enter = enter  # type: ignore[method-assign]
        return view

    HubFabric.enter = timed  # type: ignore[method-assign]
    sys.argv = ["scadles", *arguments]
    scadles_main()


class Tail:
    """The last step in a file of events, as it grows, and when the last test was."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._files: dict[Path, int] = {}
        self.step, self.time_s, self.tested_s = 0, 0.0, 0.0

    def look(self) -> int:
        for path in self._folder.glob("events-*.jsonl"):
            size = path.stat().st_size
            if size == self._files.get(path, 0):
                continue
            self._files[path] = size
            with path.open("rb") as file:
                file.seek(max(0, size - 4096))
                for line in file.read().split(b"\n")[1:-1]:
                    said = json.loads(line)
                    self.step, self.time_s = said["step"], said["time_s"]
                    self.tested_s = said["time_s"] if said["event"] == "evaluation" else self.tested_s
        return self.step
