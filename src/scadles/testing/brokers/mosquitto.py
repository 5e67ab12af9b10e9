"""A real Mosquitto broker on loopback, to test against and to play with."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

from scadles.clock import WallClock, wall_seconds
from scadles.errors import RunError

#: What is missing where :func:`mosquitto_program` is.
HOW_TO_PROVIDE = "needs Mosquitto 2: install Debian's package mosquitto, or put the program mosquitto into PATH"
_DEBIAN = Path("/usr/sbin/mosquitto")
_START_S = 30.0
_STOP_S = 15.0


def mosquitto_program() -> Path | None:
    """Return where the broker's program is; None where there is none."""
    found = shutil.which("mosquitto")
    return Path(found) if found else _DEBIAN if _DEBIAN.exists() else None


class Mosquitto:
    """One broker. Its sessions outlive it in ``folder``, so that it can be killed and started again.

    Sessions are written to the disk every second, and queues have no limit but memory. Use it as a context manager, or
    call :meth:`start` and :meth:`stop`.

    Args:
        folder: for sessions, configuration and the broker's log (``mosquitto.log``).
        lines: of the configuration, in place of ``allow_anonymous true``.
        persistence: whether sessions survive the broker.

    Attributes:
        port: of clients, the same after a restart.

    Raises:
        RunError: there is no Mosquitto, or it does not start.
    """

    def __init__(
        self, folder: Path, lines: Sequence[str] = ("allow_anonymous true",), *, persistence: bool = True
    ) -> None:
        program = mosquitto_program()
        if program is None:
            raise RunError(HOW_TO_PROVIDE)
        self.port = _free_port()
        self._program = program
        self._folder = folder
        self._lines = lines
        self._persistence = persistence
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def address(self) -> str:
        """``host:port`` for clients."""
        return f"127.0.0.1:{self.port}"

    @property
    def pid(self) -> int | None:
        """Process id while it runs."""
        return self._process.pid if self._process else None

    def start(self) -> None:
        """Start it, again or for the first time; return when it answers."""
        self._folder.mkdir(parents=True, exist_ok=True)
        configuration = self._folder / "mosquitto.conf"
        configuration.write_text("".join(f"{line}\n" for line in self._configuration()))
        with (self._folder / "mosquitto.log").open("ab") as log:
            self._process = subprocess.Popen(  # noqa: S603
                [str(self._program), "-c", str(configuration)], stdout=log, stderr=log
            )
        deadline_s = wall_seconds() + _START_S
        while not _answers(self.port):
            if self._process.poll() is not None or wall_seconds() > deadline_s:
                said = (self._folder / "mosquitto.log").read_text(errors="replace")[-500:]
                self.kill()
                raise RunError(f"the broker in {self._folder} does not start: {said}")
            WallClock().sleep(0.02)

    def stop(self) -> None:
        """Let it end in an orderly way. Stopping twice is no error."""
        self._end(signal.SIGTERM)

    def kill(self) -> None:
        """End it as a power cut would (SIGKILL)."""
        self._end(signal.SIGKILL)

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def _end(self, how: int) -> None:
        process, self._process = self._process, None
        if process is None:
            return
        process.send_signal(how)
        try:
            process.wait(_STOP_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait(_STOP_S)

    def _configuration(self) -> list[str]:
        kept = [f"persistence_location {self._folder.resolve()}/", "autosave_interval 1"]
        return [
            f"listener {self.port} 127.0.0.1",
            "max_queued_messages 0",
            "log_dest stderr",
            *(["user root"] if os.geteuid() == 0 else ()),  # else it becomes somebody who may not write here
            f"persistence {'true' if self._persistence else 'false'}",
            *(kept if self._persistence else ()),
            *self._lines,
        ]


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _answers(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), timeout=1.0).close()
    except OSError:
        return False
    return True
