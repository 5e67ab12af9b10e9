"""What a hub can say of its run at any moment."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from scadles.fabric.hub.views import Views

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
        elif not self.ended_by and (missing := self.least - here) > 0:
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


def state_of(views: Views, idle_s: Mapping[int, float], refused: int) -> HubState:
    """Return how things are; called with the lock of the views held.

    Args:
        views: who is there.
        idle_s: for how long others have waited for each device while nothing moved, by seat.
        refused: connections that were turned away.
    """
    first = views.collectives.get(min(views.collectives, default=0))
    awaited = [seat for seat in sorted(first.awaited()) if seat in views.members] if first is not None else []
    members = [one for _, one in sorted(views.members.items())]
    connections = [one for member in members for one in member.connections()]
    return HubState(
        step=views.newest,
        members=[views.members[seat].name for seat in views.here],
        seats=views.seats,
        least=views.least,
        following=[views.members[seat].name for seat in views.following],
        waiting=[one.name for one in members if one.is_ready],
        awaited=[views.members[seat].name for seat in awaited],
        awaited_s=max((idle_s.get(seat, 0.0) for seat in awaited), default=0.0),
        known=sorted(views.names, key=views.names.__getitem__),
        refused=refused,
        received=views.received + sum(one.received for one in connections),
        sent=views.sent + sum(one.sent for one in connections),
        ended_by=views.ended_by,
    )


def listed(names: Sequence[str]) -> str:
    """Return names as a list, of very many the first.

    >>> listed(["a", "b"]), listed([str(i) for i in range(12)])
    ('a, b', '0, 1, 2, 3, 4, 5, 6, 7 and 4 more')
    """
    rest = f" and {len(names) - _MOST_NAMED} more" if len(names) > _MOST_NAMED else ""
    return ", ".join(names[:_MOST_NAMED]) + rest
