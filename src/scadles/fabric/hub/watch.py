"""Devices that are silent, for which others wait in vain, or that stop giving their state: they are done without."""

from __future__ import annotations

from scadles.fabric.hub.handover import HandOver
from scadles.fabric.hub.views import Views


class Watch:
    """Looks after the devices of a hub now and then; called with the lock of its views held.

    Args:
        views: who is there.
        deadline_s: how long a device for which others wait may send nothing and gather nothing, and how long nothing
            may come of a state that is given to others.

    Attributes:
        idle_s: for how long others have waited for each device while nothing moved, by seat.
    """

    def __init__(self, views: Views, deadline_s: float) -> None:
        self.idle_s: dict[int, float] = {}
        self._views = views
        self._deadline_s = deadline_s
        self._moved: dict[HandOver, tuple[int, float]] = {}

    def look(self, now_s: float) -> None:
        """Lose whoever must be taken to be gone.

        Args:
            now_s: monotonic seconds.
        """
        members = self._views.members
        silent = [one for one in members.values() if one.is_silent(now_s)]
        awaited = {seat for one in self._views.collectives.values() for seat in one.awaited()}
        idle_s = {one: one.hangs_s(now_s, is_awaited=seat in awaited) for seat, one in members.items()}
        self.idle_s = {one.seat: seconds for one, seconds in idle_s.items()}
        for member in silent:
            self._views.lose(member, f"silent for {member.pulse.silent_s(now_s):.1f} s")
        for member in (one for one, seconds in idle_s.items() if seconds > self._deadline_s):
            why = f"alive, but nothing has moved for {self._deadline_s:g} s while others wait for it"
            self._views.lose(member, why)
        self._look_at_states(now_s)

    def _look_at_states(self, now_s: float) -> None:
        """Give up states of which nothing has come for too long."""
        before, self._moved = self._moved, {}
        for handover in list(self._views.handovers.values()):
            moved, at_s = before.get(handover, (-1, now_s))
            self._moved[handover] = (handover.moved, at_s if handover.moved == moved else now_s)
            if now_s - self._moved[handover][1] > self._deadline_s:
                why = f"of the state that {handover.source.name} gives nothing has come for {self._deadline_s:g} s"
                self._views.give_up(handover, why)
