"""N devices as processes on this machine: one process imports everything, then forks the devices.

A device is a child of the launcher, in a session of its own, with the environment that torchrun would give it. Devices
meet in a file of a folder that only this user can read. The launcher has no other thread, so that forking is safe.
"""

from __future__ import annotations

import gc
import json
import os
import signal
import sys
from collections.abc import Callable
from contextlib import suppress
from multiprocessing import get_context
from multiprocessing.connection import Connection, wait
from pathlib import Path
from tempfile import TemporaryDirectory
from threading import Event, Thread
from types import FrameType
from typing import Any, NamedTuple

from scadles.clock import wall_seconds
from scadles.errors import ConfigError, FabricError, PeerLostError, ScadlesError

_STOPS = (signal.SIGTERM, signal.SIGINT)
_LOOK_S = 0.2
# between the wish that a device ends and its end
GRACE_S = 30.0
_GRACE_OF_LOST_S = 1.0


class LaunchError(FabricError):
    """A device process ended with an error.

    Attributes:
        exit_code: what the command that started the devices should end with.
        resumable: whether to resume the run is a way on.
    """

    def __init__(self, message: str, exit_code: int = FabricError.exit_code, *, resumable: bool = True) -> None:
        super().__init__(message)
        self.exit_code = exit_code
        self.resumable = resumable


def launch_local(
    devices: int, work: Callable[[], object], say: Callable[[str], None], group: Callable[..., Group] | None = None
) -> None:
    """Call ``work()`` in a process for each device and wait for all of them.

    When one fails, the others are asked to stop, and those that have not answered it are killed. On SIGTERM and Ctrl-C
    all are asked to stop, which a running device takes as a wish to write a checkpoint and end. What does not end
    within 30 s is killed. A device whose launcher is gone stops as well.

    Args:
        devices: how many processes.
        work: what a device does.
        say: shows one line, called in the process of a device that fails; a user's mistake is left to the launcher.
        group: makes what watches over the processes; None makes a :class:`Group`.

    Raises:
        LaunchError: a device failed, or the run was stopped by a signal.
        ConfigError: this platform cannot fork.
    """
    if not hasattr(os, "fork"):
        raise ConfigError("--local forks its devices, which this platform cannot: start them with torchrun")
    prepare_environment(devices)
    import scadles.training.run  # noqa: F401  what all devices need is imported once

    # devices meet in a file that only this user may open: no port, and nothing that dies with a process
    with TemporaryDirectory(prefix="scadles-", ignore_cleanup_errors=True) as folder:
        with (group or Group)(devices, work, say, Path(folder) / "rendezvous") as watching:
            watching.join()
        watching.check()


class _Child(NamedTuple):
    """A device's process, and the pipe on which it says why it fails."""

    process: Any
    report: Connection


class _Report(NamedTuple):
    """Why a device failed, which others had not answered it, and whether to resume is a way on."""

    message: str
    lost: tuple[int, ...]
    resumable: bool


class Group:
    """The processes of all devices; entering it forks them, leaving it leaves none behind."""

    def __init__(self, devices: int, work: Callable[[], object], say: Callable[[str], None], rendezvous: Path) -> None:
        self._children: list[_Child] = []
        self._handlers: dict[signal.Signals, Any] = {}
        self._kill_at_s: dict[int, float] = {}
        self._failed: dict[int, _Report | None] = {}
        self._lost: set[int] = set()
        self._stopped_by: signal.Signals | None = None
        context = get_context("fork")
        for rank in range(devices):
            report, sending = context.Pipe(duplex=False)
            arguments = (rank, devices, work, say, rendezvous, sending, os.getpid())
            self._children.append(_Child(context.Process(target=_be_device, args=arguments), report))

    def __enter__(self) -> Group:
        gc.freeze()  # so that collections in the devices do not copy what they share
        signal.pthread_sigmask(signal.SIG_BLOCK, _STOPS)  # a signal waits until all devices are there to hear of it
        for child in self._children:
            child.process.start()
        for number in _STOPS:
            self._handlers[number] = signal.getsignal(number)
            if self._handlers[number] is not signal.SIG_IGN:
                signal.signal(number, self._on_signal)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, _STOPS)
        return self

    def __exit__(self, *_: object) -> None:
        for process, _report in self._children:
            process.kill()
            process.join()
        for number, handler in self._handlers.items():
            signal.signal(number, handler)

    def join(self) -> None:
        """Wait until all devices have ended."""
        running = dict(enumerate(self._children))
        while running:
            wait([child.process.sentinel for child in running.values()], _LOOK_S)
            now_s = wall_seconds()
            self._look(now_s)
            for rank, (process, report) in list(running.items()):
                if process.exitcode is None:
                    if now_s >= self._kill_at_s.get(rank, now_s + 1):
                        process.kill()
                    continue
                del running[rank]
                ended_by_us = rank in self._kill_at_s and process.exitcode in (-signal.SIGTERM, -signal.SIGKILL)
                if process.exitcode and not ended_by_us:
                    self._fail(rank, _read(report))

    def check(self) -> None:
        """Raise what must be said of how the devices ended: a user's mistake first, then whoever failed by itself."""
        if self._stopped_by is not None:
            raise LaunchError(f"stopped by {self._stopped_by.name}", 128 + self._stopped_by)
        codes = {rank: int(self._children[rank].process.exitcode) for rank in self._failed}
        for rank, report in self._failed.items():
            if report is not None and codes[rank] == ConfigError.exit_code:
                raise LaunchError(report.message, codes[rank])
        # that others were lost is what came of it, and may have been seen first
        for rank, code in sorted(codes.items(), key=lambda failed: failed[1] == FabricError.exit_code):
            if code < 0:
                raise LaunchError(f"device {rank} {how_it_ended(code)}")
            if any(report is not None and not report.resumable for report in self._failed.values()):
                raise LaunchError(f"device {rank} {how_it_ended(code)}", code, resumable=False)
            if code == FabricError.exit_code:
                silent = ", ".join(f"device {lost}" for lost in sorted(self._lost))
                raise LaunchError(
                    f"{silent} did not answer" if silent else "a device was lost, as the others say above"
                )
            raise LaunchError(f"device {rank} {how_it_ended(code)}", code)

    def _look(self, now_s: float) -> None:
        """Called again and again while devices run."""

    def _fail(self, rank: int, report: _Report | None) -> None:
        """Take note of a failure: the others cannot go on without this device."""
        if not self._failed:
            self._ask_to_stop()
        self._failed[rank] = report
        for lost in report.lost if report else ():
            if self._children[lost].process.exitcode is None:
                self._lost.add(lost)
                self._kill_at_s[lost] = wall_seconds() + _GRACE_OF_LOST_S

    def _on_signal(self, number: int, _frame: FrameType | None) -> None:
        self._stopped_by = self._stopped_by or signal.Signals(number)
        self._ask_to_stop()

    def _ask_to_stop(self) -> None:
        """Ask all devices to stop; they have a while to do so."""
        for rank, (process, _) in enumerate(self._children):
            if process.exitcode is None:
                self._kill_at_s.setdefault(rank, wall_seconds() + GRACE_S)
                os.kill(process.pid, signal.SIGTERM)


def how_it_ended(code: int) -> str:
    """Return an exit code in words.

    >>> how_it_ended(-9), how_it_ended(1)
    ('was killed by SIGKILL', 'ended with exit code 1')
    """
    return f"was killed by {signal.Signals(-code).name}" if code < 0 else f"ended with exit code {code}"


def _read(report: Connection) -> _Report | None:
    """Return what a device that has ended said of its failure; None of one that could not."""
    try:
        if not report.poll():
            return None
        said = json.loads(report.recv_bytes())
    except (EOFError, OSError):
        return None
    return _Report(said["message"], tuple(said["lost"]), said["resumable"])


def _be_device(
    rank: int,
    devices: int,
    work: Callable[[], object],
    say: Callable[[str], None],
    rendezvous: Path,
    report: Connection,
    launcher: int,
) -> None:
    """Be one device: the first function of a forked process."""
    os.setsid()  # a terminal's Ctrl-C reaches the launcher, which passes it on
    for number in _STOPS:
        ignored = signal.getsignal(number) is signal.SIG_IGN
        usual = signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL
        signal.signal(number, signal.SIG_IGN if ignored else usual)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, _STOPS)
    Thread(target=_stop_with, args=(launcher,), daemon=True).start()
    with suppress(OSError):  # as ps and top show it
        Path("/proc/self/comm").write_text(f"device {rank}")
    from scadles.fabric.rendezvous import RENDEZVOUS_FILE

    os.environ |= {
        "RANK": str(rank),
        "LOCAL_RANK": str(rank),
        "WORLD_SIZE": str(devices),
        "LOCAL_WORLD_SIZE": str(devices),
        "MASTER_ADDR": "127.0.0.1",
        RENDEZVOUS_FILE: str(rendezvous),
    }
    try:
        work()
    except ScadlesError as error:
        lost = error.devices if isinstance(error, PeerLostError) else ()
        said = {"message": str(error), "lost": lost, "resumable": error.resumable}
        report.send_bytes(json.dumps(said).encode())
        if error.exit_code != ConfigError.exit_code:
            say(f"device {rank}: {error}")
        sys.exit(error.exit_code)
    except KeyboardInterrupt:
        sys.exit(128 + signal.SIGINT)


def _stop_with(launcher: int) -> None:
    """End when the launcher is gone: at once where the run has not begun, else in order, but within a while.

    The rendezvous stays: torch waits for a file that is not there, and a device that finds its peers gone looks at it.
    """
    pause = Event()
    while os.getppid() == launcher:
        pause.wait(_LOOK_S)
    os.kill(os.getpid(), signal.SIGTERM)
    pause.wait(GRACE_S)
    os._exit(128 + signal.SIGTERM)


def prepare_environment(devices: int) -> None:
    """Set what must be set before torch is imported."""
    if hasattr(os, "SCHED_BATCH"):
        # more processes than cores: fewer preemptions make small all-reduces several times faster
        os.sched_setscheduler(0, os.SCHED_BATCH, os.sched_param(0))
    os.environ.setdefault("RES_OPTIONS", "timeout:1 attempts:1")  # else a slow name server delays every connection
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // devices)))
