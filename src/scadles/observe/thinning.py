"""A file of events that never grows beyond a size: what is new is kept whole, of what is old ever less.

Where the file has reached two thirds of its bound it is written anew, to about one third of it, so that old and new
file together stay within the bound:

- Its newest part, a sixth of the bound, stays as it is.
- Of the steps before it, those are kept that a power of two divides, the smallest that makes the rest fit.
- Of each other kind of event before it (tests, checkpoints, rejections, notices) all are kept where they take no more
  than half of the room that is left; otherwise every second one, fourth one, and so on.
- The header stays, where the first values came from, and resumptions: all that say when a device was away, and of the
  others the newest, five hundred at the most. What a resumption made void goes.

A :class:`~scadles.observe.events.Thinned` says what was removed, and sums it up, so that no reader takes it for a gap.
The new file takes the old one's place at once: a crash leaves the one or the other.
"""

from __future__ import annotations

import os
import re
from array import array
from collections import Counter
from contextlib import suppress
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import numpy as np
from pydantic import TypeAdapter, ValidationError

from scadles.files import open_file, sync
from scadles.observe.events import Thinned
from scadles.observe.gaps import Scan, last_kept, read_lines

_MOST_RESUMED = 500
_MOST_MISSING = 500
_MOST_REASONS = 16
_OTHERS = "other reasons"
_MOST = 2**53
# a step as Event.to_json writes it, which need not be parsed as a whole
_STEP = re.compile(rb'\{"event":"step","step":(\d{1,15}),"time_s":([\d.e+-]{1,30}),"batch":(\d{1,15}),.*\}\n')
_NOTHING_YET = Thinned(step=0, time_s=0.0, every=1, trained=0)


class _Line(NamedTuple):
    """What is known of one line: a kind, a step, an amount and a reason; empty where it has none.

    The amount is what it counts (samples), of a resumption the last step of which it leaves what stands before it.
    """

    kind: str
    step: int = 0
    time_s: float = 0.0
    amount: int = 0
    reason: str = ""


class _Lines:
    """What is known of every line of a file, an entry for each.

    Attributes:
        kinds, reasons: names, of which ``kind`` and ``reason`` are the numbers.
        scan: what is missing.
        before: what an earlier thinning says, as far as no resumption took it back.
    """

    def __init__(self, path: Path) -> None:
        self.kinds: dict[str, int] = {}
        self.reasons: dict[str, int] = {}
        self.scan = Scan(path)
        self.before = _NOTHING_YET
        columns = kind, step, size, amount, reason = tuple(array("q") for _ in range(5))
        times, resumed = array("d"), list[tuple[int, int]]()
        with open_file(path) as file:
            for number, text in enumerate(read_lines(file)):
                line = self._read(number, text)
                kind.append(self.kinds.setdefault(line.kind, len(self.kinds)))
                step.append(min(line.step, _MOST))
                size.append(len(text))
                amount.append(min(line.amount, _MOST))
                reason.append(self.reasons.setdefault(line.reason, len(self.reasons)))
                times.append(line.time_s)
                if line.kind == "resumed":
                    resumed.append((number, line.amount))
                    self.before = self.before.up_to(line.amount) if line.amount else _NOTHING_YET
        self.kind, self.step, self.size, self.amount, self.reason = (np.array(column) for column in columns)
        self.time_s = np.nan_to_num(np.array(times), posinf=0.0)
        self.void = np.zeros(len(kind), dtype=bool)
        for number, at in resumed:
            self.void[:number] |= (self.step[:number] > at) | (at == 0)
        self.void &= ~self.of("header")

    def of(self, kind: str) -> np.ndarray:
        """Return which lines are of a kind, bool."""
        return np.asarray(self.kind == self.kinds.get(kind, -1), dtype=bool)

    def _read(self, number: int, text: bytes) -> _Line:
        if found := _STEP.fullmatch(text):
            step = int(found[1])
            self.scan.take_step(step)
            return _Line("step", step, _number(found[2]), int(found[3]))
        event = self.scan.take(number + 1, text)
        kind = event.get("event", "")
        if kind == "thinned":
            self.before = _parsed(event) or self.before
        amount = event.get({"step": "batch", "rejection": "count"}.get(kind, ""), 0)
        if kind == "resumed":
            amount = last_kept(event)
        reason = str(event.get("reason", "")) if kind == "rejection" else ""
        time_s = event.get("time_s")
        return _Line(
            kind,
            event.get("step", 0),
            float(time_s) if isinstance(time_s, float) else 0.0,
            amount if type(amount) is int else 0,
            reason,
        )


class _Choice(NamedTuple):
    """What becomes of every line, bool each: kept in its place, or put before the record of what was removed.

    Attributes:
        every: of the old steps, those remain that it divides.
        cut: the last old step.
    """

    stays: np.ndarray
    first: np.ndarray
    every: int
    cut: int


def due(size: int, most_bytes: int) -> bool:
    """Return whether a file of ``size`` bytes has to be thinned to stay within ``most_bytes``."""
    return size > 2 * most_bytes // 3


def temporary_path(path: Path) -> Path:
    """Return where the new file is written; what a crash leaves there means nothing."""
    return path.with_name(f"{path.name}.tmp")


def thin(path: Path, most_bytes: int) -> None:
    """Write a file of events anew, to about a third of ``most_bytes``.

    Raises:
        OSError: it cannot be read or written; it is then as it was.
    """
    lines = _Lines(path)
    choice = _choose(lines, most_bytes // 3)
    record = _record(lines, choice).to_json().encode() + b"\n"
    temporary = temporary_path(path)
    try:
        with temporary.open("wb") as new:
            _copy(path, choice.first, new)
            new.write(record)
            _copy(path, choice.stays, new)
            new.flush()
            os.fsync(new.fileno())
        temporary.replace(path)
    except BaseException:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)
        raise
    sync(path.parent)


def _copy(path: Path, chosen: np.ndarray, to: BinaryIO) -> None:
    with open_file(path) as file:
        for is_chosen, line in zip(chosen[: _end(chosen)].tolist(), read_lines(file), strict=False):
            if is_chosen:
                to.write(line)


def _end(chosen: np.ndarray) -> int:
    """Return the number of the line behind the last chosen one."""
    return int(np.flatnonzero(chosen)[-1]) + 1 if chosen.any() else 0


def _choose(lines: _Lines, most_bytes: int) -> _Choice:
    first, resumed, is_step = _beginning(lines), lines.of("resumed"), lines.of("step")
    stays = ~lines.void & ~first & ~lines.of("header") & ~resumed & ~lines.of("thinned")
    from_end = np.cumsum((lines.size * stays)[::-1])[::-1]
    before_new = stays & (from_end > most_bytes // 2)
    cut = max(int(lines.step[before_new].max(initial=0)), lines.before.step)
    old = stays & (lines.step <= cut)
    # resumptions among what is old go before the record: they take back nothing of what it says
    begins = int(np.argmax(stays & ~old)) if (stays & ~old).any() else len(stays)
    first[_resumptions(lines, np.flatnonzero(resumed[:begins]))] = True
    stays[begins:] |= resumed[begins:]
    room = most_bytes - int(lines.size[first | (stays & ~old)].sum())
    room -= _choose_others(lines, stays, old & ~is_step, room // 2)
    every, steps = lines.before.every, old & is_step
    while every <= cut and int(lines.size[steps & (lines.step % every == 0)].sum()) > room:
        every *= 2
    stays &= ~steps | (lines.step % every == 0)
    return _Choice(stays, first, every, cut)


def _beginning(lines: _Lines) -> np.ndarray:
    """Return which lines say what the run began with, bool."""
    begins = lines.of("header")
    begins[np.flatnonzero(lines.of("initial_values") & ~lines.void)[:1]] = True
    return begins


def _resumptions(lines: _Lines, numbers: np.ndarray) -> np.ndarray:
    """Return which of some resumptions are kept: those first that say when the device was away, then the newest."""
    away = ~lines.void[numbers] & (lines.amount[numbers] < lines.step[numbers])
    return np.asarray(numbers[np.argsort(away, kind="stable")][-_MOST_RESUMED:])


def _choose_others(lines: _Lines, stays: np.ndarray, others: np.ndarray, room: int) -> int:
    """Take out of ``stays`` what does not fit of events that are no steps; return the bytes of the rest."""
    whole = max(1, int(lines.size[others].sum()))
    for kind in lines.kinds.values():
        here, apart = np.flatnonzero(others & (lines.kind == kind)), 1
        share = max(0, room) * int(lines.size[here].sum()) // whole
        while int(lines.size[here[::apart]].sum()) > share and apart < len(here):
            apart *= 2
        stays[here] = False
        if int(lines.size[here[::apart]].sum()) <= share:
            stays[here[::apart]] = True
    return int(lines.size[others & stays].sum())


def _record(lines: _Lines, choice: _Choice) -> Thinned:
    """Return what is said of the lines that go, with what an earlier record says."""
    before, cut = lines.before, choice.cut
    gone = ~choice.stays & ~choice.first & ~lines.void & ~lines.of("thinned")
    missing = [(first, min(last, cut)) for first, last in lines.scan.lacking(cut) if first <= cut]
    record = Thinned(
        step=cut,
        time_s=float(lines.time_s[~lines.void & (lines.step <= cut)].max(initial=0.0)),
        every=choice.every,
        trained=None,
        missing=tuple(missing if len(missing) <= _MOST_MISSING else [(missing[0][0], missing[-1][1])]),
    )
    if before.trained is None:
        return record
    removed, rejected = Counter(before.removed), Counter(before.rejected)
    for name, kind in lines.kinds.items():
        removed[name or "no event"] += int((gone & (lines.kind == kind)).sum())
    for name, reason in lines.reasons.items():
        count = int(lines.amount[gone & lines.of("rejection") & (lines.reason == reason)].sum())
        if count:
            rejected[name if name in rejected or len(rejected) < _MOST_REASONS else _OTHERS] += count
    trained = before.trained + int(lines.amount[gone & lines.of("step")].sum())
    return replace(record, trained=trained, removed=dict(+removed), rejected=dict(rejected))


def _parsed(event: dict[str, Any]) -> Thinned | None:
    try:
        found = _adapter().validate_python({name: value for name, value in event.items() if name != "event"})
    except ValidationError:
        return None
    return found if found.every > 0 else None


def _number(text: bytes) -> float:
    try:
        return float(text)
    except ValueError:
        return 0.0


@cache
def _adapter() -> TypeAdapter[Thinned]:
    return TypeAdapter(Thinned)
