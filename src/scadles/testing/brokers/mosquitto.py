"""A real Mosquitto broker on loopback, to test against and to play with."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
from collections.abc import Sequence
from pathlib import Path

from scadles.clock import WallClock, wall_seconds
from scadles.errors import RunError
from scadles.testing.brokers.process import BrokerProcess, free_port

#: What is missing where :func:`mosquitto_program` is.
HOW_TO_PROVIDE = "needs Mosquitto 2: install Debian's package mosquitto, or put the program mosquitto into PATH"
_DEBIAN = Path("/usr/sbin/mosquitto")
_START_S = 30.0


def mosquitto_program() -> Path | None:
    """Return where the broker's program is; None where there is none."""
    found = shutil.which("mosquitto")
    return Path(found) if found else _DEBIAN if _DEBIAN.exists() else None


class Mosquitto(BrokerProcess):
    """One broker. Its sessions outlive it in ``folder``, so that it can be killed and started again.

    Sessions are written to the disk every second, and queues have no limit but memory. Use it as a context manager, or
    call :meth:`start` and :meth:`stop`.

    Args:
        folder: for sessions, configuration and the broker's log (``mosquitto.log``).
        lines: of the configuration, in place of ``allow_anonymous true``.
        persistence: whether sessions survive the broker.

    Attributes:
        port: of clients, the same after a restart.
        folder: as given.

    Raises:
        RunError: there is no Mosquitto, or it does not start.
    """

    stop_s = 15.0

    def __init__(
        self, folder: Path, lines: Sequence[str] = ("allow_anonymous true",), *, persistence: bool = True
    ) -> None:
        program = mosquitto_program()
        if program is None:
            raise RunError(HOW_TO_PROVIDE)
        self.port = free_port()
        self._program = program
        self.folder = folder
        self._lines = lines
        self._persistence = persistence

    def start(self) -> None:
        """Start it, again or for the first time; return when it answers."""
        self.folder.mkdir(parents=True, exist_ok=True)
        configuration = self.folder / "mosquitto.conf"
        configuration.write_text("".join(f"{line}\n" for line in self._configuration()))
        with (self.folder / "mosquitto.log").open("ab") as log:
            self._process = subprocess.Popen(  # noqa: S603
                [str(self._program), "-c", str(configuration)], stdout=log, stderr=log
            )
        deadline_s = wall_seconds() + _START_S
        while not _answers(self.port):
            if self._process.poll() is not None or wall_seconds() > deadline_s:
                said = (self.folder / "mosquitto.log").read_text(errors="replace")[-500:]
                self.kill()
                raise RunError(f"the broker in {self.folder} does not start: {said}")
            WallClock().sleep(0.02)

    def _configuration(self) -> list[str]:
        kept = [f"persistence_location {self.folder.resolve()}/", "autosave_interval 1"]
        return [
            f"listener {self.port} 127.0.0.1",
            "max_queued_messages 0",
            "log_dest stderr",
            *(["user root"] if os.geteuid() == 0 else ()),  # else it becomes somebody who may not write here
            f"persistence {'true' if self._persistence else 'false'}",
            *(kept if self._persistence else ()),
            *self._lines,
        ]


def _answers(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), timeout=1.0).close()
    except OSError:
        return False
    return True
