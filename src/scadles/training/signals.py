"""SIGTERM and Ctrl-C as a wish to stop after the present step."""

from __future__ import annotations

import os
import signal
import threading
from types import FrameType, TracebackType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from typing_extensions import Self


class StopRequest:
    """While entered, turns the first SIGTERM or SIGINT into a flag; a second one acts as usual.

    A signal that this process was told to ignore stays ignored: a shell starts what runs in the background that way,
    so that Ctrl-C is for the foreground only. Does nothing outside the main thread, where Python delivers no signals.
    """

    def __init__(self) -> None:
        self._asked = False
        self._by = signal.SIGTERM
        self._previous: dict[int, Any] = {}
        # under an elastic launcher a process must not outlive it; elsewhere parents come and go (nohup, a closed shell)
        self._launcher = os.getppid() if "TORCHELASTIC_RUN_ID" in os.environ else None

    @property
    def wanted(self) -> bool:
        """Whether the run should end after the present step."""
        return self._asked or (self._launcher is not None and os.getppid() != self._launcher)

    @property
    def exit_code(self) -> int:
        """What a shell expects of a process that ends because of the signal."""
        return 128 + self._by

    def ask(self) -> None:
        """Ask for the end, as a signal would."""
        self._asked = True

    def __enter__(self) -> Self:
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGTERM, signal.SIGINT):
                if signal.getsignal(number) is not signal.SIG_IGN:
                    self._previous[number] = signal.signal(number, self._on_signal)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._restore()

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        self._asked, self._by = True, signal.Signals(number)
        self._restore()

    def _restore(self) -> None:
        while self._previous:
            signal.signal(*self._previous.popitem())
