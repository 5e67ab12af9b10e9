"""Who of a group is still there: asked in the rendezvous store once the connections between its devices have failed."""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from scadles.clock import wall_seconds
from scadles.fabric.rendezvous import spans_hosts

# While all others live, one that hangs must not hold up the end. Once a process has ended, the break is explained, and
# a device that is only slow to notice it, on a busy machine, has time to answer.
_HUNG_S = 3.0
_SLOW_S = 15.0
_POLL_S = 0.05


class RollCall:
    """One device's part in finding out who is missing.

    Args:
        store: where the devices of the group meet.
        rank: this device.
        size: how many devices there are.
        sleep: lets wall seconds pass.
    """

    def __init__(self, store: Any, rank: int, size: int, sleep: Callable[[float], None]) -> None:
        self._store = store
        self._rank = rank
        self._size = size
        self._sleep = sleep
        self._unreachable = [] if rank == 0 else [0]  # if the store is: without an agent, device 0 keeps it

    def arrive(self) -> None:
        """Say that this device is there, and as which process."""
        self._store.set(f"joined/{self._rank}", str(os.getpid()))

    def not_arrived(self) -> list[int]:
        """Return who has not arrived so far."""
        try:
            return self._without("joined")
        except RuntimeError:
            return self._unreachable

    def not_alive(self) -> list[int]:
        """Answer, and return who does not: at once if their processes have ended, else after a while."""
        start_s = wall_seconds()
        missing = self._unreachable
        with suppress(RuntimeError):  # the store goes with the device that keeps it: what was known till then counts
            self._store.set(f"alive/{self._rank}", "1")
            while missing := self._without("alive"):
                ended = [rank for rank in missing if self._has_ended(rank)]
                if len(ended) == len(missing) or wall_seconds() > start_s + (_SLOW_S if ended else _HUNG_S):
                    break
                self._sleep(_POLL_S)
        return missing

    def _without(self, call: str) -> list[int]:
        """Return who has no entry of this kind in the store."""
        return [rank for rank in range(self._size) if not self._store.check([f"{call}/{rank}"])]

    def _has_ended(self, rank: int) -> bool:
        """Whether a device's process is known to have ended, which only devices of one host can tell."""
        if spans_hosts() or not self._store.check([f"joined/{rank}"]):
            return False
        return _is_over(int(self._store.get(f"joined/{rank}")))


def _is_over(pid: int) -> bool:
    """Whether there is no such process, or only its exit code is left (a zombie, which Linux tells)."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    except OSError:  # it belongs to another user
        return False
    with suppress(OSError):
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] in "ZX"
    return False
