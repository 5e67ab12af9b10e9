"""What a hub shows while its run goes on: who comes and goes, and now and then how things are."""

from __future__ import annotations

from contextlib import suppress
from types import TracebackType
from typing import TYPE_CHECKING, ClassVar

from rich.console import Console
from rich.live import Live
from rich.text import Text

from scadles.clock import wall_seconds
from scadles.observe.console import plain_line

if TYPE_CHECKING:
    from typing_extensions import Self


class HubProgress:
    """Shows lines on standard output; the last one is renewed on a terminal, and printed now and then elsewhere.

    Any thread may call it.

    Args:
        quiet: show nothing at all.
        console: where to show it; standard output by default.

    Attributes:
        every_s: wall seconds between two lines of state where there is no terminal.
    """

    every_s: ClassVar[float] = 10.0

    def __init__(self, *, quiet: bool, console: Console | None = None) -> None:
        self._console = console or Console()
        self._quiet = quiet
        self._live: Live | None = None
        self._due_s = wall_seconds() + self.every_s

    def __enter__(self) -> Self:
        if not self._quiet and self._console.is_terminal:
            self._live = Live(console=self._console, auto_refresh=False, transient=True)
            self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._live is not None:
            self._live.stop()
            self._live = None

    def say(self, line: str) -> None:
        """Show a line that stays; one that cannot be shown, as on a full disk, ends nothing."""
        if not self._quiet:
            with suppress(OSError):
                self._console.print(Text(plain_line(line)), soft_wrap=True)

    def state(self, line: str) -> None:
        """Show how things are, if it is time to."""
        if self._live is not None:
            self._live.update(Text(plain_line(line)), refresh=True)
        elif wall_seconds() >= self._due_s:
            self._due_s = wall_seconds() + self.every_s
            self.say(line)
