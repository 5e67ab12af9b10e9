"""What brokers on loopback have in common: one process, with a port for clients."""

from __future__ import annotations

import random
import signal
import socket
import subprocess
from abc import ABC, abstractmethod
from contextlib import suppress
from types import TracebackType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from typing_extensions import Self

# from the system: tests seed the other one, all alike
_RANDOM = random.SystemRandom()
_BELOW_EPHEMERAL = 15_000, 32_000


def free_port() -> int:
    """Return a TCP port of loopback that nobody uses, and that the kernel gives to nobody who asks for just any."""
    while True:
        port = _RANDOM.randrange(*_BELOW_EPHEMERAL)
        with socket.socket() as probe, suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port


class BrokerProcess(ABC):
    """A server that can be started, stopped, killed and started again; a context manager starts and stops it.

    Attributes:
        port: of clients, without password or encryption.
    """

    port: int
    #: Seconds to end in after :meth:`stop`; then it is killed.
    stop_s = 30.0
    _process: subprocess.Popen[bytes] | None = None

    @property
    def address(self) -> str:
        """``host:port`` for clients."""
        return f"127.0.0.1:{self.port}"

    @property
    def pid(self) -> int | None:
        """Process id while it runs."""
        return self._process.pid if self._process else None

    @abstractmethod
    def start(self) -> None:
        """Start it, again or for the first time; return when it answers."""

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
            process.wait(self.stop_s)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait(self.stop_s)
