"""What a hub says of the run and of who takes part, looked at before a device goes by it."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

from scadles.fabric.contract import View
from scadles.fabric.hub.frames import FalseFrameError
from scadles.fabric.hub.members import is_name

_MOST_SEATS = 1_000_000
_MOST_NUMBER = 2**63 - 1
_MOST_TEXT = 256


def checked_welcome(answer: dict[str, Any]) -> dict[str, Any]:
    """Return what a hub answers a device that it lets in.

    Raises:
        FalseFrameError: it lacks something, or something in it is of another kind.
    """
    seats = answer.get("seats")
    if not _is_number(seats, _MOST_SEATS) or not _is_number(answer.get("seat"), (seats or 0) - 1):
        raise FalseFrameError("the hub gives this device a number that cannot be")
    for part in ("session", "run"):
        if not _is_text(answer.get(part)):
            raise FalseFrameError(f"the hub says no {part} that can be")
    if not isinstance(answer.get("settings"), dict):
        raise FalseFrameError("the hub says no settings")
    if "lifetime" in answer:
        checked_lifetime(answer["lifetime"])
    return answer


def checked_lifetime(said: Any) -> dict[str, Any]:
    """Return what a hub says of a certificate's life, as :meth:`.Guard.lifetime` has it.

    Raises:
        FalseFrameError: it lacks something, or something in it is no number.
    """
    numbers = [said.get(name) for name in ("life_s", "left_s")] if isinstance(said, dict) else [None]
    if not all(isinstance(number, int | float) and math.isfinite(number) for number in numbers):
        raise FalseFrameError("the hub says of the certificate's life what cannot be")
    return dict(said)


def view_of(content: dict[str, Any]) -> View:
    """Return the view that a hub tells of.

    Raises:
        FalseFrameError: it lacks something, or something in it is of another kind.
    """
    members = _by_seat(content.get("members"), is_name)
    source, receivers, note = content.get("source"), content.get("receivers", []), content.get("note")
    if not _is_number(content.get("view"), _MOST_NUMBER) or not (source is None or _is_number(source, _MOST_SEATS)):
        raise FalseFrameError("a view without its number, or with a source that cannot be")
    if not isinstance(receivers, list) or not all(_is_number(seat, _MOST_SEATS) for seat in receivers):
        raise FalseFrameError("a view with receivers that cannot be")
    if note is not None and not _is_note(note):
        raise FalseFrameError("a view with a note that is none")
    if not _is_number(content.get("wanted", 0), _MOST_SEATS) or not isinstance(content.get("ended_by", ""), str):
        raise FalseFrameError("a view that says of the run what cannot be")
    away = _by_seat(content.get("away", {}), _is_note)
    return View(content["view"], members, source, tuple(receivers), note, away)


def _by_seat(said: Any, fits: Callable[[Any], bool]) -> Mapping[int, Any]:
    """Return what is said of each seat, in JSON by its digits."""
    if not isinstance(said, dict):
        raise FalseFrameError("a view without its members")
    for seat, value in said.items():
        if not (seat.isascii() and seat.isdecimal() and len(seat) < 8 and fits(value)):
            raise FalseFrameError("a view with members that cannot be")
    return {int(seat): value for seat, value in said.items()}


def _is_note(note: Any) -> bool:
    return isinstance(note, dict) and _is_number(note.get("step"), _MOST_NUMBER)


def _is_number(value: Any, most: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= most


def _is_text(value: Any) -> bool:
    return isinstance(value, str) and len(value) <= _MOST_TEXT and value.isprintable()
