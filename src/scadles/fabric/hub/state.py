"""What a hub can say of its run at any moment."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

_MOST_NAMED = 8


class HubState(NamedTuple):
    """A hub's run at one moment.

    Attributes:
        step: the newest one that was taken.
        members: names of those who take part, by seat.
        seats: how many there may be.
        least: how many must be there for a step.
        following: names of those that take the same steps, and do not count yet.
        waiting: names of those that wait to be admitted.
        awaited: names of those for whom the others wait.
        awaited_s: for how long nothing has come from the slowest of them.
        known: names of all that have ever had a seat.
        refused: connections that were turned away, or ended for what they sent.
        received, sent: bytes, headers included, of all connections so far.
        ended_by: why the run ended; empty before.
    """

    step: int
    members: Sequence[str]
    seats: int
    least: int
    following: Sequence[str]
    waiting: Sequence[str]
    awaited: Sequence[str]
    awaited_s: float
    known: Sequence[str]
    refused: int
    received: int
    sent: int
    ended_by: str

    def line(self) -> str:
        """Return it in one line: how far, who, and whom everybody waits for.

        >>> state = HubState(27, ["a", "b", "c"], 4, 2, [], ["d"], ["b"], 1.25, ["a", "b", "c", "d"], 0, 0, 0, "")
        >>> state.line()
        'step 27 | 3 of 4 devices: a, b, c | d waits to be admitted | all wait for b (1.2 s)'
        >>> state._replace(members=[], awaited=[]).line()
        'step 27 | 1 of 4 devices: waiting for 1 more (fabric.min_devices = 2) | d waits to be admitted'
        """
        here = len(self.members) or len(self.waiting)
        parts = [f"step {self.step}", f"{here} of {self.seats} devices"]
        if self.members:
            parts[1] += f": {listed(self.members)}"
        elif (missing := self.least - here) > 0:
            parts[1] += f": waiting for {missing} more (fabric.min_devices = {self.least})"
        if self.following:
            parts.append(f"{listed(self.following)} catch{'es' * (len(self.following) == 1)} up")
        if self.waiting:
            parts.append(f"{listed(self.waiting)} wait{'s' * (len(self.waiting) == 1)} to be admitted")
        if self.awaited:
            parts.append(f"all wait for {listed(self.awaited)} ({self.awaited_s:.1f} s)")
        if self.ended_by:
            parts.append(f"the run has ended: {self.ended_by}")
        return " | ".join(parts)


def listed(names: Sequence[str]) -> str:
    """Return names as a list, of very many the first.

    >>> listed(["a", "b"]), listed([str(i) for i in range(12)])
    ('a, b', '0, 1, 2, 3, 4, 5, 6, 7 and 4 more')
    """
    rest = f" and {len(names) - _MOST_NAMED} more" if len(names) > _MOST_NAMED else ""
    return ", ".join(names[:_MOST_NAMED]) + rest
