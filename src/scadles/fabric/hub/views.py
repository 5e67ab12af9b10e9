"""Who takes part in a hub's run, view by view; nothing in here reads from sockets or adds anything up."""

from __future__ import annotations

import json
import secrets
from collections import Counter
from collections.abc import Callable
from threading import RLock
from typing import Any

from scadles.clock import wall_seconds
from scadles.fabric.hub.collectives import Collective
from scadles.fabric.hub.connection import Connection
from scadles.fabric.hub.frames import FrameError
from scadles.fabric.hub.handover import HandOver
from scadles.fabric.hub.journal import Journal
from scadles.fabric.hub.members import Member, Pulse, checked_name

_PATIENCE_S = 3.0
_MOST_BEHIND = 1 << 27
_MOST_SAID_BYTES = 1 << 17


class Views:
    """The devices of a hub, and which of them take part.

    A *view* is a set of devices that take part; it has a number, and a new one begins whenever somebody is lost, or is
    admitted after a step. What belongs to an older view than the present one is let go. A device that comes while
    others take steps *follows* first: with the view that lets it follow it is given the state of one of them, and
    from there on what comes of every collective, so that it takes the same steps without bringing anything, and nobody
    waits for it. Once it is near, the next view has it among its members.

    Every method is called with the lock held.

    Args:
        seats: how many devices there may be.
        least: how many must be there for a step.
        journal: keeps what must outlive this process.
        mark: of the settings of the run.
        say: told one line about whoever comes or goes.

    Attributes:
        lock: guards all of this.
        seats, least: as given.
        number: of the present view.
        here: seats of those that take part.
        following: seats of those that follow.
        members: all devices that are connected, by seat.
        names: the seats of all that have ever had one.
        lost: names of those that have not said goodbye.
        collectives: of the present view, by sequence.
        handovers: states on their way, by the view with which that began.
        since_s: when the last of those that took part was lost.
        step: that is being taken now; None before the first.
        is_agreed: whether the devices of this view have said that it is this step, or nobody can mean another one.
        ended_by: why the run ended, as the first device said that came to its end; empty before.
        closed: whether the hub closes, and nobody needs to hear of anything more.
        received, sent: bytes of connections that have ended.
    """

    def __init__(self, seats: int, least: int, journal: Journal, mark: str, say: Callable[[str], None]) -> None:
        self.lock = RLock()
        self.least = least
        self.number = 0
        self.here: tuple[int, ...] = ()
        self.following: tuple[int, ...] = ()
        self.members: dict[int, Member] = {}
        self.names: dict[str, int] = dict(journal.seats)
        self.lost = set(self.names) - journal.left
        self.collectives: dict[int, Collective] = {}
        self.handovers: dict[int, HandOver] = {}
        self.since_s = wall_seconds()
        self.step: int | None = None
        self.is_agreed = True
        ended_by, ended_mark = journal.ended_by
        self.ended_by = ended_by if ended_mark == mark else ""
        self.closed = False
        self.received = self.sent = 0
        self.seats = seats
        self._journal = journal
        self._mark = mark
        self._say = say
        self._processes: dict[str, object] = {}

    def seat(self, hello: dict[str, Any], connection: Connection) -> Member:
        """Give a device its seat: the one that its name had, or a free one.

        Args:
            hello: what it said.
            connection: over which it did, its control connection.

        Raises:
            FrameError: it cannot take part.
        """
        name, run = checked_name(hello.get("name")), hello.get("run", "")
        if run and self._journal.run and run != self._journal.run:
            raise FrameError("it belongs to another run than this hub's")
        process = hello.get("process")
        if hello.get("again") and self._processes.get(name, process) != process:
            raise FrameError("another process has taken its place under that name")
        if (seat := self.names.get(name)) is None:
            seat = next((free for free in range(self.seats) if free not in self.names.values()), None)
            if seat is None:
                taken = ", ".join(sorted(self.names))
                raise FrameError(f"all {self.seats} seats are taken, by {taken}: set devices higher at the hub")
            self.names[name] = seat
        self._journal.seat(name, seat)
        self._processes[name] = process
        self.lost.add(name)
        if seat in self.members:
            self.lose(self.members[seat], "it has connected anew")
        member = Member(name, seat, secrets.token_hex(16), connection, Pulse(wall_seconds()))
        self.members[seat] = member
        return member

    def ready(self, member: Member, step: int) -> None:
        """Let a device take part as soon as that can be.

        Args:
            member: which.
            step: how far its model has come.
        """
        if member.follows or member.seat in self.here:
            raise FrameError("READY from a device that takes part")
        member.step, member.is_ready = step, True
        self.begin_anew()

    def goodbye(self, member: Member, ended_by: str) -> None:
        """Take note that a device leaves on its own will, because the run has ended if it says so."""
        if not member.is_gone:
            self.lost.discard(member.name)
            self._journal.leave(member.name)
            if not member.has_been_in and self._journal.of(member.name) is None:
                self.names.pop(member.name, None)  # else a device that fails at once would keep a seat
                self._journal.free(member.name)
        if ended_by and not self.ended_by and member.has_state:  # else it has taken part in nothing
            self.ended_by = ended_by
            self._journal.end(ended_by, self._mark)

    def end_of_step(self, sequence: int) -> bool:
        """Whether a collective, which is whole, was the last one of a step; then what came with it counts."""
        noted = [self.members[seat] for seat in self.here if self.members[seat].boundary == sequence]
        notes = [(member.name, *member.note) for member in noted if member.note is not None]
        if notes and not self.is_agreed:
            self._agree_on(Counter(step for _, step, _ in notes).most_common(1)[0][0])
        for name, step, content in notes:
            if step == self.step:
                self._journal.note(name, step, content)
        if notes and self.step is not None:
            self.step += 1
        return bool(noted)

    def may_be_step(self, step: int) -> bool:
        """Whether a device that takes part may begin a step: the next one, or in a new view the last one again.

        Messages of the last one may have been still to come when that view began: only devices know how many it has.
        """
        return step == self.step or (not self.is_agreed and self.step is not None and step == self.step - 1)

    def agree_on_step(self) -> list[Member]:
        """Go by the step that most devices of a new view say they begin; return those that then say another one."""
        if self.is_agreed:
            return []
        noted = [(self.members[seat], note[0]) for seat in self.here if (note := self.members[seat].note) is not None]
        [(step, times)] = Counter(step for _, step in noted).most_common(1)
        if 2 * times <= len(self.here):
            return []
        self._agree_on(step)
        return [member for member, said in noted if said != step]

    def _agree_on(self, step: int) -> None:
        self.step, self.is_agreed = step, True
        self._journal.begun(step)

    @property
    def newest(self) -> int:
        """The newest step that is whole; 0 before the first."""
        return max(0, self._journal.newest)

    @property
    def admits(self) -> bool:
        """Whether somebody is to be let in with the next step that ends."""
        return any(one.is_ready or self._may_count(one) for one in self.members.values())

    def begin_anew(self) -> None:
        """Let those who wait begin, where nobody takes part and enough are there."""
        waiting = [one for one in self.members.values() if one.is_ready]
        if self.here or not waiting or self.closed:
            return
        if self.ended_by:
            for member in (one for one in waiting if one.step < self._journal.newest):
                member.is_ready = False
                self._send(member, {"members": {}, "ended_by": self.ended_by})
            waiting = [one for one in waiting if one.is_ready]
        elif len(waiting) < self.least or self._nobody_can_begin(waiting) or self._somebody_is_further(waiting):
            return
        if waiting:
            self.step = max(one.step for one in waiting) + 1
            self._journal.begun(self.step)
            self.change(admit=True)
            self.is_agreed = True  # all begin with the state of one

    def lose(self, member: Member, why: str) -> None:
        """Go on without a device; what its view had not finished is void."""
        if member.is_gone:
            return
        member.is_gone = True
        self.received += sum(connection.received for connection in member.connections())
        self.sent += sum(connection.sent for connection in member.connections())
        if self.members.get(member.seat) is member:
            del self.members[member.seat]
        for connection in member.connections():
            connection.close()
        member.outbox.put(None)
        if self.closed:
            return
        self._say(f"{member.name} (device {member.seat}) has left: {why}")
        took_part = member.seat in self.here
        self.here = tuple(seat for seat in self.here if seat != member.seat)
        self.following = tuple(seat for seat in self.following if seat != member.seat)
        for handover in [one for one in self.handovers.values() if one.source is member]:
            self.give_up(handover, f"{member.name}, which gave it the state, has left")
        if took_part:
            self.change(admit=False)
        else:
            self.begin_anew()

    def give_up(self, handover: HandOver, why: str) -> None:
        """Let those begin anew that were to get a state."""
        if self.handovers.pop(handover.view, None) is not None:
            for receiver in handover.receivers:
                self.lose(receiver, why)

    def handed_over(self, handover: HandOver) -> None:
        """Take note that all of a state has come."""
        self.handovers.pop(handover.view, None)
        for receiver in handover.receivers:
            receiver.has_state = True

    def change(self, *, admit: bool) -> None:
        """Let a new view begin: with those who follow and are near, and those who wait, where it is time to admit.

        Where too few are left, or nobody who has the state, it has no members.
        """
        new = sorted(seat for seat, one in self.members.items() if one.is_ready) if admit else []
        near = [seat for seat in self.following if self._may_count(self.members[seat])] if admit else []
        settled = [seat for seat in self.here if self.members[seat].has_state]
        self.number += 1
        self.is_agreed = False
        self.collectives.clear()
        for member in self.members.values():
            member.boundary, member.note, member.relayed = -1, None, (0, 0)
        if self.here or not new:
            too_few = len(self.here) + len(near) < self.least and not self.ended_by
            if too_few or not settled:
                self._stand_still()
                return
        self._admit(new, near, settled)

    def _admit(self, new: list[int], near: list[int], settled: list[int]) -> None:
        begins = not self.here
        source = settled[0] if settled else max(new, key=lambda seat: (self.members[seat].step, -seat))
        self.here = tuple(sorted([*self.here, *near, *(new if begins else [])]))
        self.following = tuple(sorted({*self.following, *([] if begins else new)} - set(near)))
        for seat in (*near, *new):
            member = self.members[seat]
            member.is_ready = member.is_near = False
            member.follows, member.has_been_in = seat in self.following, True
        for seat in new:
            self.members[seat].has_state = seat == source
        receivers = [seat for seat in new if seat != source]
        if receivers:
            handed = HandOver(self.number, self.members[source], [self.members[seat] for seat in receivers])
            self.handovers[self.number] = handed
        names, away = {str(seat): self.members[seat].name for seat in self.here}, self._said_by_absent()
        for seat in (*self.here, *self.following):
            member = self.members[seat]
            said = self._journal.of(member.name) if seat in new else None
            note = said[1] if said is not None else None
            content = {"members": names, "source": source, "receivers": receivers, "note": note, "away": away}
            self._send(member, content)
            if seat in receivers:
                member.outbox.put(handed)
        for seat in (*near, *(new if begins else [])):
            if not self.members[seat].is_told:
                self.members[seat].is_told = True
                self._say(f"{self.members[seat].name} (device {seat}) takes part")

    def _said_by_absent(self) -> dict[str, Any]:
        """Return the last words that count of devices that are not here, by seat, of very many the latest."""
        said: dict[str, Any] = {}
        size = 0
        absent = (name for name, seat in self.names.items() if seat not in (*self.here, *self.following))
        noted = ((self._journal.of(name), name) for name in absent)
        for note, name in sorted(((note, name) for note, name in noted if note), key=lambda one: -one[0][0]):
            size += len(json.dumps(note[1]))
            if size > _MOST_SAID_BYTES:
                break
            said[str(self.names[name])] = note[1]
        return said

    def _stand_still(self) -> None:
        """Let nobody take part: whoever did, or follows, says anew how far it has come."""
        stayed = (*self.here, *self.following)
        self.here, self.following, self.since_s = (), (), wall_seconds()
        for seat in stayed:
            self.members[seat].follows = self.members[seat].is_near = False
            self._send(self.members[seat], {"members": {}, "wanted": max(0, self.least - len(stayed))})
        for handover in list(self.handovers.values()):
            self.give_up(handover, "the others wait for more devices, and nobody gives it the state meanwhile")
        self.begin_anew()

    def _may_count(self, member: Member) -> bool:
        """Whether one that follows is near, or would take too much memory if it followed for longer."""
        return member.follows and ((member.is_near and member.has_state) or member.outbox.bytes > _MOST_BEHIND)

    def _nobody_can_begin(self, waiting: list[Member]) -> bool:
        """Whether none of those who wait has values that a run can begin with."""
        return all(one.step < 0 for one in waiting)

    def _somebody_is_further(self, waiting: list[Member]) -> bool:
        """Whether to wait a little for a device that has taken steps which none of those who wait has."""
        if max(one.step for one in waiting) >= self._journal.newest:
            return False
        missing = self._journal.took_the_newest().intersection(self.lost) - {one.name for one in waiting}
        return bool(missing) and wall_seconds() - self.since_s < _PATIENCE_S

    def _send(self, member: Member, content: dict[str, Any]) -> None:
        member.outbox.put({"view": self.number, **content})
