"""What a hub says of connections that it refuses: the first ones each in a line, very many in one line a minute."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from threading import Lock

from scadles.clock import wall_seconds
from scadles.security import Limits, Rate

_LINES_OF_ONE = Rate(hz=0.1, burst=8)
_LINES = Rate(hz=1.0, burst=64)
_EVERY_S = 60.0
_MOST_ADDRESSES = 1024
_MOST_NAMED = 3


class Refusals:
    """Counts refused connections, and tells of them without flooding whoever reads that.

    Any thread may call it.

    Args:
        say: told one line.
        now: returns monotonic seconds.

    Attributes:
        count: of all so far.
    """

    def __init__(self, say: Callable[[str], None], now: Callable[[], float] = wall_seconds) -> None:
        self.count = 0
        self._say = say
        self._now = now
        self._lock = Lock()
        self._lines = Limits(_LINES_OF_ONE, _LINES)
        self._untold: Counter[str] = Counter()
        self._why: dict[str, str] = {}
        self._due_s = now() + _EVERY_S

    def add(self, address: str, why: str, who: str = "") -> None:
        """Take note of one, and tell of it if its address has not had many lines.

        Args:
            address: that it came from.
            why: it was refused.
            who: what it calls itself, with its address; empty if it has not said.
        """
        with self._lock:
            self.count += 1
            is_told = self._lines.take(address, self._now())
            if not is_told and (address in self._untold or len(self._untold) < _MOST_ADDRESSES):
                self._untold[address] += 1
                self._why[address] = why
            elif not is_told:
                self._untold[""] += 1
        if is_told:
            self._say(f"{who or address} was refused: {why}")

    def tell(self) -> None:
        """Tell of those that had no line of their own, at most once a minute."""
        with self._lock:
            if self._now() < self._due_s:
                return
            self._due_s = self._now() + _EVERY_S
            untold, why = self._untold, self._why
            self._untold, self._why = Counter(), {}
        if untold:
            self._say(_summed_up(untold, why))


def _summed_up(untold: Counter[str], why: dict[str, str]) -> str:
    """Return one line on all of them: most of them by address, with the last reason of each."""
    named = [address for address, _ in untold.most_common(_MOST_NAMED + 1) if address][:_MOST_NAMED]
    parts = [f"{untold[address]:,} of {address} (the last one: {why[address]})" for address in named]
    if rest := untold.total() - sum(untold[address] for address in named):
        parts.append(f"{rest:,} of others")
    many = untold.total()
    return f"refused {many:,} more connection{'s' * (many != 1)} in the last minute: {', '.join(parts)}"
