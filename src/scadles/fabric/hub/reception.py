"""Who is welcome at a hub: what a hello asks for, and whether whoever says it may have that."""

from __future__ import annotations

import hmac
from typing import Any

from scadles.clock import wall_seconds
from scadles.fabric.hub.connection import BusyError, Connection
from scadles.fabric.hub.frames import FrameError, Kind
from scadles.fabric.hub.handover import HandOver
from scadles.fabric.hub.members import Member, checked_name
from scadles.fabric.hub.views import Views
from scadles.security import Authenticator, Identity, Limits, Rate

#: Sessions of one name: whoever comes and goes has all others take a step again.
_SESSIONS = Rate(hz=0.5, burst=32)


class Reception:
    """Answers hellos.

    Args:
        views: who is there.
        told: what every device hears of the run.
        guard: judges certificates; None lets in whoever comes.
    """

    def __init__(self, views: Views, told: dict[str, Any], guard: Authenticator | None) -> None:
        self._views = views
        self._told = told
        self._guard = guard
        self._sessions = Limits(_SESSIONS)

    def answer(self, connection: Connection, hello: dict[str, Any]) -> Member | HandOver | None:
        """Answer a hello; return for whom, or for which state, the connection is; None where all is said.

        Raises:
            ScadlesError: whoever says it is refused.
            BusyError: for now.
            ClosedError: the connection has broken.
        """
        role = hello.get("role")
        identity = None
        if self._guard is not None:
            if role == "enrol":
                checked_name(hello.get("name"))
            if (said := self._guard.answer(hello, connection.certificate)) is not None:
                connection.send_text(Kind.WELCOME, said)
                return None
            identity = self._guard.identify(connection.certificate)
        with self._views.lock:
            if role == "control":
                return self._begin_session(connection, hello, identity)
            sessions = (one for one in self._views.members.values() if _same(one.session, hello.get("session")))
            member = next(sessions, None)
            if member is None or role not in ("up", "down", "give"):
                raise FrameError("a second connection of no device that is here")
            _check_name(identity, member.name)
            if role == "give":
                return self._begin_hand_over(member, connection, hello)
            if getattr(member, role) is not None:
                raise FrameError(f"{member.name} has its connection for what goes {role} already")
            setattr(member, role, connection)
            connection.send_text(Kind.WELCOME, {})
            return member

    def _begin_session(self, connection: Connection, hello: dict[str, Any], identity: Identity | None) -> Member:
        name = checked_name(hello.get("name"))
        _check_name(identity, name)
        if not self._sessions.take(name, wall_seconds()):
            raise BusyError(f"{name} comes and goes too often: it is let in every {1 / _SESSIONS.hz:g} s")
        member = self._views.seat(hello, connection)
        welcome = {"seat": member.seat, "seats": self._views.seats, "session": member.session}
        if self._guard is not None and identity is not None:
            welcome["lifetime"] = self._guard.lifetime(identity.expires)
        connection.send_text(Kind.WELCOME, welcome | self._told)
        return member

    def _begin_hand_over(self, member: Member, connection: Connection, hello: dict[str, Any]) -> HandOver | None:
        handover = self._views.handovers.get(hello.get("view", 0))
        connection.send_text(Kind.WELCOME, {})
        if handover is None or handover.source is not member or handover.is_begun:  # whoever waited for it is lost
            return None
        handover.is_begun = True
        return handover


def _check_name(identity: Identity | None, name: object) -> None:
    """Refuse a device that calls itself something else than its certificate does."""
    if identity is not None and name not in identity.names:
        raise FrameError(f"its certificate is for the name {identity.name}, and it says that it is {name}")


def _same(secret: str, given: object) -> bool:
    return isinstance(given, str) and hmac.compare_digest(secret.encode(), given.encode(errors="replace"))
