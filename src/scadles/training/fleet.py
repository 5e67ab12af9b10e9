"""A hub and its devices on one machine: the launcher is the hub, and goes on without devices that are lost.

It listens before it forks the devices, and begins to answer, with threads, afterwards. All devices have one run folder;
the hub's journal lies in it.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from threading import Event
from typing import TYPE_CHECKING, Any

from scadles.config import FabricConfig, RunConfig, load_config
from scadles.errors import ConfigError, LeftError
from scadles.observe.console import print_note
from scadles.training.launch import GRACE_S, Group, LaunchError, how_it_ended, launch_local, prepare_environment
from scadles.training.lock import alone_in

if TYPE_CHECKING:
    from typing_extensions import Self

    from scadles.fabric.hub import Hub

_LAST_WORDS_S = 2.0


def launch_fleet(
    settings: RunConfig,
    run_dir: Path,
    say: Callable[[str], None],
    fail: Callable[[str], None],
    *,
    resume: bool,
    quiet: bool,
) -> None:
    """Start a hub and ``settings.devices`` devices, and wait for the end of their run.

    The first step takes all devices, later ones those that are left, as long as they are ``fabric.min_devices``. Nobody
    starts a lost device again. Signals, and what becomes of devices whose launcher is gone, are those of
    :func:`.launch_local`.

    Args:
        settings: the run.
        run_dir: the folder of all devices.
        say: shows one line about who comes and goes.
        fail: shows one line, called in the process of a device that fails.
        resume: go on with the run in that folder, by the hub's journal and each device's newest checkpoint.
        quiet: show no progress.

    Raises:
        LaunchError: too few devices are left, all failed, or the run was stopped by a signal.
        ConfigError: the folder cannot be used.
    """
    devices = settings.devices
    prepare_environment(devices)
    _check_folder(settings, run_dir, resume=resume)
    from scadles.assembly.hub import build_hub, build_journal
    from scadles.training.from_hub import allowing

    with alone_in(run_dir), build_journal(settings, run_dir, print_note) as journal:
        for rank in range(devices):
            journal.seat(_name(rank), rank)
        serving = build_hub(settings, "127.0.0.1", 0, journal, say, least=devices)
        try:
            work = partial(_take_part, serving, run_dir, allowing(settings), quiet=quiet)
            launch_local(devices, work, fail, partial(_Fleet, serving, settings.fabric, say))
        finally:
            serving.close()


def _take_part(serving: Hub, run_dir: Path, allow: Mapping[str, Any], *, quiet: bool) -> None:
    """Be one device, which allows what its launcher's settings name."""
    from scadles.training.run import train

    serving.forget()
    rank, (host, port) = int(os.environ["RANK"]), serving.address
    try:
        train(allow, hub=f"{host}:{port}", name=_name(rank), out=run_dir, quiet=quiet or rank != 0, insecure=True)
    except LeftError:
        return


def _name(rank: int) -> str:
    return f"device-{rank}"


class _Fleet(Group):
    """The processes of devices, of which some may be lost."""

    def __init__(
        self, serving: Hub, fabric: FabricConfig, say: Callable[[str], None], devices: int, *arguments: Any
    ) -> None:
        super().__init__(devices, *arguments)
        self._serving = serving
        self._least = fabric.min_devices
        self._grace_s = min(GRACE_S, fabric.deadline_s)
        self._say = say
        self._left = devices
        self._begun = False
        self._too_few = ""

    def __enter__(self) -> Self:
        super().__enter__()
        self._serving.start()
        return self

    def check(self) -> None:
        if self._stopped_by is None and self._too_few:
            raise LaunchError(self._too_few)
        give_up = Event()
        for _ in range(20):  # its last word may still be on its way through the hub
            if self._serving.ended_by or self._stopped_by is not None:
                break
            give_up.wait(_LAST_WORDS_S / 20)
        if self._stopped_by is not None or not self._serving.ended_by:
            super().check()
            if not self._serving.ended_by:
                raise LaunchError("all devices have left before the run had ended")
        elif self._failed:
            lost = ", ".join(f"device {rank}" for rank in sorted(self._failed))
            self._say(f"the run has ended ({self._serving.ended_by}) without {lost}, lost on the way")

    def _look(self, now_s: float) -> None:
        self._begun = self._begun or bool(self._serving.members())
        self._serving.need(self._least if self._begun else max(1, self._left))
        if self._serving.ended_by:  # who has hung until now misses the end
            for rank in range(len(self._children)):
                self._kill_at_s.setdefault(rank, now_s + self._grace_s)

    def _fail(self, rank: int, report: Any) -> None:
        self._failed[rank] = report
        self._left -= 1
        code = int(self._children[rank].process.exitcode)
        if self._stopped_by is not None or self._too_few:
            return
        if code == ConfigError.exit_code and not self._begun:
            self._ask_to_stop()
        elif self._begun and self._left < self._least and not self._serving.ended_by:
            self._too_few = f"device {rank} {how_it_ended(code)}, and fabric.min_devices = {self._least}: "
            self._too_few += f"the {self._left} that are left have stopped"
            self._ask_to_stop()
        elif self._left:
            self._say(f"device {rank} {how_it_ended(code)}; the others go on")


def _check_folder(settings: RunConfig, run_dir: Path, *, resume: bool) -> None:
    """Refuse a folder that a run of a hub cannot begin or go on in, or values to begin with that are nowhere."""
    from scadles.fabric.hub import JOURNAL_FILE
    from scadles.observe import CONFIG_FILE, occupied
    from scadles.training.lock import RunLock
    from scadles.training.starting_values import WAY_OUT

    devices = settings.devices
    if problem := RunLock(run_dir, 0).in_use():
        raise ConfigError(problem)
    if not resume:
        for device in range(devices):
            if problem := occupied(run_dir, device, resumable=True):
                raise ConfigError(problem)
        if settings.init_from is not None and not settings.init_from.exists():
            raise ConfigError(f"init_from = {settings.init_from}: No such file or directory; {WAY_OUT}")
        return
    if not (run_dir / JOURNAL_FILE).exists() or not (run_dir / CONFIG_FILE).exists():
        raise ConfigError(f"{run_dir} holds no run of a hub that could go on: leave --resume out, or name its folder")
    before = load_config(run_dir / CONFIG_FILE).devices
    if before != devices:
        raise ConfigError(
            f"{run_dir} has seats for {before} devices, to which the data was dealt: go on with --local {before}"
        )
